import math

import pytest

from pd_lightning.schedules import WSD, Constant, Cosine, Linear, Schedule, check_range


def values(schedule: Schedule, total: int) -> list[float]:
    return [schedule(step, total) for step in range(total)]


def test_constant() -> None:
    assert values(Constant(0.9), 3) == [0.9, 0.9, 0.9]


def test_linear_reaches_both_ends_exactly() -> None:
    assert values(Linear(0.0, 1.0), 5) == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert values(Linear(1.0, 0.0), 2) == [1.0, 0.0]
    assert values(Linear(0.3, 0.7), 1) == [0.3]


def test_cosine_warms_up_and_comes_down_to_the_floor() -> None:
    schedule = Cosine(peak=1.0, warmup=2, floor=0.1)
    expected = [0.5, 1.0] + [0.1 + 0.9 * (1 + math.cos(math.pi * i / 8)) / 2 for i in range(8)]
    assert values(schedule, 10) == pytest.approx(expected)
    assert schedule(10, 10) == pytest.approx(0.1)


@pytest.mark.parametrize(("shape", "half_way"), [("linear", 0.5), ("cosine", 0.5), ("sqrt", 1 - math.sqrt(0.5))])
def test_wsd_has_three_parts(shape: str, half_way: float) -> None:
    schedule = WSD(peak=2.0, warmup=0.2, decay=0.4, floor=1.0, shape=shape)  # type: ignore[arg-type]
    assert values(schedule, 10)[:6] == [1.0, 2.0, 2.0, 2.0, 2.0, 2.0]
    assert schedule(6, 10) == 2.0
    assert schedule(8, 10) == pytest.approx(1.0 + half_way)
    assert schedule(10, 10) == pytest.approx(1.0)


def test_lengths_from_one_on_are_steps() -> None:
    assert values(WSD(1.0, warmup=2, decay=0.0), 100) == [0.5, *[1.0] * 99]
    assert WSD(1.0, warmup=0.02, decay=0.0)(0, 100) == 0.5


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: WSD(1.0, warmup=0.7, decay=0.7), "parts of a WSD schedule must fit into the run, got warmup 0.7"),
        (lambda: WSD(1.0, warmup=8, decay=8)(0, 10), "8 warm-up and 8 decay steps in 10. Lower init_args.warmup"),
        (lambda: WSD(1.0, warmup=-1), "warmup must be at least 0, got -1"),
        (lambda: Cosine(1.0, floor=2.0), "floor must not exceed peak, got 2.0 > 1.0"),
    ],
)
def test_bad_schedules_name_the_setting(make: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()  # type: ignore[operator]


def test_a_weight_outside_its_range_is_found_before_the_run() -> None:
    check_range(Linear(0.0, 1.0), 10_000, 0.0, 1.0, "model.kd_weight")
    with pytest.raises(ValueError, match=r"must stay in \[0, 1\], got 1.5 at step 0"):
        check_range(Linear(1.5, 0.0), 10_000, 0.0, 1.0, "model.kd_weight")
    with pytest.raises(ValueError, match=r"got 1\.0001 at step 9999"):
        check_range(Linear(0.0, 1.0001), 10_000, 0.0, 1.0, "model.kd_weight")
