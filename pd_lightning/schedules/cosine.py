"""Warm-up, then half a cosine down."""

import math

from typing_extensions import override

from pd_lightning.schedules.base import Schedule
from pd_lightning.schedules.lengths import check_lengths, in_steps


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
        check_lengths(warmup=warmup)
        check_floor(peak, floor)
        self.peak = peak
        self.warmup = warmup
        self.floor = floor

    @override
    def __call__(self, step: int, total_steps: int) -> float:
        warmup = in_steps(self.warmup, total_steps)
        if step < warmup:
            return self.peak * (step + 1) / warmup
        progress = (step - warmup) / max(1, total_steps - warmup)
        return self.floor + (self.peak - self.floor) * half_cosine(progress)


def half_cosine(progress: float) -> float:
    """Give half a cosine from 1, at a progress of 0, to 0, at a progress of 1 and beyond."""
    return 0.5 * (1.0 + math.cos(math.pi * min(1.0, progress)))


def check_floor(peak: float, floor: float) -> None:
    """Refuse a fall that would be a rise."""
    if floor > peak:
        raise ValueError(f"floor must not exceed peak, got {floor} > {peak}. Lower init_args.floor.")
