"""Axes of a chart: where a value stands on them, and what is written beside them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

LETTER_WIDTH = 7.0
LONGEST_NAME = 28
SLANT = 35.0  # degrees, of names that don't fit beside each other


@dataclass(frozen=True)
class Scale:
    """An axis: the range of values that it shows, and its ticks.

    Args:
        low: The value at its start.
        high: The value at its end.
        ticks: Where it is labelled.
        texts: The labels.
        log: Whether equal distances are equal ratios.
    """

    low: float
    high: float
    ticks: Sequence[float]
    texts: Sequence[str]
    log: bool = False

    def place(self, value: float) -> float:
        """Where a value stands, 0 at the start and 1 at the end."""
        if self.log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)


def rows_scale(values: Sequence[float], *, log: bool) -> Scale:
    """A vertical axis, which ends at its outermost ticks, so that lines of the grid enclose the drawing."""
    if log:
        return _log_scale(values, 6)
    ticks = nice_ticks(min(values), max(values), 6)
    return Scale(ticks[0], ticks[-1], ticks, tick_texts(ticks))


def columns_scale(values: Sequence[float], count: int, *, log: bool) -> Scale:
    """A horizontal axis, which ends with the values, or at 0 where that is near."""
    if log:
        return _log_scale(values, count)
    low, high = widened(0.0 if 0 < min(values) < 0.1 * max(values) else min(values), max(values))
    slack = 1e-6 * (high - low)
    ticks = [tick for tick in nice_ticks(low, high, count) if low - slack <= tick <= high + slack]
    return Scale(low, high, ticks, tick_texts(ticks))


def names_scale(names: Sequence[str]) -> Scale:
    """A horizontal axis of names, the first at 0, the second at 1."""
    return Scale(-0.5, len(names) - 0.5, range(len(names)), [_cut(name) for name in names])


def _cut(name: str) -> str:
    return name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 1]}…"


def _log_scale(values: Sequence[float], count: int) -> Scale:
    low, high = min(values), max(values)
    if high <= low * (1 + 1e-9):
        low, high = low / 1.5, high * 1.5
    ticks = log_ticks(low, high, count)
    return Scale(low, high, ticks, [_power(tick) for tick in ticks], log=True)


def log_ticks(low: float, high: float, count: int) -> list[float]:
    """Choose round numbers inside a range, for a logarithmic axis.

    Args:
        low: Smallest value, above 0.
        high: Largest value.
        count: About how many ticks there should be.

    Returns:
        Powers of ten, with 2 and 5 times them where there is room; evenly spaced ones in a range within a decade.
    """
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    slack = 1 + 1e-9
    for factors in ((1, 2, 5), (1, 3), (1,)):
        ticks = [factor * 10.0**power for power in powers for factor in factors]
        ticks = [tick for tick in ticks if low / slack <= tick <= high * slack]
        if len(ticks) <= count + 1:
            break
    if len(ticks) < 3:
        ticks = [tick for tick in nice_ticks(low, high, count) if low / slack <= tick <= high * slack]
    return ticks[:: max(1, math.ceil(len(ticks) / (count + 1)))]


def _power(tick: float) -> str:
    """A tick by itself: ticks of a logarithmic axis share no number of decimals."""
    return f"{tick:.3g}".replace("e+", "e") if tick >= 1e15 or tick < 1e-4 else tick_texts([tick])[0]


def nice_ticks(low: float, high: float, count: int) -> list[float]:
    """Choose round numbers that enclose a range.

    Args:
        low: Smallest value.
        high: Largest value; may equal `low`.
        count: About how many ticks there should be.

    Returns:
        Two ticks or more, evenly spaced by 1, 2, 2.5 or 5 times a power of ten.
    """
    low, high = widened(low, high)
    rough = (high - low) / max(1, count - 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = power * next(factor for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [tick * step for tick in range(first, last + 1)]


def widened(low: float, high: float) -> tuple[float, float]:
    """Make room around a range that is no wider than rounding errors."""
    if high - low > 1e-9 * max(abs(low), abs(high)):
        return low, high
    margin = abs(low) * 0.05 or 0.5
    return low - margin, high + margin


def tick_texts(ticks: Sequence[float]) -> list[str]:
    """Write ticks with as many decimals as their distance asks for, and thousands and millions as k and M."""
    largest = max(map(abs, ticks))
    size, unit = next(((s, u) for s, u in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e4, "k")) if largest >= s), (1.0, ""))
    size = 1e3 if unit == "k" else size
    step = abs(ticks[1] - ticks[0]) / size if len(ticks) > 1 else largest / size or 1.0
    decimals = next((n for n in range(10) if abs(round(step, n) - step) < step * 1e-6), 10)
    return ["0" if unit and tick == 0 else f"{tick / size:.{decimals}f}{unit}" for tick in ticks]
