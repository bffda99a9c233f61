"""Another schedule, turned upside down."""

from typing_extensions import override

from pd_lightning.schedules.base import Schedule
from pd_lightning.schedules.constant import as_schedule


class OneMinus(Schedule):
    """1 - another schedule: as KD weight, it makes the other one the weight of the LM loss.

    Args:
        schedule: The schedule, or the number, to subtract from 1.
    """

    def __init__(self, schedule: Schedule | float) -> None:
        self.schedule = as_schedule(schedule)

    @override
    def __call__(self, step: int, total_steps: int) -> float:
        return 1.0 - self.schedule(step, total_steps)
