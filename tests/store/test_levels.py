import numpy as np
import pytest

from pd_lightning.store.levels import WIDEST_STEP, from_levels, highest_level, to_levels


@pytest.mark.parametrize("step", [2.0**-14, 0.004, 2.0**-5])
def test_a_log_prob_is_at_most_half_a_step_off(step):
    logprobs = np.concatenate((-np.logspace(-6, 2, 2000), [0.0]))
    got = from_levels(to_levels(logprobs, step), step)
    width = np.minimum(step / np.exp(np.maximum(logprobs, got) / 2), WIDEST_STEP)
    # Steps grow a little from one to the next, and the last is cut off at 0.
    assert np.all(np.abs(got - logprobs) <= 0.55 * width + 1e-12)
    assert np.all(np.diff(to_levels(np.sort(logprobs), step)) >= 0)


@pytest.mark.parametrize("step", [2.0**-14, 0.004, 2.0**-5])
def test_the_ends_of_the_range(step):
    levels = to_levels(np.array([-np.inf, -1e30, -100.0, 0.0]), step)
    assert levels.tolist() == [0, 1, 1, highest_level(step)]
    np.testing.assert_allclose(from_levels(levels, step), [-np.inf, -100, -100, 0], atol=step / 2)
    np.testing.assert_array_equal(
        to_levels(from_levels(np.arange(highest_level(step)), step), step), np.arange(highest_level(step))
    )


def test_all_levels_cost_the_same_divergence():
    """p·d²/2, averaged over an error d uniform within the step: s²/24, whatever p."""
    step = 0.01
    for p in (0.9, 0.3, 0.01):
        around = np.log(p) + np.linspace(-0.02, 0.02, 20_001) / np.sqrt(p)
        error = from_levels(to_levels(around, step), step) - around
        assert p * np.mean(error**2) / 2 == pytest.approx(step**2 / 24, rel=0.06)
