"""The interface of a schedule, and the check that its values are allowed."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping

GRID = 100_000  # steps that are looked at in longer runs: a fraction of a second


class Schedule(ABC):
    """A value that depends on how far the run has come, and on nothing else: a resumed run goes on exactly."""

    @abstractmethod
    def __call__(self, step: int, total_steps: int) -> float:
        """Give the value at an optimizer step.

        Args:
            step: Optimizer steps taken so far, from 0 to `total_steps` - 1.
            total_steps: Optimizer steps of the whole run.

        Returns:
            The value, in the unit of whatever is scheduled.
        """

    def __repr__(self) -> str:
        settings = {k: f"{v:g}" if isinstance(v, float) else repr(v) for k, v in vars(self).items()}
        return f"{type(self).__name__}({', '.join(f'{name}={text}' for name, text in settings.items())})"


def grid(total_steps: int) -> list[int]:
    """Give the steps of a run: all of them, or in a long run every n-th and the last.

    Args:
        total_steps: Optimizer steps of the run, at least 1.

    Returns:
        Ascending steps, from 0 to `total_steps` - 1.
    """
    steps = list(range(0, total_steps, math.ceil(total_steps / GRID)))
    return steps if steps[-1] == total_steps - 1 else [*steps, total_steps - 1]


def check_schedules(kd_weight: Schedule, temperatures: Mapping[str, Schedule], lr: Schedule, total_steps: int) -> None:
    """Refuse schedules of a run that leave their range.

    Args:
        kd_weight: The KD weight, which must stay in [0, 1].
        temperatures: Temperatures by the name of their transform and setting, dotted; they must be positive.
        lr: The learning rate, which must not be negative.
        total_steps: Optimizer steps of the run.

    Raises:
        ValueError: Naming the YAML key, the step and the value.
    """
    check_range(kd_weight, total_steps, 0.0, 1.0, "model.kd_weight")
    for name, temperature in temperatures.items():
        check_range(temperature, total_steps, 0.0, math.inf, f"model.transforms.{name}", above=True)
    check_range(lr, total_steps, 0.0, math.inf, "model.lr")


def check_range(
    schedule: Schedule, total_steps: int, low: float, high: float, key: str, *, above: bool = False
) -> None:
    """Refuse a schedule that leaves [low, high] anywhere on `grid`, or is not finite there.

    Args:
        schedule: The schedule to try.
        total_steps: Optimizer steps of the run.
        low: Lowest value allowed.
        high: Highest value allowed; infinity for none.
        key: YAML key of the schedule, for the message.
        above: Whether values must lie above `low`, which is then not allowed itself.

    Raises:
        ValueError: Naming the key, the step and the value.
    """
    for step in grid(total_steps):
        try:
            value = schedule(step, total_steps)
        except ValueError as error:
            raise ValueError(f"{key}: {error}") from error
        if not low <= value <= high or not math.isfinite(value) or (above and value == low):
            interval = f"{'(' if above else '['}{low:g}, {high:g}{']' if math.isfinite(high) else ')'}"
            raise ValueError(f"{key} must stay in {interval}, got {value:g} at step {step}. Change {key}.")
