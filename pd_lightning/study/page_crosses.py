"""The chapter of a cross: axes that are varied together, as grids."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product

from pd_lightning.report import Section, Table
from pd_lightning.report.charts import Chart
from pd_lightning.study.axis_scale import axis_scale, means, ranges
from pd_lightning.study.compared import Compared, Comparison
from pd_lightning.study.growth import growth_texts, has_direction
from pd_lightning.study.outline import EQUAL_FLOPS, GRID, LM, Axis, Point
from pd_lightning.study.statistics import Estimate
from pd_lightning.study.texts import CONTROL_TEXTS, difference_text, mean_text, metric_text


@dataclass(frozen=True)
class Grid:
    """The points over two axes, with fixed options of all others.

    Args:
        rows: The axis along the plot, whose options are the rows of the tables.
        columns: The axis of the lines.
        points: The points by their two options.
        where: What is fixed, in words.
    """

    rows: Axis
    columns: Axis
    points: dict[tuple[str, str], Point]
    where: str


def cross_sections(compared: Compared, decimals: int) -> Iterator[Section]:
    """Axes in full grids: tables and plots of the first two axes for each option of the others.

    Args:
        compared: The study's results. A design that is a grid as a whole needs no crosses.
        decimals: Those of the metric.

    Yields:
        For each cross the metric and its differences to the controls.
    """
    study = compared.study
    axes = {axis.name: axis for axis in study.axes}
    crosses = [names for names in study.crosses if len(names) > 1]
    if study.design == GRID and not crosses and len(axes) > 1:
        crosses = [list(axes)]
    for names in crosses:
        crossed = [axes[name] for name in names]
        parts = [part for grid in _grids(compared, crossed) for part in _parts(compared, grid, decimals)]
        yield Section(" × ".join(axis.title for axis in crossed), parts, "Crosses")


def _grids(compared: Compared, axes: Sequence[Axis]) -> Iterator[Grid]:
    first, second, *others = axes
    names = {axis.name for axis in axes}
    inside = [point for point in compared.study.points if set(point.varied) <= names]
    for chosen in product(*(axis.options for axis in others)):
        fixed = list(zip(others, chosen, strict=True))
        points = [point for point in inside if all(point.axes[axis.name] == option.name for axis, option in fixed)]
        where = "".join(f", {axis.title}: {option.name}" for axis, option in fixed)
        yield Grid(first, second, {(point.axes[first.name], point.axes[second.name]): point for point in points}, where)


def _parts(compared: Compared, grid: Grid, decimals: int) -> Iterator[str | Table | Chart]:
    """The metric, then its differences to each control, as a table and as a plot; at last what these say."""
    metric, seeds = metric_text(compared.study), len(compared.study.seeds)
    yield _table(grid, metric, lambda point: mean_text(compared.result(point).mean, decimals))
    yield _chart(grid, metric, lambda point: compared.result(point).mean)
    for kind in _kinds(compared, grid):
        against = {point.name: compared.against(point, kind) for point in grid.points.values()}
        yield _table(grid, f"{metric}, {CONTROL_TEXTS[kind]}", partial(_difference_text, against, decimals, seeds))
        yield _chart(grid, "difference", partial(_difference, against))
    if not has_direction(compared, grid.rows):
        return
    first, last = grid.rows.options[0].name, grid.rows.options[-1].name
    ends = [(grid.points.get((first, each.name)), grid.points.get((last, each.name))) for each in grid.columns.options]
    pairs = [(one, other) for one, other in ends if one is not None and other is not None]
    yield from growth_texts(compared, pairs, first, last, decimals)


def _difference_text(found: Mapping[str, Comparison | None], decimals: int, seeds: int, point: Point) -> str | None:
    return difference_text(found[point.name], decimals, seeds)


def _difference(found: Mapping[str, Comparison | None], point: Point) -> Estimate | None:
    comparison = found[point.name]
    return None if comparison is None else comparison.difference


def _kinds(compared: Compared, grid: Grid) -> list[str]:
    """The controls that its points have."""
    return [kind for kind in (LM, EQUAL_FLOPS) if any(compared.control(each, kind) for each in grid.points.values())]


def _table(grid: Grid, title: str, cell: Callable[[Point], str | None]) -> Table:
    columns = [option.name for option in grid.columns.options]
    rows = [
        [row.name, *(cell(point) if (point := grid.points.get((row.name, name))) else None for name in columns)]
        for row in grid.rows.options
    ]
    return Table(title + grid.where, (f"{grid.rows.title} \\ {grid.columns.title}", *columns), rows)


def _chart(grid: Grid, y_label: str, estimate: Callable[[Point], Estimate | None]) -> Chart:
    scale = axis_scale(grid.rows.options)
    lines = {
        f"{grid.columns.title}: {column.name}": [
            (scale.places[row.name], estimate(point))
            for row in grid.rows.options
            if (point := grid.points.get((row.name, column.name)))
        ]
        for column in grid.columns.options
    }
    return Chart(
        "",
        grid.rows.title,
        y_label,
        {name: means(placed) for name, placed in lines.items()},
        "Mean and 95% interval over seeds.",
        intervals={name: ranges(placed) for name, placed in lines.items()},
        x_names=scale.names,
        log_x=scale.log,
    )
