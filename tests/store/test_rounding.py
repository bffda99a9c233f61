import numpy as np
import pytest

from pd_lightning.store.rounding import RoundingError, divergence, restore_mass


def test_divergence_is_that_of_the_formula():
    p, q = np.array([0.5, 0.3, 0.2]), np.array([0.4, 0.4, 0.2])
    expected = sum(a * np.log(a / b) for a, b in zip(p, q, strict=True))
    assert divergence(np.log(p), np.log(q)) == pytest.approx(expected, abs=1e-12)
    assert divergence(np.log(p), np.log(p)) == 0
    assert divergence(np.array([0.0, -np.inf]), np.array([0.0, -np.inf])) == 0
    assert divergence(np.log(p[:1]), np.log(q[:1])) > 0, "of a part it is above zero too"


def test_errors_add_up():
    error = RoundingError()
    error.add(np.log([0.5, 0.5]), np.log([0.4, 0.6]))
    error.add(np.array([-np.inf, -200.0]), np.array([-np.inf, -100.0]))
    assert error.kl == pytest.approx(0.5 * np.log(0.5 / 0.4) + 0.5 * np.log(0.5 / 0.6))
    assert error.logprob == pytest.approx(np.log(0.5 / 0.4)), "nobody minds an error at a probability of e^-200"


def test_mass_is_restored_position_by_position():
    logprobs = np.log(np.array([0.5, 0.2, 0.4, 0.9]))
    counts = np.array([2, 0, 1, 1])
    log_tail = np.array([np.log(0.25), 0.0, np.log(0.5), -np.inf])
    got = restore_mass(logprobs, counts, log_tail)
    np.testing.assert_allclose(np.exp(got), [0.5 / 0.7 * 0.75, 0.2 / 0.7 * 0.75, 0.5, 1.0])


def test_what_has_no_shift_stays_as_it_is():
    logprobs = np.array([-np.inf, -np.inf, -20.0])
    np.testing.assert_array_equal(restore_mass(logprobs, np.array([2, 1]), np.zeros(2)), logprobs)
    assert restore_mass(np.zeros(0), np.zeros(3, dtype=int), np.zeros(3)).size == 0
