import math
from collections.abc import Callable

import numpy as np
import pytest

from pd_lightning.schedules import (
    WSD,
    Constant,
    Cosine,
    Linear,
    OneMinus,
    Part,
    Periodic,
    Piecewise,
    Schedule,
    grid,
)
from pd_lightning.schedules.base import check_range

ALL = [
    Constant(0.9),
    Linear(0.0, 1.0),
    Cosine(1.0, warmup=5),
    WSD(0.9, shape="sqrt"),
    OneMinus(WSD(0.9)),
    Periodic(0.0, 1.0, 7, "sawtooth"),
    Piecewise({"a": Part(Linear(0.0, 1.0), 0.3), "b": Part(Periodic(0.0, 1.0, 0.2))}),
]
KEY = "model.kd_weight"


@pytest.mark.parametrize("schedule", ALL, ids=lambda schedule: type(schedule).__name__)
def test_a_value_does_not_depend_on_what_was_asked_before(values: Callable, schedule: Schedule) -> None:
    whole = values(schedule, 50)
    resumed = [schedule(step, 50) for step in (*range(40, 50), *range(40))]
    assert resumed == [*whole[40:], *whole[:40]]
    assert np.isfinite(whole).all()


@pytest.mark.parametrize("total", [1, 2, 1000, 100_000, 100_001, 1_234_567])
def test_the_grid_holds_both_ends_of_a_run(total: int) -> None:
    steps = grid(total)
    assert (steps[0], steps[-1]) == (0, total - 1)
    assert steps == sorted(set(steps))
    assert len(steps) == total if total <= 100_000 else 50_000 <= len(steps) <= 100_001


def test_a_value_outside_its_range_is_found_before_the_run() -> None:
    check_range(Linear(0.0, 1.0), 10_000, 0.0, 1.0, KEY)
    with pytest.raises(ValueError, match=r"^model.kd_weight must stay in \[0, 1\], got 1.5 at step 0. Change model.kd"):
        check_range(Linear(1.5, 0.0), 10_000, 0.0, 1.0, KEY)
    with pytest.raises(ValueError, match=r"got 1\.0001 at step 9999"):
        check_range(Linear(0.0, 1.0001), 10_000, 0.0, 1.0, KEY)


def test_a_short_part_and_a_fast_wave_are_seen() -> None:
    short = Piecewise({"a": Part(Constant(0.5), 50_000), "b": Part(Constant(1.5), 3), "c": Part(Constant(0.5))})
    for schedule in (short, Periodic(0.0, 1.5, 10, "square")):
        with pytest.raises(ValueError, match=r"must stay in \[0, 1\], got 1.5"):
            check_range(schedule, 100_000, 0.0, 1.0, KEY)


def test_the_lower_bound_may_be_excluded() -> None:
    check_range(Constant(0.0), 10, 0.0, math.inf, KEY)
    check_range(Linear(4.0, 1.0), 10, 0.0, math.inf, KEY, above=True)
    with pytest.raises(ValueError, match=r"must stay in \(0, inf\), got 0 at step 9"):
        check_range(Linear(4.0, 0.0), 10, 0.0, math.inf, KEY, above=True)


@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_values_are_finite(value: float) -> None:
    with pytest.raises(ValueError, match=rf"must stay in \[0, inf\), got {value} at step 0"):
        check_range(Constant(value), 10, 0.0, math.inf, KEY)


def test_a_schedule_that_does_not_fit_the_run_is_named() -> None:
    with pytest.raises(ValueError, match=r"^model\.kd_weight: The parts of a WSD schedule must fit into the run"):
        check_range(WSD(1.0, warmup=20), 10, 0.0, 1.0, KEY)


def test_a_schedule_shows_its_settings() -> None:
    assert repr(WSD(6e-4, warmup=2000.0)) == "WSD(peak=0.0006, warmup=2000, decay=0.1, floor=0, shape='linear')"
    assert repr(OneMinus(Constant(0.25))) == "OneMinus(schedule=Constant(value=0.25))"
    parts = {"up": Part(Linear(0.0, 1.0), 0.1), "rest": Part(Constant(1.0))}
    assert repr(Piecewise(parts)) == "Piecewise(up[0.1]=Linear(start=0, end=1), rest=Constant(value=1))"
