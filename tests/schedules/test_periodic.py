from collections.abc import Callable

import numpy as np
import pytest

from pd_lightning.schedules import Periodic

# One period of eight steps from 0 to 1.
EIGHT = {
    "triangle": [0, 0.25, 0.5, 0.75, 1, 0.75, 0.5, 0.25],
    "cosine": (1 - np.cos(2 * np.pi * np.arange(8) / 8)) / 2,
    "square": [0, 0, 0, 0, 1, 1, 1, 1],
    "sawtooth": np.arange(8) / 7,
}


@pytest.mark.parametrize("shape", EIGHT)
@pytest.mark.parametrize("period", [8, 0.2])
def test_the_same_wave_again_and_again(values: Callable, shape: str, period: float) -> None:
    found = values(Periodic(1.0, 4.0, period, shape), 40)  # type: ignore[arg-type]
    np.testing.assert_allclose(found, np.tile(1.0 + 3.0 * np.asarray(EIGHT[shape]), 5), atol=1e-12)


@pytest.mark.parametrize("shape", EIGHT)
def test_a_period_that_the_run_cuts_off(values: Callable, shape: str) -> None:
    found = values(Periodic(0.0, 1.0, 8, shape), 11)  # type: ignore[arg-type]
    np.testing.assert_allclose(found[8:], EIGHT[shape][:3], atol=1e-12)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Periodic(1.0, 1.0), "low must be below high, got 1.0 and 1.0. Lower init_args.low"),
        (lambda: Periodic(0.0, 1.0, period=-3), "period must be at least 0, got -3"),
        (lambda: Periodic(0.0, 1.0, period=1)(0, 10), "two steps at least, got period 1 of 10 steps"),
        (lambda: Periodic(0.0, 1.0, period=0.1)(0, 10), "got period 0.1 of 10 steps. Set init_args.period"),
    ],
)
def test_bad_settings_are_named(make: Callable, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
