"""Where the options of an axis, and what was measured at them, stand in a plot."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pd_lightning.study.outline import Option
from pd_lightning.study.statistics import Estimate

Placed = tuple[float, Estimate | None]
_WIDE = 10.0  # the largest over the smallest
_LOWER_END = 0.3  # of the range


@dataclass(frozen=True)
class AxisScale:
    """Places of options.

    Args:
        places: The place of each option, by name.
        names: Names along the axis, where the places are 0, 1, 2, …; empty for numbers.
        log: Whether the axis is logarithmic.
    """

    places: dict[str, float]
    names: Sequence[str] = ()
    log: bool = False


def axis_scale(options: Sequence[Option]) -> AxisScale:
    """Numbers where all options are numbers, by their ratios where they crowd otherwise; else names in their order."""
    values = [option.value for option in options if option.value is not None]
    numbers = len(values) == len(options) > 1
    crowded = numbers and _crowded(sorted(values))
    if not numbers or (crowded and min(values) <= 0):
        return AxisScale({option.name: float(i) for i, option in enumerate(options)}, [each.name for each in options])
    return AxisScale({option.name: value for option, value in zip(options, values, strict=True)}, log=crowded)


def _crowded(ordered: Sequence[float]) -> bool:
    """Whether most values lie at the lower end of a wide range."""
    low, high, middle = ordered[0], ordered[-1], ordered[len(ordered) // 2]
    smallest = next((value for value in ordered if value > 0), high)
    return high >= _WIDE * smallest and middle - low < _LOWER_END * (high - low)


def means(placed: Iterable[Placed]) -> list[tuple[float, float]]:
    """The means of those that have one, at their places."""
    return [(x, found.mean) for x, found in placed if found is not None]


def ranges(placed: Iterable[Placed]) -> list[tuple[float, float, float]]:
    """The intervals of those that have one, at their places."""
    ends = [(x, found.low, found.high) for x, found in placed if found is not None]
    return [(x, low, high) for x, low, high in ends if low is not None and high is not None]
