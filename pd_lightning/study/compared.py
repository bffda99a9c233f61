"""Every point of a study beside its controls and the base: the figures that all tables and plots show."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pd_lightning.study.outline import EQUAL_FLOPS, LM, MAXIMIZE, POINT, Axis, Option, Point, Study, read_study
from pd_lightning.study.results import COMPLETE, RESULTS, Row, read_results
from pd_lightning.study.statistics import NOISE, ONE_SEED, Estimate, difference, estimate, verdict

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
        missing: How many seeds have no value.
        mean: The metric over the seeds that have one.
    """

    name: str
    role: str
    rows: Sequence[Row]
    missing: int
    mean: Estimate | None

    @property
    def values(self) -> dict[int, float]:
        """The metric by seed, of complete runs."""
        return {row.seed: row.value for row in self.rows if row.state == COMPLETE and row.value is not None}


class Compared:
    """A study's results, compared.

    Args:
        folder: The study's folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.study: Study = read_study(folder)
        self.rows = read_results(folder / RESULTS)
        by_name: dict[tuple[str, str], list[Row]] = {key: [] for key in self.study.slugs()}
        for row in self.rows:
            by_name.setdefault((row.role, row.point), []).append(row)
        self._results = {key: self._result(*key, rows) for key, rows in by_name.items()}

    def _result(self, role: str, name: str, rows: list[Row]) -> Result:
        result = Result(name, role, rows, 0, None)
        mean = estimate(result.values.values())
        return Result(name, role, rows, len(self.study.seeds) - (mean.n if mean else 0), mean)

    def result(self, point: Point) -> Result:
        """A point's own figures."""
        return self._results[POINT, point.name]

    def control(self, point: Point, kind: str) -> Result | None:
        """A point's control of a kind, or the base, or None where it has none."""
        if kind == AGAINST_BASE:
            base = self.study.base
            return None if base is None or base.name == point.name else self.result(base)
        name = point.lm if kind == LM else point.equal_flops
        return None if name is None else self._results.get((kind, name))

    def against(self, point: Point, kind: str) -> Comparison | None:
        """A point beside its control, or the base; None where one of both has no value."""
        other = self.control(point, kind)
        return None if other is None else self.between(self.result(point), other)

    def between(self, ours: Result, theirs: Result) -> Comparison | None:
        """One result beside another."""
        found = difference(ours.values, theirs.values)
        return None if found is None else Comparison(found, verdict(found, self.study.direction))

    def results(self) -> Iterator[Result]:
        """All points, then all controls."""
        return iter(self._results.values())

    def ranked(self, points: Sequence[Point]) -> list[Point]:
        """Those of the points that have a value for every seed, the best first."""
        sign = -1.0 if self.study.direction == MAXIMIZE else 1.0
        means = [(self.result(point).mean, point) for point in points if not self.result(point).missing]
        return [point for _, point in sorted(((sign * m.mean, p) for m, p in means if m), key=lambda each: each[0])]

    def best(self) -> Point | None:
        """The best point, by its mean, of those that have a value for every seed."""
        return next(iter(self.ranked(self.study.points)), None)

    def along(self, axis: Axis) -> list[tuple[Option, Point]]:
        """The points that differ from the base in this axis at most."""
        return list(self.study.along(axis))

    def verdicts(self) -> Counter[str]:
        """How many comparisons came out how, over all points, controls and the base."""
        kinds = (LM, EQUAL_FLOPS, AGAINST_BASE)
        found = [self.against(point, kind) for point in self.study.points for kind in kinds]
        return Counter(each.verdict for each in found if each is not None)

    def states(self) -> Counter[str]:
        """How many runs are in which state."""
        return Counter(row.state for row in self.rows)


def tested(verdicts: Mapping[str, int]) -> int:
    """How many of the comparisons have an interval."""
    return sum(count for name, count in verdicts.items() if name != ONE_SEED)


def told_apart(verdicts: Mapping[str, int]) -> int:
    """How many of them leave out 0."""
    return tested(verdicts) - verdicts.get(NOISE, 0)
