from collections.abc import Callable

import numpy as np
import pytest

from pd_lightning.schedules import WSD

FALLS = {
    "linear": lambda progress: 1 - progress,
    "cosine": lambda progress: (1 + np.cos(np.pi * progress)) / 2,
    "sqrt": lambda progress: 1 - np.sqrt(progress),
}


@pytest.mark.parametrize("shape", FALLS)
@pytest.mark.parametrize("floor", [0.0, 0.5])
@pytest.mark.parametrize(("warmup", "decay"), [(0.2, 0.4), (20, 40), (20, 0.4), (0.0, 0.0), (0.5, 0.5)])
def test_a_rise_a_plateau_and_a_fall(values: Callable, shape: str, floor: float, warmup: float, decay: float) -> None:
    up, down = (int(length * 100) if length < 1 else length for length in (warmup, decay))
    rise = 2.0 * np.arange(1, up + 1) / max(up, 1)
    fall = floor + (2.0 - floor) * FALLS[shape](np.arange(down) / max(down, 1))
    expected = np.concatenate([rise, np.full(100 - up - down, 2.0), fall])
    schedule = WSD(2.0, warmup, decay, floor, shape)  # type: ignore[arg-type]
    np.testing.assert_allclose(values(schedule, 100), expected, atol=1e-12)
    if down:
        assert schedule(100, 100) == pytest.approx(floor)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: WSD(1.0, warmup=0.7, decay=0.7), "parts of a WSD schedule must fit into the run, got warmup 0.7"),
        (lambda: WSD(1.0, warmup=8, decay=8)(0, 10), "8 warm-up and 8 decay steps in 10. Lower init_args.warmup"),
        (lambda: WSD(1.0, warmup=-1), "warmup must be at least 0, got -1"),
        (lambda: WSD(1.0, decay=-0.5), "decay must be at least 0, got -0.5"),
        (lambda: WSD(1.0, floor=2.0), "floor must not exceed peak, got 2.0 > 1.0"),
    ],
)
def test_bad_settings_are_named(make: Callable, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
