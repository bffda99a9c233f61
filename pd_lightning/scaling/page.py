"""A fitted law in tables and plots: on the terminal, and on a page."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from rich.console import Console

from pd_lightning.report import Table, console_tables, write_report
from pd_lightning.report.charts import Chart
from pd_lightning.scaling.analysis import Analysis, completed
from pd_lightning.scaling.fitting import interval
from pd_lightning.scaling.identifiability import at_bounds
from pd_lightning.scaling.law_file import fold_summary
from pd_lightning.scaling.laws import Array, Sizes

_FARTHER = 100.0  # times the operations of the largest run


def print_tables(found: Analysis, console: Console) -> None:
    """Print the tables, and what to beware of.

    Args:
        found: All about the law.
        console: Where to.
    """
    console_tables.print_tables(tables(found), console)
    for caution in cautions(found):
        console.print(caution, markup=False, highlight=False, soft_wrap=True)


def write_page(path: Path, found: Analysis, footer: str) -> None:
    """Write the page.

    Args:
        path: The HTML file.
        found: All about the law.
        footer: How it was made.
    """
    law = found.fitted.law
    intro = f"{law.formula}, fitted to {len(found.runs)} runs at {found.points} points. " + _verdict(found)
    paragraphs = "\n\n".join([intro, *cautions(found)])
    charts = [_over_data(found), _residuals(found), _extrapolation(found)]
    write_report(path, f"Scaling law: {law.name}", paragraphs, list(tables(found)), charts, footer=footer)


def tables(found: Analysis) -> Iterator[Table]:
    """Give the coefficients, and the errors where the law wasn't fitted."""
    ends, open_ones = found.intervals(), found.unclaimed
    rows = [
        (name, _number(value), _interval(ends.get(name)) if name not in open_ones else "not identified")
        for name, value in found.fitted.coefficients.items()
    ]
    yield Table("Coefficients", ("coefficient", "fit", "95% interval"), rows)
    if found.largest:
        yield _largest(found)
    if found.folds:
        summary = fold_summary(found)
        row = (str(found.folds), f"{summary['mean_error']:.2%}", f"{summary['largest_error']:.2%}")
        yield Table("Predicted from the other folds", ("folds", "mean error", "largest error"), [row])


def _largest(found: Analysis) -> Table:
    taught = found.fitted.law.needs_teacher
    columns = ["student", "tokens", *(["teacher's loss"] if taught else []), "measured", "predicted", "95% interval"]
    rows = [
        (
            _size(p.params),
            _size(p.tokens),
            *([p.teacher_loss] if taught else []),
            p.measured,
            p.predicted,
            "–" if p.low is None or p.high is None else f"{p.low:.3f} to {p.high:.3f}",
            f"{p.error:+.2%}",
        )
        for p in found.largest
    ]
    caption = "The interval is that of the law; a single run scatters around it."
    return Table("The largest students, predicted by a fit without them", [*columns, "error"], rows, caption)


def cautions(found: Analysis) -> list[str]:
    """Say what not to read into the coefficients."""
    lines = []
    if found.unclaimed:
        lines.append(
            f"These runs do not fix {', '.join(found.unclaimed)}: use predictions within the runs, not their values."
        )
    lines += [f"{one}." for one in found.trade_offs]
    if edge := at_bounds(found.fitted):
        lines.append(f"The fit stopped at the bounds of {', '.join(edge)}.")
    if wide := found.open_ended:
        lines.append(f"The bootstrap drove {', '.join(wide)} to the bounds of the search: the interval would be wider.")
    if found.fitted.agreeing < 0.5:
        lines.append(f"Only {found.fitted.agreeing:.0%} of the starts ended at this fit: there are other valleys.")
    return lines


def _verdict(found: Analysis) -> str:
    worst = f"Runs scatter around it by {found.noise:.2%}. "
    if not found.largest:
        return worst
    point = found.largest[-1]
    return worst + (
        f"A fit without the largest predicts {point.predicted:.4f} for it, where {point.measured:.4f} was measured "
        f"({point.error:+.2%})."
    )


def _number(value: float) -> str:
    return f"{value:.4g}"


def _interval(ends: tuple[float, float] | None) -> str:
    return "–" if ends is None else f"{_number(ends[0])} to {_number(ends[1])}"


def _size(value: float) -> str:
    unit, letter = next(((u, x) for u, x in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")) if value >= u), (1, ""))
    return f"{value / unit:.3g}{letter}"


def _over_data(found: Analysis) -> Chart:
    """Loss over tokens for the smallest, a middle and the largest student, with the teacher that has most runs."""
    sizes, shown = found.runs.sizes, np.ones(len(found.runs), dtype=bool)
    note = ""
    if sizes.teacher_loss is not None:
        teachers, counts = np.unique(sizes.teacher_loss, return_counts=True)
        teacher = teachers[np.argmax(counts)]
        shown, note = sizes.teacher_loss == teacher, f" The teacher's loss is {teacher:.4f}."
    students = np.unique(sizes.params[shown])
    chosen = sorted({students[0], students[len(students) // 2], students[-1]})
    series: dict[str, list[tuple[float, float]]] = {}
    like: dict[str, str] = {}
    tokens = np.geomspace(sizes.tokens.min(), sizes.tokens.max(), 40)
    for params in chosen:
        one = sizes.take(shown).take(np.zeros(len(tokens), dtype=int))
        at = _completed(found, Sizes(np.full(len(tokens), params), tokens, one.teacher_loss))
        series[f"{_size(params)}, fit"] = _points(tokens, found.fitted.predict(at))
    for params in chosen:
        here = shown & (sizes.params == params)
        series[f"{_size(params)}, runs"] = _points(sizes.tokens[here], found.runs.losses[here])
        like[f"{_size(params)}, runs"] = f"{_size(params)}, fit"
    caption = "The smallest, a middle and the largest student." + note
    return Chart(
        "The fit over the runs",
        "tokens",
        "loss (nats/token)",
        series,
        caption,
        scatter=list(like),
        like=like,
        log_x=True,
    )


def _residuals(found: Analysis) -> Chart:
    errors = 100 * (found.runs.losses / found.fitted.predict(found.runs.sizes) - 1)
    caption = "A trend here says that the law has the wrong form."
    series = {"runs": _points(found.runs.flops, errors)}
    return Chart(
        "What the fit leaves",
        "FLOPs of the student's training",
        "measured / predicted - 1 (%)",
        series,
        caption,
        scatter=["runs"],
        log_x=True,
    )


def _extrapolation(found: Analysis) -> Chart:
    """Loss over operations, at the tokens for a parameter that is in the middle of the runs."""
    sizes = found.runs.sizes
    ratio = float(np.median(sizes.tokens / sizes.params))
    factor = found.runs.flops / (sizes.params * sizes.tokens)  # 6, and attention
    flops = np.geomspace(found.runs.flops.min(), _FARTHER * found.runs.flops.max(), 60)
    params = np.sqrt(flops / (float(np.median(factor)) * ratio))
    teacher, note = None, ""
    if sizes.teacher_loss is not None:
        best = float(sizes.teacher_loss.min())
        teacher, note = np.full(len(flops), best), f" The teacher is the best of the runs, with a loss of {best:.4f}."
    along = _completed(found, Sizes(params, params * ratio, teacher))
    losses = found.fitted.predict(along)
    near = np.abs(np.log(sizes.tokens / sizes.params / ratio)) < np.log(2)
    if sizes.teacher_loss is not None:
        near &= sizes.teacher_loss == sizes.teacher_loss.min()
    bands = {}
    if len(found.replicates):
        low, high = interval(found.fitted.predict(along, found.replicates), found.points, len(found.fitted.z))
        bands["law"] = list(zip(flops.tolist(), low.tolist(), high.tolist(), strict=True))
    return Chart(
        "Beyond the runs",
        "FLOPs of the student's training",
        "loss (nats/token)",
        {"law": _points(flops, losses), "runs": _points(found.runs.flops[near], found.runs.losses[near])},
        f"At {ratio:.3g} tokens for a parameter, up to {_FARTHER:.0f} times the largest run; runs within a factor of 2 "
        f"of that. The band is the 95% interval of the bootstrap: it knows nothing of other forms of the law.{note}",
        bands=bands,
        scatter=["runs"],
        log_x=True,
    )


def _completed(found: Analysis, sizes: Sizes) -> Sizes:
    return completed(sizes, found.supervised if found.fitted.law.needs_supervised else None)


def _points(xs: Array, ys: Array) -> list[tuple[float, float]]:
    return list(zip(xs.tolist(), ys.tolist(), strict=True))
