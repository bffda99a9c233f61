from collections.abc import Callable

import pytest

from pd_lightning.schedules import Constant, Linear, as_schedule


def test_constant(values: Callable) -> None:
    assert values(Constant(0.9), 3).tolist() == [0.9, 0.9, 0.9]


@pytest.mark.parametrize("number", [0, 0.25, 2])
def test_a_number_is_a_constant(values: Callable, number: float) -> None:
    assert values(as_schedule(number), 2).tolist() == [number, number]


def test_a_schedule_stays_itself() -> None:
    schedule = Linear(0.0, 1.0)
    assert as_schedule(schedule) is schedule
