"""Warm-up, stable, decay."""

import math
from typing import Literal

from typing_extensions import override

from pd_lightning.schedules.base import Schedule
from pd_lightning.schedules.cosine import check_floor, half_cosine
from pd_lightning.schedules.lengths import check_lengths, in_steps


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
        check_lengths(warmup=warmup, decay=decay)
        check_floor(peak, floor)
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
        warmup, decay = in_steps(self.warmup, total_steps), in_steps(self.decay, total_steps)
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
            "cosine": half_cosine(progress),
            "sqrt": 1.0 - math.sqrt(progress),
        }[self.shape]
        return self.floor + (self.peak - self.floor) * remaining
