"""The chapters of a search: how the best was found, and the metric along every axis."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate

from pd_lightning.report import Section, Table
from pd_lightning.report.charts import Chart
from pd_lightning.study.axis_scale import axis_scale, means, ranges
from pd_lightning.study.compared import Compared
from pd_lightning.study.outline import MAXIMIZE, Axis, Option
from pd_lightning.study.texts import CONTROL_TEXTS, difference_text, mean_text, metric_text, seeds_text


def search_sections(compared: Compared, decimals: int) -> Iterator[Section]:
    """What a search tried.

    Args:
        compared: The study's results.
        decimals: Those of the metric.

    Yields:
        The history of the best, a table of the trials, and the trials along each axis.
    """
    yield Section("History", [_history(compared)], "Search")
    yield Section("Trials", [_trials(compared, decimals)], "Search")
    for axis in compared.study.axes:
        yield Section(axis.title, [_scatter(compared, axis)], "Search")


def _history(compared: Compared) -> Chart:
    numbered = [(float(i), compared.result(point).mean) for i, point in enumerate(compared.study.points, 1)]
    trials = means(numbered)
    better = max if compared.study.direction == MAXIMIZE else min
    best = accumulate((value for _, value in trials), better)
    line = list(zip((x for x, _ in trials), best, strict=True))
    return Chart(
        "",
        "trial",
        metric_text(compared.study),
        {"trials": trials, "best so far": line},
        "Means over the seeds that are complete.",
        intervals={"trials": ranges(numbered)},
        scatter=["trials"],
    )


def _trials(compared: Compared, decimals: int) -> Table:
    """All trials, the best first; those without a value for every seed at the end."""
    study = compared.study
    ranked = compared.ranked(study.points)
    others = [point for point in study.points if point not in ranked]
    number = {point.name: f"{i}" for i, point in enumerate(study.points, 1)}
    rows = []
    for point in (*ranked, *others):
        result = compared.result(point)
        against = [difference_text(compared.against(point, kind), decimals, len(study.seeds)) for kind in CONTROL_TEXTS]
        options = [point.axes.get(axis.name) for axis in study.axes]
        rows.append([number[point.name], mean_text(result.mean, decimals), seeds_text(result), *against, *options])
    columns = ("trial", "mean ± 95%", "seeds", *CONTROL_TEXTS.values(), *(axis.title for axis in study.axes))
    return Table("", columns, rows, "The best first. The best of many trials is partly luck: run it with new seeds.")


def _scatter(compared: Compared, axis: Axis) -> Chart:
    tried = [(point.axes[axis.name], compared.result(point).mean) for point in compared.study.points]
    scale = axis_scale(_options(axis, [name for name, _ in tried]))
    placed = [(scale.places[name], mean) for name, mean in tried]
    return Chart(
        "",
        axis.title,
        metric_text(compared.study),
        {"trials": means(placed)},
        "Every trial; the other axes vary too.",
        scatter=["trials"],
        x_names=scale.names,
        log_x=scale.log,
    )


def _options(axis: Axis, names: list[str]) -> list[Option]:
    """The axis's options, or what was tried of a continuous one."""
    known = {option.name: option for option in axis.options}
    return [known.get(name) or Option(name, _number(name)) for name in dict.fromkeys([*known, *names])]


def _number(name: str) -> float | None:
    try:
        return float(name)
    except ValueError:
        return None
