"""Every point of a study beside its controls and the base: the figures that all tables and plots show."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path

from pd_lightning.study.outline import (
    EQUAL_FLOPS,
    LM,
    MAXIMIZE,
    POINT,
    SEARCH,
    Axis,
    Option,
    Point,
    Study,
    read_study,
)
from pd_lightning.study.results import COMPLETE, RESULTS, Row, read_results
from pd_lightning.study.statistics import Estimate, difference, estimate, verdict

AGAINST_BASE = "base"


@dataclass(frozen=True)
class Comparison:
    """A difference, and what it says.

    Args:
        difference: Ours less theirs, paired by seed.
        verdict: See `statistics.verdict`.
    """

    difference: Estimate
    verdict: str


@dataclass(frozen=True)
class Result:
    """A point or a control over its seeds.

    Args:
        name: Its name.
        role: `point`, `lm` or `equal_flops`.
        rows: Its runs.
        seeds: How many seeds were asked for.
    """

    name: str
    role: str
    rows: Sequence[Row]
    seeds: int

    @cached_property
    def values(self) -> dict[int, float]:
        """The metric by seed, of complete runs in which it is finite."""
        complete = {row.seed: row.value for row in self.rows if row.state == COMPLETE}
        return {seed: value for seed, value in complete.items() if value is not None and math.isfinite(value)}

    @cached_property
    def mean(self) -> Estimate | None:
        """The metric over these seeds."""
        return estimate(self.values.values())

    @property
    def whole(self) -> bool:
        """Whether there is a value for every seed."""
        return len(self.values) >= self.seeds


class Compared:
    """A study's results, compared.

    Args:
        folder: The study's folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.study: Study = read_study(folder)
        self.rows = read_results(folder / RESULTS)
        rows: dict[tuple[str, str], list[Row]] = {key: [] for key in self.study.slugs()}
        for row in self.rows:
            if (row.role, row.point) in rows:  # else of an earlier form of the study
                rows[row.role, row.point].append(row)
        self._results = {key: Result(key[1], key[0], found, len(self.study.seeds)) for key, found in rows.items()}

    def result(self, point: Point) -> Result:
        """A point's own figures."""
        return self._results[POINT, point.name]

    def results(self) -> Iterator[Result]:
        """All points, then all controls."""
        return iter(self._results.values())

    def control(self, point: Point, kind: str) -> Result | None:
        """What a point is compared with: `lm`, `equal_flops` or the `base`; None where it has none."""
        if kind == AGAINST_BASE:
            base = self.study.base
            return None if base is None or base.name == point.name else self.result(base)
        name = point.lm if kind == LM else point.equal_flops
        return None if name is None else self._results.get((kind, name))

    def against(self, point: Point, kind: str) -> Comparison | None:
        """A point beside its control, or the base; None where they share no seed."""
        other = self.control(point, kind)
        return None if other is None else self.between(self.result(point), other)

    def between(self, ours: Result, theirs: Result) -> Comparison | None:
        """One result beside another."""
        found = difference(ours.values, theirs.values)
        return None if found is None else Comparison(found, verdict(found, self.study.direction))

    def along(self, axis: Axis) -> list[tuple[Option, Point]]:
        """The points that differ from the base in this axis at most."""
        return list(self.study.along(axis))

    def ranked(self, points: Sequence[Point]) -> list[Point]:
        """Those of the points that have a value for every seed, the best mean first."""
        sign = -1.0 if self.study.direction == MAXIMIZE else 1.0
        means = [(self.result(point).mean, point) for point in points if self.result(point).whole]
        found = [(sign * mean.mean, point) for mean, point in means if mean is not None]
        return [point for _, point in sorted(found, key=lambda each: each[0])]

    def verdicts(self) -> Counter[str]:
        """How the comparisons of the report came out: with controls, with the base, and of each axis's best two.

        Each pair counts once: the base is often one of the best two.
        """
        study = self.study
        asked = [(point, kind) for point in study.points for kind in (LM, EQUAL_FLOPS)]
        axes = () if study.design == SEARCH else study.axes
        if axes:
            asked += [(point, AGAINST_BASE) for point in study.points if len(point.varied) == 1]
        pairs = [(self.result(point), self.control(point, kind)) for point, kind in asked]
        for axis in axes:
            best = self.ranked([point for _, point in self.along(axis)])[:2]
            pairs += [(self.result(first), self.result(second)) for first, second in pairwise(best)]
        found = {
            frozenset((id(ours), id(theirs))): self.between(ours, theirs)
            for ours, theirs in pairs
            if theirs is not None
        }
        return Counter(each.verdict for each in found.values() if each is not None)

    def states(self) -> Counter[str]:
        """How many runs are in which state."""
        return Counter(row.state for row in self.rows)
