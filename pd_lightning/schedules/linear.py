"""A straight line over the run."""

from typing_extensions import override

from pd_lightning.schedules.base import Schedule


class Linear(Schedule):
    """A straight line from the first step to the last, up or down.

    Args:
        start: Value at the first step.
        end: Value at the last step.
    """

    def __init__(self, start: float, end: float) -> None:
        self.start = start
        self.end = end

    @override
    def __call__(self, step: int, total_steps: int) -> float:
        return self.start + (self.end - self.start) * min(1.0, step / max(1, total_steps - 1))
