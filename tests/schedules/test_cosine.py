from collections.abc import Callable

import numpy as np
import pytest

from pd_lightning.schedules import Cosine


@pytest.mark.parametrize(("warmup", "steps"), [(0.0, 0), (0.2, 20), (2, 2)])
def test_cosine_warms_up_and_comes_down_to_the_floor(values: Callable, warmup: float, steps: int) -> None:
    found = values(Cosine(peak=1.0, warmup=warmup, floor=0.1), 100)
    rise = np.arange(1, steps + 1) / max(steps, 1)
    fall = 0.55 + 0.45 * np.cos(np.pi * np.arange(100 - steps) / (100 - steps))
    np.testing.assert_allclose(found, np.concatenate([rise, fall]), atol=1e-12)
    assert Cosine(peak=1.0, warmup=warmup, floor=0.1)(100, 100) == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"floor": 2.0}, "floor must not exceed peak, got 2.0 > 1.0. Lower init_args.floor."),
        ({"warmup": -1}, "warmup must be at least 0, got -1. Set init_args.warmup"),
        ({"warmup": float("nan")}, "warmup must be at least 0, got nan"),
    ],
)
def test_bad_settings_are_named(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Cosine(1.0, **settings)
