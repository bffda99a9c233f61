"""The chapter of one axis: its options beside the controls and the base, as a table and as a plot."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

from pd_lightning.report import Section, Table
from pd_lightning.report.charts import Chart
from pd_lightning.study.axis_scale import AxisScale, Placed, axis_scale, means, ranges
from pd_lightning.study.compared import AGAINST_BASE, Compared
from pd_lightning.study.curves import schedule_charts
from pd_lightning.study.growth import growth_texts, has_direction
from pd_lightning.study.outline import EQUAL_FLOPS, LM, Axis, Option, Point
from pd_lightning.study.texts import CONTROL_TEXTS, difference_text, mean_text, metric_text, seeds_text

DISTILLED = "distilled"
CONTROLS = {LM: "LM only", EQUAL_FLOPS: "LM only, equal FLOPs"}
COLUMNS = {**CONTROL_TEXTS, AGAINST_BASE: "against the base"}


def axis_section(compared: Compared, axis: Axis, decimals: int) -> Section:
    """One axis around the base.

    Args:
        compared: The study's results.
        axis: The axis.
        decimals: Those of the metric.

    Returns:
        What came out, a table, plots, and the schedules where the options differ in them.
    """
    along = compared.along(axis)
    table = Table(
        "",
        (axis.title, "mean ± 95%", "seeds", *COLUMNS.values()),
        [_row(compared, axis, option, point, decimals) for option, point in along],
    )
    schedules = schedule_charts(compared, {option.name: compared.result(point) for option, point in along})
    charts = list(_charts(compared, axis, along))
    said = [best_of(compared, axis, decimals)]
    if len(along) > 1 and has_direction(compared, axis):
        (first, one), (last, other) = along[0], along[-1]
        said += growth_texts(compared, [(one, other)], first.name, last.name, decimals)
    return Section(axis.title, [*said, table, *charts, *schedules], "Axes")


def _row(compared: Compared, axis: Axis, option: Option, point: Point, decimals: int) -> list[str | None]:
    result, seeds = compared.result(point), len(compared.study.seeds)
    name = f"{option.name}\nbase" if option.name == axis.base else option.name
    differences = [difference_text(compared.against(point, kind), decimals, seeds) for kind in COLUMNS]
    return [name, mean_text(result.mean, decimals), seeds_text(result), *differences]


def best_of(compared: Compared, axis: Axis, decimals: int) -> str:
    """Say which option is best, and whether it can be told from the second and from the base."""
    names = {point.name: option.name for option, point in compared.along(axis)}
    ranked = compared.ranked([point for _, point in compared.along(axis)])
    if not ranked:
        return "No option has a result for every seed yet."
    best, seeds = ranked[0], len(compared.study.seeds)
    text = f"Best: {names[best.name]}, {mean_text(compared.result(best).mean, decimals)}."
    for second in ranked[1:2]:
        found = compared.between(compared.result(best), compared.result(second))
        text += f" Against the second, {names[second.name]}: {difference_text(found, decimals, seeds, ', ')}."
    found = compared.against(best, AGAINST_BASE)
    if found is None:
        return text
    base = f"the base, {axis.base}" if axis.base else "the base"
    return f"{text} Against {base}: {difference_text(found, decimals, seeds, ', ')}."


def _charts(compared: Compared, axis: Axis, along: Sequence[tuple[Option, Point]]) -> Iterator[Chart]:
    """The metric beside that of the controls, then the differences to them."""
    scale = axis_scale([option for option, _ in along])
    places = [(scale.places[option.name], point) for option, point in along]
    results = {DISTILLED: [(x, compared.result(point)) for x, point in places]}
    for kind, name in CONTROLS.items():
        results[name] = [(x, found) for x, point in places if (found := compared.control(point, kind)) is not None]
    # Names have no order to draw a line along, except one that says the same everywhere.
    same = {name for name, found in results.items() if len({result.name for _, result in found}) == 1}
    bands = {name for name in CONTROLS.values() if name in same or not scale.names}
    placed = {name: [(x, result.mean) for x, result in found] for name, found in results.items()}
    caption = "Mean and 95% interval over seeds, those of controls as bands where a line joins them."
    yield _drawn(axis, scale, metric_text(compared.study), placed, bands, caption)
    differences: dict[str, list[Placed]] = {}
    for kind, text in CONTROL_TEXTS.items():
        against = [(x, compared.against(point, kind)) for x, point in places]
        differences[text] = [(x, found.difference) for x, found in against if found is not None]
    caption = "Differences seed by seed; an interval that leaves out 0 is better or worse."
    yield _drawn(axis, scale, "difference", differences, set(), caption)


def _drawn(
    axis: Axis,
    scale: AxisScale,
    y_label: str,
    placed: Mapping[str, Sequence[Placed]],
    bands: Collection[str],
    caption: str,
) -> Chart:
    placed = {name: found for name, found in placed.items() if means(found)}
    return Chart(
        "",
        axis.title,
        y_label,
        {name: means(found) for name, found in placed.items()},
        caption,
        intervals={name: ranges(found) for name, found in placed.items() if name not in bands},
        bands={name: ranges(found) for name, found in placed.items() if name in bands},
        scatter=[name for name in placed if scale.names and name not in bands],
        x_names=scale.names,
        log_x=scale.log,
    )
