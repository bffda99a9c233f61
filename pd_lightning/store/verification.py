"""Checking every item of a data folder, beyond what checksums can say."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from pd_lightning.store.chunks import chunk_name
from pd_lightning.store.reader import BlockReader
from pd_lightning.store.safety import verify_files, verify_layout

# Kept float16 log-probs are rescaled on reading, float32 ones are as the teacher gave them.
_MASS_TOLERANCE = 1e-3

Progress = Callable[[range], Iterable[int]]


def verify_folder(folder: str | Path, progress: Progress = iter) -> list[str]:
    """Check every checksum and every item of a data folder.

    Args:
        folder: The data folder.
        progress: Wraps the range of blocks of each split, to show how far it is.

    Returns:
        The problems found, each naming its file; none means that everything is as it was written.

    Raises:
        FileNotFoundError: No such folder, or an unfinished one.
    """
    problems = verify_files(folder)
    try:
        manifest = verify_layout(folder)
    except ValueError as error:
        # What can't be opened safely has no items to check.
        return problems or [str(error)]
    for split in manifest.splits:
        problems += _verify_items(BlockReader(folder, split, manifest=manifest), progress)
    return problems


def item_problem(item: dict[str, np.ndarray], vocab_size: int, samples: int | None = None) -> str | None:
    """What a decoded item breaks of the promises of its format, or None.

    Args:
        item: What `codec.decode` gave; positions without any id have no targets.
        vocab_size: V.
        samples: Draws at each position, where ids were drawn at random.
    """
    if "ids" not in item:
        return None
    counts = item["counts"]
    positions = np.repeat(np.arange(counts.size), counts)
    keys = positions * vocab_size + item["ids"]
    if np.unique(keys).size != keys.size:
        return "an id is kept twice at one position"
    numbers = {name: values for name, values in item.items() if values.dtype == np.float32}
    broken = [name for name, values in numbers.items() if np.isnan(values).any()]
    if broken:
        return f"{broken[0]} has values that are not numbers"
    for name in numbers.keys() & {"log_tail", "label_logprob"}:
        if numbers[name].max() > _MASS_TOLERANCE:
            return f"the {name} of a position is {numbers[name].max():.4f}, above 0"
    if samples is None:
        return _mass_problem(positions, counts, item["logprobs"], item["log_tail"])
    return _draws_problem(positions, counts, item["draws"], samples) if "draws" in item else None


def _mass_problem(positions: np.ndarray, counts: np.ndarray, logprobs: np.ndarray, log_tail: np.ndarray) -> str | None:
    mass = np.bincount(positions, weights=np.exp(logprobs.astype(np.float64)), minlength=counts.size)
    if (most := float(mass.max())) > 1 + _MASS_TOLERANCE:
        return f"the kept probabilities of a position sum to {most:.4f}"
    whole = np.where(counts > 0, mass + np.exp(log_tail.astype(np.float64)), 1.0)
    wrong = whole[np.abs(whole - 1) > _MASS_TOLERANCE]
    return f"the kept probabilities and the tail of a position sum to {wrong[0]:.4f}" if wrong.size else None


def _draws_problem(positions: np.ndarray, counts: np.ndarray, draws: np.ndarray, samples: int) -> str | None:
    if draws.min(initial=1) < 1:
        return "an id is kept that was never drawn"
    sums = np.bincount(positions, weights=draws, minlength=counts.size).astype(int)
    wrong = sums[(counts > 0) & (sums != samples)]
    return f"the draws of a position sum to {wrong[0]}, not {samples}" if wrong.size else None


def _verify_items(reader: BlockReader, progress: Progress) -> list[str]:
    """The first problem of each chunk of one split, and how many of its items have one."""
    found: dict[int, list[str]] = {}
    samples = (reader.manifest.selection or {}).get("samples")
    for index in progress(range(len(reader))):
        chunk, item = divmod(index, reader.manifest.splits[reader.split].blocks_per_chunk)
        try:
            problem = item_problem(reader[index], reader.manifest.vocab_size, samples)
        except ValueError as error:
            problem = str(error.__cause__ or error)
        if problem:
            found.setdefault(chunk, []).append(f"item {item}: {problem}")
    folder = reader.folder / reader.split
    return [
        f"{folder / chunk_name(chunk)} has {len(problems)} damaged items, first {problems[0]}"
        for chunk, problems in sorted(found.items())
    ]
