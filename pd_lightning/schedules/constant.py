"""The same value all the way."""

from typing_extensions import override

from pd_lightning.schedules.base import Schedule


class Constant(Schedule):
    """The same value all the way.

    Args:
        value: The value.
    """

    def __init__(self, value: float) -> None:
        self.value = value

    @override
    def __call__(self, step: int, total_steps: int) -> float:
        return self.value


def as_schedule(value: Schedule | float) -> Schedule:
    """Let a number stand for the schedule that always gives it.

    Raises:
        ValueError: If it is neither.
    """
    if not isinstance(value, (Schedule, int, float)):
        raise ValueError(f"A schedule must be a number or a Schedule, got {value!r}. Give 0.9 or WSD(0.9), say.")
    return value if isinstance(value, Schedule) else Constant(value)
