"""`pd-lightning inspect`: what a data folder holds, and whether it is whole."""

from __future__ import annotations

from json import dumps
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table
from rich.text import Text

from pd_lightning.store.manifest import Manifest
from pd_lightning.store.reader import BlockReader
from pd_lightning.store.safety import verify_layout
from pd_lightning.store.verification import verify_folder

_SAMPLE = 256
_BAR = 30


def inspect(path: str, verify: bool = False, json: bool = False) -> int:
    """Show what a folder of token blocks or a logit store holds: manifest, sizes, kept ids and kept mass.

    Args:
        path: The data folder, written by `pd-lightning tokenize` or `pd-lightning record`.
        verify: Read everything: compare each file with its checksum, decode each item and check it, and name
            the chunks that are damaged. The exit code is 1 if there are any.
        json: Print JSON instead of tables.

    Returns:
        The exit code: 0, or 1 if `verify` found damage.

    Raises:
        FileNotFoundError: No such folder, or an unfinished one.
        ValueError: Without `verify`: the folder is damaged, of a newer version, or not to be trusted.
    """
    problems = _verify(path, quiet=json) if verify else []
    report: dict[str, Any] = {"path": path}
    try:
        report |= describe(path)
    except ValueError:
        # With --verify the list of problems says it better.
        if not problems:
            raise
    if verify:
        report["problems"] = problems
    if json:
        print(dumps(report, indent=2))
    else:
        _show(report, Console())
    return 1 if problems else 0


def describe(folder: str | Path) -> dict[str, Any]:
    """Summary of a data folder as JSON values.

    Args:
        folder: The data folder.

    Returns:
        `manifest`, and `splits` with sizes and, for logit stores, figures of up to 256 evenly spread blocks.
    """
    manifest = verify_layout(folder)
    splits = {name: _describe_split(folder, name, manifest) for name in manifest.splits}
    return {"manifest": manifest.to_json(), "splits": splits}


def _describe_split(folder: str | Path, name: str, manifest: Manifest) -> dict[str, Any]:
    split = manifest.splits[name]
    chunks = list((Path(folder) / name).glob("chunk-*.bin"))
    size = sum(chunk.stat().st_size for chunk in chunks)
    figures: dict[str, Any] = {
        "blocks": split.num_blocks,
        "tokens": split.num_tokens,
        "chunks": len(chunks),
        "bytes": size,
        "bytes_per_token": size / split.num_tokens if split.num_tokens else None,
    }
    if manifest.kind == "logits" and split.num_blocks:
        figures |= _describe_targets(BlockReader(folder, name))
    return figures


def _describe_targets(reader: BlockReader) -> dict[str, Any]:
    """Figures of the targets, from a sample of blocks."""
    number = min(_SAMPLE, len(reader))
    chosen = np.unique(np.linspace(0, len(reader) - 1, number).round().astype(int))
    items = [reader[index] for index in chosen]
    counts = np.concatenate([item["counts"] for item in items])
    columns = {name: np.concatenate([item[name] for item in items]) for name in reader.manifest.columns}
    return {
        "sampled_blocks": len(items),
        "kept_ids": {"mean": float(counts.mean()), "min": int(counts.min()), "max": int(counts.max())},
        "kept_ids_histogram": _histogram(counts),
        "kept_mass": float(1 - np.exp(columns["log_tail"].astype(np.float64)).mean()),
        "columns": {name: _range(values) for name, values in columns.items()},
    }


def _histogram(counts: np.ndarray) -> dict[str, float]:
    """Share of positions by number of kept ids, in bins that double: 0, 1, 2-3, 4-7, …"""
    bins = np.where(counts > 0, np.floor(np.log2(np.maximum(counts, 1))).astype(int) + 1, 0)
    shares = np.bincount(bins) / counts.size
    lows = [0] + [1 << power for power in range(len(shares) - 1)]
    names = [str(low) if low < 2 else f"{low}-{2 * low - 1}" for low in lows]
    return {name: float(share) for name, share in zip(names, shares, strict=True)}


def _range(values: np.ndarray) -> dict[str, float | None]:
    """Mean of the finite values, least and largest; None for infinity, which JSON has no word for."""
    finite = values[np.isfinite(values)].astype(np.float64)
    figures = {"mean": finite.mean() if finite.size else np.nan, "min": values.min(), "max": values.max()}
    return {name: float(value) if np.isfinite(value) else None for name, value in figures.items()}


def _verify(path: str, *, quiet: bool) -> list[str]:
    """Check everything, with a progress bar on standard error."""
    console = Console(stderr=True)

    def progress(blocks: range) -> Any:
        return track(blocks, "Checking blocks", console=console, transient=True, disable=quiet)

    return verify_folder(path, progress)


def _show(report: dict[str, Any], console: Console) -> None:
    if "manifest" in report:
        console.print(_manifest_table(report["path"], report["manifest"]))
        console.print(_split_table(report["splits"]))
        for name, figures in report["splits"].items():
            if "sampled_blocks" in figures:
                console.print(_target_table(name, figures))
    if "problems" not in report:
        return
    for problem in report["problems"]:
        console.print(problem, style="red", markup=False, highlight=False, soft_wrap=True)
    if not report["problems"]:
        console.print("Every checksum and every item is as it was written.", style="green")


def _manifest_table(path: str, manifest: dict[str, Any]) -> Table:
    table = Table(title=Text(path), show_header=False, title_justify="left")
    for key, value in manifest.items():
        if key in ("format", "splits"):
            continue
        for name, figure in value.items() if isinstance(value, dict) else [("", value)]:
            if figure not in (None, [], {}):
                text = figure if isinstance(figure, str) else dumps(figure)
                table.add_row(f"{key}.{name}" if name else key, Text(text, overflow="fold"))
    return table


def _split_table(splits: dict[str, dict[str, Any]]) -> Table:
    table = Table(title="Splits", title_justify="left")
    table.add_column("split")
    for column in ("blocks", "tokens", "chunks", "bytes", "bytes per token"):
        table.add_column(column, justify="right")
    for name, figures in splits.items():
        sizes = [f"{figures[column]:,}" for column in ("blocks", "tokens", "chunks", "bytes")]
        ratio = figures["bytes_per_token"]
        table.add_row(name, *sizes, "–" if ratio is None else f"{ratio:.2f}")
    return table


def _target_table(name: str, figures: dict[str, Any]) -> Table:
    title = f"Targets of {name}, from {figures['sampled_blocks']} of {figures['blocks']:,} blocks"
    table = Table(title=title, show_header=False, title_justify="left")
    table.add_row("kept mass (mean)", f"{figures['kept_mass']:.4f}")
    table.add_row("kept ids", _spread(figures["kept_ids"]))
    for bin_name, share in figures["kept_ids_histogram"].items():
        table.add_row(f"  {bin_name}", f"{'█' * round(_BAR * share)} {share:.1%}")
    for column, spread in figures["columns"].items():
        table.add_row(column, _spread(spread))
    return table


def _spread(figures: dict[str, float | None]) -> str:
    shown = {key: "infinite" if value is None else f"{value:.4g}" for key, value in figures.items()}
    return f"mean {shown['mean']}, from {shown['min']} to {shown['max']}"
