"""Schedules: one family of functions of progress, for the KD weight, the temperature and the learning rate."""

import math
from abc import ABC, abstractmethod
from typing import Literal

from typing_extensions import override


class Schedule(ABC):
    """A value that depends on how far the run has come."""

    @abstractmethod
    def __call__(self, step: int, total_steps: int) -> float:
        """Give the value at an optimizer step.

        Args:
            step: Optimizer steps taken so far, from 0 to `total_steps` - 1.
            total_steps: Optimizer steps of the whole run.

        Returns:
            The value, in the unit of whatever is scheduled.
        """


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


class Cosine(Schedule):
    """A linear warm-up, then half a cosine down to the floor.

    Args:
        peak: Highest value, reached at the end of the warm-up.
        warmup: Length of the warm-up: below 1 a fraction of the run, from 1 on a number of steps.
        floor: Value that the curve comes down to at the end of the run.

    Raises:
        ValueError: If `warmup` is negative, or the floor is above the peak.
    """

    def __init__(self, peak: float, warmup: float = 0.0, floor: float = 0.0) -> None:
        _check_lengths(warmup=warmup)
        _check_floor(peak, floor)
        self.peak = peak
        self.warmup = warmup
        self.floor = floor

    @override
    def __call__(self, step: int, total_steps: int) -> float:
        warmup = _steps(self.warmup, total_steps)
        if step < warmup:
            return self.peak * (step + 1) / warmup
        progress = (step - warmup) / max(1, total_steps - warmup)
        return self.floor + (self.peak - self.floor) * _cosine(progress)


class WSD(Schedule):
    """Warm-up, stable, decay: a linear rise, a plateau, and a fall at the end.

    Args:
        peak: Value of the plateau.
        warmup: Length of the warm-up: below 1 a fraction of the run, from 1 on a number of steps.
        decay: Length of the decay at the end of the run, counted likewise.
        floor: Value that the decay comes down to at the end of the run.
        shape: Shape of the decay; `sqrt` is 1 - sqrt(progress).

    Raises:
        ValueError: If a length is negative, the parts exceed the run, or the floor is above the peak.

    Source: MiniCPM (arXiv 2404.06395); as a schedule of the KD weight, Peng et al. (arXiv 2410.16215).
    """

    def __init__(
        self,
        peak: float,
        warmup: float = 0.1,
        decay: float = 0.1,
        floor: float = 0.0,
        shape: Literal["linear", "cosine", "sqrt"] = "linear",
    ) -> None:
        _check_lengths(warmup=warmup, decay=decay)
        _check_floor(peak, floor)
        if warmup < 1 and decay < 1 and warmup + decay > 1:
            raise ValueError(
                f"The parts of a WSD schedule must fit into the run, got warmup {warmup} + decay {decay} > 1. "
                "Lower init_args.warmup or init_args.decay."
            )
        self.peak = peak
        self.warmup = warmup
        self.decay = decay
        self.floor = floor
        self.shape = shape

    @override
    def __call__(self, step: int, total_steps: int) -> float:
        warmup, decay = _steps(self.warmup, total_steps), _steps(self.decay, total_steps)
        if warmup + decay > total_steps:
            raise ValueError(
                f"The parts of a WSD schedule must fit into the run, got {warmup} warm-up and {decay} decay steps "
                f"in {total_steps}. Lower init_args.warmup or init_args.decay, or raise trainer.max_steps."
            )
        if step < warmup:
            return self.peak * (step + 1) / warmup
        if step < total_steps - decay:
            return self.peak
        progress = min(1.0, (step - (total_steps - decay)) / max(1, decay))
        remaining = {
            "linear": 1.0 - progress,
            "cosine": _cosine(progress),
            "sqrt": 1.0 - math.sqrt(progress),
        }[self.shape]
        return self.floor + (self.peak - self.floor) * remaining


def check_range(schedule: Schedule, total_steps: int, low: float, high: float, key: str) -> None:
    """Refuse a schedule that leaves [low, high] anywhere on a grid of up to 1,000 steps.

    Args:
        schedule: The schedule to try.
        total_steps: Optimizer steps of the run.
        low: Lowest value allowed.
        high: Highest value allowed.
        key: YAML key of the schedule, for the message.

    Raises:
        ValueError: Naming the key, the step and the value.
    """
    stride = max(1, total_steps // 1000)
    for step in [*range(0, total_steps, stride), total_steps - 1]:
        try:
            value = schedule(step, total_steps)
        except ValueError as error:
            raise ValueError(f"{key}: {error}") from error
        if not low <= value <= high:
            raise ValueError(f"{key} must stay in [{low:g}, {high:g}], got {value:g} at step {step}. Change {key}.")


def _steps(length: float, total_steps: int) -> int:
    return round(length * total_steps) if length < 1 else round(length)


def _cosine(progress: float) -> float:
    return 0.5 * (1.0 + math.cos(math.pi * min(1.0, progress)))


def _check_lengths(**lengths: float) -> None:
    for name, length in lengths.items():
        if length < 0:
            raise ValueError(
                f"{name} must be at least 0, got {length}. Set init_args.{name} to a fraction of the run below 1, "
                "or to a number of steps."
            )


def _check_floor(peak: float, floor: float) -> None:
    if floor > peak:
        raise ValueError(f"floor must not exceed peak, got {floor} > {peak}. Lower init_args.floor.")
