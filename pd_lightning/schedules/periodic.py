"""Up and down, again and again."""

from typing import Literal

from typing_extensions import override

from pd_lightning.schedules.base import Schedule
from pd_lightning.schedules.cosine import half_cosine
from pd_lightning.schedules.lengths import check_lengths, in_steps


class Periodic(Schedule):
    """The same wave again and again, each time from the low value.

    Args:
        low: Value at the start of each period.
        high: Value that each period goes up to.
        period: Length of a period: below 1 a fraction of the run, from 1 on a number of steps.
        shape: `triangle` and `cosine` go up for half a period and down again, `square` is low and then high for half
            a period each, `sawtooth` goes up for a whole period and falls at once.

    Raises:
        ValueError: If low is not below high, or a period takes less than two steps.

    Source: Peng et al. (arXiv 2410.16215) vary the KD weight periodically.
    """

    def __init__(
        self,
        low: float,
        high: float,
        period: float = 0.2,
        shape: Literal["triangle", "cosine", "square", "sawtooth"] = "triangle",
    ) -> None:
        check_lengths(period=period)
        if not low < high:
            raise ValueError(
                f"low must be below high, got {low} and {high}. Lower init_args.low, or take the schedule Constant."
            )
        self.low = low
        self.high = high
        self.period = period
        self.shape = shape

    @override
    def __call__(self, step: int, total_steps: int) -> float:
        period = in_steps(self.period, total_steps)
        if period < 2:
            raise ValueError(
                f"A period must take two steps at least, got period {self.period:g} of {total_steps} steps. Set "
                "init_args.period to a larger fraction of the run below 1, or to a number of steps."
            )
        position = step % period
        phase = position / period
        risen = {
            "triangle": 1.0 - abs(1.0 - 2.0 * phase),
            "cosine": half_cosine(abs(1.0 - 2.0 * phase)),
            "square": float(phase >= 0.5),
            "sawtooth": position / (period - 1),
        }[self.shape]
        return self.low + (self.high - self.low) * risen
