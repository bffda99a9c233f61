"""What runs logged on their way: losses and schedules by step."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from pd_lightning.report import Section
from pd_lightning.report.charts import Chart
from pd_lightning.study.compared import Compared, Result
from pd_lightning.study.outline import EQUAL_FLOPS, LM, POINT
from pd_lightning.study.results import COMPLETE
from pd_lightning.study.texts import metric_text

MOST_POINTS = 120
DIFFERENT = 0.1  # of the largest value
LOSSES = {"train/lm_loss": "train/lm_loss (nats)", "train/kd_loss": "train/kd_loss (nats)"}
SCHEDULES = {"train/kd_weight": "KD weight", "train/lr": "learning rate"}

Line = list[tuple[float, float]]


def curves_section(compared: Compared) -> Section:
    """Validation and training losses, and schedules, of the base, the best point and their controls.

    Args:
        compared: The study's results.

    Returns:
        Plots; those of which no run has a column are left out.
    """
    runs = _shown(compared)
    columns = {compared.study.metric: metric_text(compared.study), **LOSSES}
    losses = [_chart(compared, runs, column, title) for column, title in columns.items()]
    points = {name: result for name, result in runs.items() if result.role == POINT}
    schedules = schedule_charts(compared, points, alike=True)
    charts = [chart for chart in losses if any(chart.series.values())]
    return Section("Curves and schedules", [*charts, *schedules] or ["No run has logged anything yet."])


def _shown(compared: Compared) -> dict[str, Result]:
    """The base, the best point and their controls, by name."""
    best = compared.ranked(compared.study.points)[:1]
    base = [] if compared.study.base is None else [compared.study.base]
    found = {point.name if point in base else f"best: {point.name}": compared.result(point) for point in (*base, *best)}
    controls = [compared.control(point, kind) for kind in (LM, EQUAL_FLOPS) for point in (*base, *best)]
    return found | {control.name: control for control in controls if control is not None}


def schedule_charts(compared: Compared, runs: Mapping[str, Result], alike: bool = False) -> Iterator[Chart]:
    """KD weight, learning rate and temperatures over a run, of the first complete seed.

    Args:
        compared: The study's results.
        runs: Whose, by name.
        alike: Whether those count that take the same course in all of them.

    Yields:
        A plot for each of them that is not constant in all of them.
    """
    first = {name: next((row for row in result.rows if row.state == COMPLETE), None) for name, result in runs.items()}
    logged = {name: logged_lines(compared.folder / row.run) for name, row in first.items() if row is not None}
    names = dict.fromkeys(column for lines in logged.values() for column in lines)
    columns = SCHEDULES | {name: name.removeprefix("train/") for name in names if "temperature" in name}
    for column, title in columns.items():
        series = {name: thinned(lines[column]) for name, lines in logged.items() if column in lines}
        if series and _moves(list(series.values()), alike):
            yield Chart(title, "step", title, series)


def _moves(lines: Sequence[Line], alike: bool) -> bool:
    """Whether any line is not constant and, unless they may be alike, their courses differ, whatever their lengths."""
    courses = [[line[round(part / 20 * (len(line) - 1))][1] for part in range(21)] for line in lines]
    far = DIFFERENT * max(abs(value) for course in courses for value in course)
    apart = [abs(value - first) for course in courses for value, first in zip(course, courses[0], strict=True)]
    return (alike or max(apart) > far) and any(max(course) - min(course) > far for course in courses)


def _chart(compared: Compared, runs: Mapping[str, Result], column: str, title: str) -> Chart:
    lines = {name: mean_line(compared.folder, result, column) for name, result in runs.items()}
    shown = {name: line for name, line in lines.items() if line}
    return Chart(f"{title} on the way", "step", title, shown, "Mean over seeds.")


def mean_line(folder: Path, result: Result, column: str) -> Line:
    """A figure by step, its mean over the complete seeds that logged it there."""
    values: dict[float, list[float]] = {}
    for row in result.rows:
        if row.state == COMPLETE:
            for step, value in logged_lines(folder / row.run).get(column, ()):
                values.setdefault(step, []).append(value)
    return thinned([(step, math.fsum(found) / len(found)) for step, found in sorted(values.items())])


def thinned(line: Line) -> Line:
    """No more points than can be seen: each the mean of neighbours."""
    size = math.ceil(len(line) / MOST_POINTS)
    parts = [line[start : start + size] for start in range(0, len(line), max(1, size))]
    return [(part[-1][0], math.fsum(value for _, value in part) / len(part)) for part in parts]


def logged_lines(run: Path) -> dict[str, Line]:
    """Every finite figure of a run folder's `logs/metrics.csv` by name, each by the number of steps done."""
    path = run / "logs" / "metrics.csv"
    lines: dict[str, Line] = {}
    if path.is_file():
        with path.open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                for name, text in row.items():
                    value = _number(text) if name != "step" else None
                    step = _number(row.get("step"))
                    if value is not None and step is not None:
                        lines.setdefault(name, []).append((step + 1, value))
    return lines


def _number(text: str | None) -> float | None:
    """None for what is empty, not finite, or cut off by a crash."""
    try:
        value = float(text or "nan")
    except ValueError:
        return None
    return value if math.isfinite(value) else None
