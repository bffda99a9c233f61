"""Chunks of a folder that is still being written: read back, removed, renumbered."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from pd_lightning.store.checksums import FileDigest, chunk_digest
from pd_lightning.store.chunks import INDEX_FILE, chunk_name
from pd_lightning.store.durable import publish, temporary_beside, write_durably


def read_chunk(split_dir: Path, index: int) -> tuple[list[dict[str, np.ndarray]], dict[str, Any]]:
    """Read a chunk before there is an index of all of them.

    Args:
        split_dir: Folder of the split.
        index: Which chunk.

    Returns:
        Its encoded blocks, and the statistics that it was written with.

    Raises:
        ValueError: The chunk is damaged.
    """
    from litdata.streaming.item_loader import PyTreeLoader
    from litdata.streaming.reader import BinaryReader
    from litdata.streaming.sampler import ChunkedIndex

    path = split_dir / chunk_name(index)
    record = _read_record(path)
    if chunk_digest(path) != FileDigest(**record["digest"]):
        raise ValueError(f"{path} must be as it was written, got other contents. Remove {split_dir}, and record again.")
    alone = temporary_beside(path)
    alone.mkdir()
    try:
        shutil.copy(path, alone / path.name)
        index_of_one = {"chunks": [record["entry"]], "config": record["config"], "updated_at": "0"}
        (alone / INDEX_FILE).write_text(json.dumps(index_of_one))
        reader = BinaryReader(str(alone), item_loader=PyTreeLoader(batch_decode=0))
        items = [reader.read(ChunkedIndex(number, 0)) for number in range(record["entry"]["chunk_size"])]
        return [{name: np.array(array) for name, array in item.items()} for item in items], record["statistics"]
    finally:
        shutil.rmtree(alone)


def read_statistics(split_dir: Path, index: int) -> dict[str, Any]:
    """Read the statistics alone that a chunk was written with."""
    statistics: dict[str, Any] = _read_record(split_dir / chunk_name(index))["statistics"]
    return statistics


def remove_chunk(split_dir: Path, index: int) -> None:
    """Remove a chunk, so that it counts as not written."""
    path = split_dir / chunk_name(index)
    path.unlink(missing_ok=True)
    _record(path).unlink(missing_ok=True)


def renumber_chunk(split_dir: Path, index: int, new: int) -> None:
    """Give a chunk another index, which no chunk has; killed at any point, it has the one or the other."""
    path, target = split_dir / chunk_name(index), split_dir / chunk_name(new)
    record = _read_record(path)
    record["entry"]["filename"] = target.name
    write_durably(_record(target), json.dumps(record).encode())
    publish(path, target)
    _record(path).unlink()


def _record(chunk: Path) -> Path:
    return chunk.with_suffix(".json")


def _read_record(chunk: Path) -> dict[str, Any]:
    record: dict[str, Any] = json.loads(_record(chunk).read_text(encoding="utf-8"))
    return record
