"""What `pd-lightning inspect` found, in tables: on the terminal, and on a page with plots."""

from __future__ import annotations

from collections.abc import Iterator
from json import dumps
from typing import Any

from rich.console import Console

from pd_lightning.report import Table, console_tables, write_report
from pd_lightning.report.charts import Chart

_BAR = 30
_ALL_WELL = "Every checksum and every item is as it was written."
_DOUBLING = "(0, 1, 2: 2-3, 3: 4-7, 4: 8-15, …)"
_PARTS = {"tokens": "tokens", "columns": "columns", "targets": "ids, counts and values"}


def print_tables(report: dict[str, Any], console: Console) -> None:
    """Print what was found.

    Args:
        report: What `inspect` put together.
        console: Where to.
    """
    console_tables.print_tables(_tables(report), console)
    for problem in report.get("problems", ()):
        console.print(problem, style="red", markup=False, highlight=False, soft_wrap=True)
    if report.get("problems") == []:
        console.print(_ALL_WELL, style="green")


def write_page(report: dict[str, Any], path: str) -> None:
    """Write what was found as one HTML page.

    Args:
        report: What `inspect` put together.
        path: The file to write.
    """
    checked = "\n\n".join(report["problems"] or [_ALL_WELL]) if "problems" in report else ""
    kind = report["manifest"]["kind"]
    write_report(
        path,
        f"{'Logit store' if kind == 'logits' else 'Token blocks'} {report['path']}",
        checked,
        tables=list(_tables(report)),
        charts=list(_charts(report["splits"])),
        footer="Made by pd-lightning inspect.",
    )


def _tables(report: dict[str, Any]) -> Iterator[Table]:
    if "manifest" not in report:
        return
    yield _manifest_table(report["path"], report["manifest"])
    yield _split_table(report["splits"])
    for name, figures in report["splits"].items():
        if "sampled_blocks" in figures:
            yield _target_table(name, figures, report["manifest"]["statistics"])
    if "recomputed" in report:
        yield _recomputed_table(report["recomputed"])


def _manifest_table(path: str, manifest: dict[str, Any]) -> Table:
    rows = []
    for key, value in manifest.items():
        if key in ("format", "splits"):
            continue
        for name, figure in value.items() if isinstance(value, dict) else [("", value)]:
            if figure not in (None, [], {}):
                rows.append((f"{key}.{name}" if name else key, _text(figure)))
    return Table(path, ("manifest", ""), rows)


def _split_table(splits: dict[str, dict[str, Any]]) -> Table:
    columns = ("blocks", "tokens", "chunks", "bytes")
    rows = [(name, *(split[column] for column in columns), split["bytes_per_token"]) for name, split in splits.items()]
    return Table("Splits", ("split", *columns, "bytes per token"), rows)


def _target_table(name: str, figures: dict[str, Any], statistics: dict[str, Any]) -> Table:
    parts = figures["bytes_per_token_by_part"]
    rows: list[tuple[str, str | float | None]] = [
        *((f"bytes per token: {_PARTS[part]}", parts[part]) for part in _PARTS),
        ("bytes per kept id", figures["bytes_per_kept_id"]),
        ("kept mass (mean)", f"{figures['kept_mass']:.4f}" if "kept_mass" in figures else None),
        ("kept ids", _spread(figures["kept_ids"])),
        *_bars(figures["kept_ids_histogram"]),
        ("rank of the label among the kept ids", _spread(figures["label_rank"])),
        *_bars(figures["label_rank_histogram"], zero="not kept"),
        *((column, _spread(spread)) for column, spread in figures["columns"].items()),
    ]
    if "teacher_steps" in figures:
        rows.append(("teacher's step", _spread(figures["teacher_steps"])))
    if "kl_error_per_token" in statistics:
        rows.append(("KL error while recording (mean, nats)", f"{statistics['kl_error_per_token']:.2g}"))
    if "max_logprob_error" in statistics:
        rows.append(("largest log-prob error while recording", f"{statistics['max_logprob_error']:.2g}"))
    title = f"Targets of {name}, from {figures['sampled_blocks']} of {figures['blocks']:,} blocks"
    return Table(title, ("", ""), [row for row in rows if row[1] is not None])


def _recomputed_table(found: dict[str, Any]) -> Table:
    columns = ("split", "block", "position")
    rows = [
        (name, f"{worst['difference']:.2g}", *(worst[column] for column in columns))
        for name, worst in found["worst"].items()
    ]
    weights = "the weights that recorded it" if found["same_weights"] else "OTHER WEIGHTS than those that recorded it"
    mean = "" if found["mean_kl"] is None else f" Mean KL {found['mean_kl']:.2g} nats."
    title = f"Worst difference to {found['teacher']}, {weights}, in {found['blocks']:,} blocks.{mean}"
    return Table(title, ("figure", "difference", *columns), rows)


def _charts(splits: dict[str, dict[str, Any]]) -> Iterator[Chart]:
    sampled = {name: figures for name, figures in splits.items() if "sampled_blocks" in figures}
    for key, title, label in (
        ("kept_ids_histogram", "Kept ids", f"ids kept at a position {_DOUBLING}"),
        ("label_rank_histogram", "Rank of the label", f"rank among the kept ids, 0 for none of them {_DOUBLING}"),
        ("entropy_histogram", "Entropy of the teacher", "nats"),
    ):
        series = {name: _points(figures[key]) for name, figures in sampled.items() if key in figures}
        if series:
            yield Chart(title, label, "share of positions", series)


def _points(histogram: dict[str, float]) -> list[tuple[float, float]]:
    """The bins of a histogram by where they start, or by number if they double."""
    doubling = "2-3" in histogram
    starts = range(len(histogram)) if doubling else map(float, histogram)
    return list(zip(map(float, starts), histogram.values(), strict=True))


def _bars(histogram: dict[str, float], zero: str = "0") -> Iterator[tuple[str, str]]:
    for name, share in histogram.items():
        yield f"  {zero if name == '0' else name}", f"{'█' * round(_BAR * share)} {share:.1%}"


def _spread(figures: dict[str, float | None] | None) -> str | None:
    if figures is None:
        return None
    shown = {key: "infinite" if value is None else f"{value:.4g}" for key, value in figures.items()}
    return f"mean {shown['mean']}, from {shown['min']} to {shown['max']}"


def _text(value: Any) -> str:
    return value if isinstance(value, str) else dumps(value)
