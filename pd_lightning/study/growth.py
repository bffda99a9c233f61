"""Whether the difference to the controls grows along an axis, as in "larger students gain more"."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from pd_lightning.study.compared import Compared, Comparison
from pd_lightning.study.outline import EQUAL_FLOPS, LM, Axis, Point
from pd_lightning.study.statistics import BETTER, WORSE, difference, verdict
from pd_lightning.study.texts import CONTROL_TEXTS, difference_text

_SIZES = ("student_params", "student_tokens", "teacher_params", "teacher_tokens")
_JOINED = {BETTER: " for the ", WORSE: " for the "}
Pairs = Sequence[tuple[Point, Point]]


def has_direction(compared: Compared, axis: Axis) -> bool:
    """Whether an axis leads from its first option to its last, so that a change between them says something of it.

    Args:
        compared: The study's results.
        axis: The axis.

    Returns:
        Whether its options are two, or numbers, or lead to ever more (or ever less) parameters or tokens.
    """
    along = compared.along(axis)
    if len(along) <= 2 or all(option.value is not None for option, _ in along):
        return True
    return any(_is_monotonic([_figure(compared, point, name) for _, point in along]) for name in _SIZES)


def _figure(compared: Compared, point: Point, name: str) -> float | None:
    return next((value for row in compared.result(point).rows if (value := getattr(row, name)) is not None), None)


def _is_monotonic(values: Sequence[float | None]) -> bool:
    ordered = sorted({value for value in values if value is not None})
    return list(values) in (ordered, ordered[::-1])


def growth(compared: Compared, pairs: Pairs, kind: str) -> Comparison | None:
    """The difference to the control at the second point less that at the first, seed by seed, its mean over pairs.

    Args:
        compared: The study's results.
        pairs: The points at both ends of an axis, one pair for each way in which the other axes are set.
        kind: `lm` or `equal_flops`.

    Returns:
        The estimate over seeds, or None where no seed has all of the runs. Better means that the gain grows.
    """
    firsts, lasts = zip(*pairs, strict=True) if pairs else ((), ())
    found = difference(_mean_gain(compared, lasts, kind), _mean_gain(compared, firsts, kind))
    return None if found is None else Comparison(found, verdict(found, compared.study.direction))


def _mean_gain(compared: Compared, points: Sequence[Point], kind: str) -> dict[int, float]:
    gains = [_gain(compared, point, kind) for point in points]
    seeds = set.intersection(*map(set, gains)) if gains else set()
    return {seed: math.fsum(gain[seed] for gain in gains) / len(gains) for seed in sorted(seeds)}


def _gain(compared: Compared, point: Point, kind: str) -> dict[int, float]:
    control = compared.control(point, kind)
    theirs = {} if control is None else control.values
    return {seed: value - theirs[seed] for seed, value in compared.result(point).values.items() if seed in theirs}


def growth_texts(compared: Compared, pairs: Pairs, first: str, last: str, decimals: int) -> Iterator[str]:
    """Say how the difference to each control changes along an axis, where its ends have controls of their own.

    Args:
        compared: The study's results.
        pairs: See `growth`.
        first: The option that the axis starts with.
        last: The option that it ends with.
        decimals: Those of the metric.

    Yields:
        A sentence for each control.
    """
    for kind in (LM, EQUAL_FLOPS):
        controls = [(compared.control(one, kind), compared.control(other, kind)) for one, other in pairs]
        found = growth(compared, pairs, kind)
        if found is not None and all(one is not other for one, other in controls):
            text = difference_text(found, decimals, len(compared.study.seeds), _JOINED.get(found.verdict, ", "))
            yield f"From {first} to {last}, the difference {CONTROL_TEXTS[kind]}, changes by {text}."
