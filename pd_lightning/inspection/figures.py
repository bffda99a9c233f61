"""The figures of a split that `pd-lightning inspect` shows, from a sample of its blocks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pd_lightning.store.manifest import Manifest
from pd_lightning.store.payload import part_sizes
from pd_lightning.store.reader import BlockReader

_SAMPLE = 256
_ENTROPY_STEP = 0.5  # nats

Item = dict[str, np.ndarray]


def describe_split(folder: str | Path, name: str, manifest: Manifest) -> dict[str, Any]:
    """Summary of one split as JSON values: sizes, and of a logit store figures of up to 256 evenly spread blocks.

    Args:
        folder: The data folder.
        name: Name of the split.
        manifest: What `verify_layout` gave of the folder.
    """
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
        figures |= _describe_targets(BlockReader(folder, name, manifest=manifest))
    return figures


def _describe_targets(reader: BlockReader) -> dict[str, Any]:
    number = min(_SAMPLE, len(reader))
    chosen = np.unique(np.linspace(0, len(reader) - 1, number).round().astype(int))
    items = [reader[index] for index in chosen]
    counts = np.concatenate([item["counts"] for item in items])
    columns = {name: np.concatenate([item[name] for item in items]) for name in reader.manifest.columns}
    parts = [part_sizes(reader.encoded(index)) for index in chosen]
    targets = sum(part["targets"] for part in parts)
    figures = {
        "sampled_blocks": len(items),
        "bytes_per_token_by_part": {name: sum(part[name] for part in parts) / counts.size for name in parts[0]},
        "bytes_per_kept_id": targets / int(counts.sum()) if counts.any() else None,
        "kept_ids": {"mean": float(counts.mean()), "min": int(counts.min()), "max": int(counts.max())},
        "kept_ids_histogram": _doubling(counts),
        "columns": {name: _range(values) for name, values in columns.items()},
        **_label_ranks(items),
    }
    if "log_tail" in columns:
        figures["kept_mass"] = float(1 - np.exp(columns["log_tail"].astype(np.float64)).mean())
    if "entropy" in columns:
        figures["entropy_histogram"] = _even(columns["entropy"])
    if reader.manifest.teacher_steps:
        figures["teacher_steps"] = _range(np.concatenate([item["teacher_step"] for item in items]))
    return figures


def _label_ranks(items: Sequence[Item]) -> dict[str, Any]:
    """Which of the kept ids, 1 for the most probable, the label is, and how often it is none of them."""
    ranks = np.concatenate([_label_rank(item) for item in items])
    found = ranks[ranks > 0]
    return {
        "label_not_kept": float((ranks == 0).mean()),
        "label_rank": _range(found) if found.size else None,
        "label_rank_histogram": _doubling(ranks),
    }


def _label_rank(item: Item) -> np.ndarray:
    """Rank of each position's label among its kept ids, 0 where it is not kept `[T]`."""
    counts = item["counts"]
    rows = np.repeat(np.arange(counts.size), counts)
    hits = np.flatnonzero(item["ids"] == item["block"][1:][rows])
    values = item["draws"] if "draws" in item else item["logprobs"]
    label = np.full(counts.size, np.inf)
    label[rows[hits]] = values[hits]
    above = np.bincount(rows[values > label[rows]], minlength=counts.size)
    ranks: np.ndarray = np.where(np.isin(np.arange(counts.size), rows[hits]), above + 1, 0)
    return ranks


def _doubling(numbers: np.ndarray) -> dict[str, float]:
    """Share of whole numbers in bins that double: 0, 1, 2-3, 4-7, …"""
    bins = np.frexp(numbers)[1]
    shares = np.bincount(bins) / numbers.size
    lows = [0] + [1 << power for power in range(len(shares) - 1)]
    names = [str(low) if low < 2 else f"{low}-{2 * low - 1}" for low in lows]
    return {name: float(share) for name, share in zip(names, shares, strict=True)}


def _even(values: np.ndarray) -> dict[str, float]:
    """Share of values from 0 on in bins of equal width, by the bin's start."""
    bins = np.floor(np.maximum(values[np.isfinite(values)], 0) / _ENTROPY_STEP).astype(int)
    return {f"{number * _ENTROPY_STEP:g}": float(share) for number, share in enumerate(np.bincount(bins) / values.size)}


def _range(values: np.ndarray) -> dict[str, float | None]:
    """Mean of the finite values, least and largest; None for infinity, which JSON has no word for."""
    finite = values[np.isfinite(values)].astype(np.float64)
    figures = {"mean": finite.mean() if finite.size else np.nan, "min": values.min(), "max": values.max()}
    return {name: float(value) if np.isfinite(value) else None for name, value in figures.items()}
