"""The chapter of a cross: axes that are varied together, as grids."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product

from pd_lightning.charts import Chart
from pd_lightning.report import Section, Table
from pd_lightning.study.axis_scale import axis_scale, means, ranges
from pd_lightning.study.compared import Compared
from pd_lightning.study.outline import EQUAL_FLOPS, LM, Axis, Point
from pd_lightning.study.page_axes import COLUMNS
from pd_lightning.study.statistics import Estimate
from pd_lightning.study.texts import difference_text, mean_text, metric_text


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


def cross_section(compared: Compared, names: Sequence[str], decimals: int) -> Section:
    """Axes in a full grid: tables and plots of the first two axes for each option of the others.

    Args:
        compared: The study's results.
        names: The axes' names, two at least.
        decimals: Those of the metric.

    Returns:
        The metric and its differences to the controls.
    """
    by_name = {axis.name: axis for axis in compared.study.axes}
    axes = [by_name[name] for name in names]
    parts: list[str | Table | Chart] = []
    for grid in _grids(compared, axes):
        parts += [*_tables(compared, grid, decimals), *_charts(compared, grid)]
    return Section(" × ".join(axis.title for axis in axes), parts, "Crosses")


def _grids(compared: Compared, axes: Sequence[Axis]) -> Iterator[Grid]:
    first, second, *others = axes
    names = {axis.name for axis in axes}
    inside = [point for point in compared.study.points if set(point.varied) <= names]
    for chosen in product(*(axis.options for axis in others)):
        fixed = list(zip(others, chosen, strict=True))
        points = [point for point in inside if all(point.axes[axis.name] == option.name for axis, option in fixed)]
        where = "".join(f", {axis.title} {option.name}" for axis, option in fixed)
        yield Grid(first, second, {(point.axes[first.name], point.axes[second.name]): point for point in points}, where)


def _tables(compared: Compared, grid: Grid, decimals: int) -> Iterator[Table]:
    metric, seeds = metric_text(compared.study), len(compared.study.seeds)
    yield _table(grid, metric, lambda point: mean_text(compared.result(point).mean, decimals))
    for kind in _kinds(compared, grid):
        yield _table(
            grid,
            f"{metric}, {COLUMNS[kind]}",
            lambda point, kind=kind: difference_text(compared.against(point, kind), decimals, seeds),
        )


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


def _charts(compared: Compared, grid: Grid) -> Iterator[Chart]:
    metric = metric_text(compared.study)
    yield _chart(grid, metric, lambda point: compared.result(point).mean)
    for kind in _kinds(compared, grid):
        yield _chart(grid, f"{metric}, {COLUMNS[kind]}", lambda point, kind=kind: _difference(compared, point, kind))


def _difference(compared: Compared, point: Point, kind: str) -> Estimate | None:
    found = compared.against(point, kind)
    return None if found is None else found.difference


def _chart(grid: Grid, title: str, estimate: Callable[[Point], Estimate | None]) -> Chart:
    scale = axis_scale(grid.rows.options)
    lines = {
        f"{grid.columns.title} {column.name}": [
            (scale.places[row.name], estimate(point))
            for row in grid.rows.options
            if (point := grid.points.get((row.name, column.name)))
        ]
        for column in grid.columns.options
    }
    return Chart(
        title + grid.where,
        grid.rows.title,
        title,
        {name: means(placed) for name, placed in lines.items()},
        "Mean and 95% interval over seeds.",
        intervals={name: ranges(placed) for name, placed in lines.items()},
        x_names=scale.names,
        log_x=scale.log,
    )
