"""The chapter of costs: tokens, FLOPs and seconds of every point and control."""

from __future__ import annotations

from collections.abc import Sequence

from pd_lightning.report import Section, Table
from pd_lightning.report.charts import Chart
from pd_lightning.study.axis_scale import means, ranges
from pd_lightning.study.compared import Compared, Result
from pd_lightning.study.outline import POINT
from pd_lightning.study.page_axes import CONTROLS, DISTILLED
from pd_lightning.study.results import COMPLETE, Row
from pd_lightning.study.texts import mean_text, metric_text

_COLUMNS = {
    "student_tokens": "tokens",
    "student_flops": "student's FLOPs",
    "teacher_flops": "teacher's FLOPs, forward",
    "teacher_training_flops": "teacher's FLOPs, training",
    "total_flops": "FLOPs that count",
    "train_seconds": "seconds",
}


def costs_section(compared: Compared, decimals: int) -> Section:
    """What every point and control cost, beside what came out.

    Args:
        compared: The study's results.
        decimals: Those of the metric.

    Returns:
        A plot of the metric over FLOPs, and a table.
    """
    results = [result for result in compared.results() if result.values]
    metric = compared.study.metric
    rows = [
        [result.name, mean_text(result.mean, decimals), *(_amount(_mean(result, name)) for name in _COLUMNS)]
        for result in results
    ]
    costs = compared.study.costs
    counted = (
        f"Of the teacher's FLOPs, {costs.get('teacher_forward', 1.0):.0%} of its forward passes and "
        f"{costs.get('teacher_training', 0.0):.0%} of its training count. Means over the complete seeds; seconds are "
        "those of the machine at the time, with whatever else ran on it."
    )
    table = Table("", ("run", f"{metric} ± 95%", *_COLUMNS.values()), rows)
    return Section("Costs", [counted, *_chart(compared, results), table])


def _chart(compared: Compared, results: Sequence[Result]) -> list[Chart]:
    placed = {
        name: [(_mean(each, "total_flops") or 0.0, each.mean) for each in results if each.role == role]
        for role, name in {POINT: DISTILLED, **CONTROLS}.items()
    }
    placed = {name: [(x, mean) for x, mean in found if x > 0] for name, found in placed.items()}
    metric = metric_text(compared.study)
    if not any(placed.values()):
        return []
    return [
        Chart(
            "",
            "FLOPs that count",
            metric,
            {name: means(found) for name, found in placed.items()},
            "Every point and control: mean and 95% interval over seeds.",
            intervals={name: ranges(found) for name, found in placed.items()},
            scatter=list(placed),
            log_x=True,
        )
    ]


def _mean(result: Result, name: str) -> float | None:
    values = [value for row in result.rows if row.state == COMPLETE and (value := _figure(row, name)) is not None]
    return sum(values) / len(values) if values else None


def _figure(row: Row, name: str) -> float | None:
    value: float | None = getattr(row, name)
    return value


def _amount(value: float | None) -> str | None:
    """Three digits with a power of ten where there are many more."""
    if value is None:
        return None
    return f"{value:.2e}".replace("e+", "e") if value >= 1e9 else f"{value:,.{1 if 0 < value < 1000 else 0}f}"
