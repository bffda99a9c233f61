"""Writing a data folder so that every chunk is there exactly once, whenever the process dies.

Chunk c holds the blocks [c·m, (c+1)·m). It is written to a temporary folder beside, synced, and renamed into
place: that rename is the commit point, so a chunk that exists is done. Its record (litdata's index entry,
digests, statistics) is renamed just before it, so a chunk that exists has its record. `finish` gathers them.

litdata's own writer streams into the final name without a sync; here it only serialises.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pd_lightning.store.checksums import (
    CHECKSUMS_FILE,
    FileDigest,
    checksums_json,
    chunk_digest,
    digest_file,
    digest_of,
)
from pd_lightning.store.durable import (
    TEMPORARY,
    disk_full_explained,
    publish,
    sync,
    temporary_beside,
    write_durably,
)
from pd_lightning.store.manifest import MANIFEST_FILE, Manifest, SplitInfo
from pd_lightning.store.space import check_room

if TYPE_CHECKING:
    import numpy as np

INDEX_FILE = "index.json"
# litdata's offsets are uint32.
MAX_CHUNK_BYTES = (1 << 32) - 1

_CHUNK_NAME = re.compile(r"chunk-(\d{6,})\.bin")
# Larger than any chunk: where one ends is decided here, not by litdata.
_NEVER_SPLIT = 10**9


def chunk_name(index: int) -> str:
    """File name of a chunk."""
    return f"chunk-{index:06d}.bin"


def num_chunks(num_blocks: int, blocks_per_chunk: int) -> int:
    """Chunks that hold `num_blocks`, the last one possibly short."""
    return -(-num_blocks // blocks_per_chunk)


def blocks_in_chunk(index: int, split: SplitInfo) -> int:
    """Blocks of one chunk of a split."""
    return min(split.blocks_per_chunk, split.num_blocks - index * split.blocks_per_chunk)


def done_chunks(split_dir: str | Path) -> set[int]:
    """Indices of the chunks that are written."""
    names = (_CHUNK_NAME.fullmatch(path.name) for path in Path(split_dir).glob("chunk-*.bin"))
    return {int(match[1]) for match in names if match}


def chunk_statistics(split_dir: str | Path) -> Iterator[dict[str, Any]]:
    """The statistics that `write_chunk` was given, of all written chunks in order; before `finish` only."""
    return (_read_record(Path(split_dir), index)["statistics"] for index in sorted(done_chunks(split_dir)))


def write_chunk(
    split_dir: str | Path,
    index: int,
    items: Sequence[dict[str, np.ndarray]],
    statistics: dict[str, Any] | None = None,
) -> None:
    """Write one chunk; does nothing where it is already written.

    Several processes may write different chunks of a split at the same time.

    Args:
        split_dir: Folder of the split, made if missing.
        index: Which chunk, from 0.
        items: Its encoded blocks, in order.
        statistics: JSON values to keep for `chunk_statistics`.

    Raises:
        ValueError: The chunk is larger than litdata's format can hold.
        OSError: The disk is full; what was written before stays.
    """
    split_dir = Path(split_dir)
    assert items, "a chunk holds at least one block"
    final = split_dir / chunk_name(index)
    if final.exists():
        return
    size = sum(array.nbytes + 8 for item in items for array in item.values())
    if size >= MAX_CHUNK_BYTES - 4 * len(items):
        raise ValueError(
            f"a chunk must stay below {MAX_CHUNK_BYTES} bytes, got {size} in {len(items)} blocks. "
            "Lower blocks_per_chunk."
        )
    temporary = temporary_beside(final)
    with disk_full_explained(f"chunk {index} of {split_dir}", lambda: _how_to_go_on(split_dir)):
        check_room(split_dir, size)
        try:
            temporary.mkdir(parents=True)
            written, record = _serialise(temporary, items)
            record["entry"]["filename"] = final.name
            record["statistics"] = statistics or {}
            write_durably(_record_path(split_dir, index), json.dumps(record).encode())
            publish(written, final)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def finish(folder: str | Path, manifest: Manifest) -> None:
    """Turn written chunks into a finished data folder; killed at any point, it can be called again.

    One process calls it, after all have written their chunks. A folder that is finished stays as it is.

    Args:
        folder: The data folder, with every chunk of every split written, and its `tokenizer` folder.
        manifest: Its manifest, written last.

    Raises:
        OSError: The disk is full.
    """
    folder = Path(folder)
    if not (folder / MANIFEST_FILE).exists():
        remedy = "All chunks are written: free some space and run the same command again."
        with disk_full_explained(str(folder), lambda: remedy):
            digests: dict[str, FileDigest] = {}
            for name, split in manifest.splits.items():
                digests.update(_finish_split(folder / name, split))
            digests.update(_digest_other_files(folder, manifest))
            content = json.dumps(manifest.to_json(), indent=1).encode()
            digests[MANIFEST_FILE] = digest_of(content)
            write_durably(folder / CHECKSUMS_FILE, checksums_json(digests))
            write_durably(folder / MANIFEST_FILE, content)
    for name in manifest.splits:
        for record in (folder / name).glob("chunk-*.json"):
            record.unlink()


def discard_unfinished(folder: str | Path) -> None:
    """Remove what a killed process left half-written. Call it while nobody writes to `folder`."""
    folder = Path(folder)
    for pattern in (f"{TEMPORARY}*", f"*/{TEMPORARY}*"):
        for path in folder.glob(pattern):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()


def _serialise(temporary: Path, items: Sequence[dict[str, np.ndarray]]) -> tuple[Path, dict[str, Any]]:
    """Let litdata write one chunk; give its path and its record."""
    from litdata.streaming.writer import BinaryWriter

    writer = BinaryWriter(str(temporary), chunk_size=_NEVER_SPLIT)
    for number, item in enumerate(items):
        writer[number] = item
    writer.done()
    # litdata puts the rank of the process and of the data worker into its names.
    (written,) = temporary.glob("*.bin")
    (index,) = temporary.glob("*.index.json")
    body = json.loads(index.read_text())
    (entry,) = body["chunks"]
    # Arrow types of the items, of no use to NumPy arrays and one thing less to check when opening.
    config = {**body["config"], "types": None}
    return written, {"entry": entry, "config": config, "digest": chunk_digest(written).to_json()}


def _finish_split(split_dir: Path, split: SplitInfo) -> dict[str, FileDigest]:
    """Write a split's `index.json`; give the digests of the split's files, named as in the data folder."""
    expected = num_chunks(split.num_blocks, split.blocks_per_chunk)
    assert done_chunks(split_dir) == set(range(expected)), f"{split_dir} lacks chunks, or has too many"
    # Without their statistics: some hold a figure for each block.
    records = [{**_read_record(split_dir, index), "statistics": None} for index in range(expected)]
    entries = [record["entry"] for record in records]
    sizes = [entry["chunk_size"] for entry in entries]
    assert sizes == [blocks_in_chunk(index, split) for index in range(expected)], f"{split_dir} has uneven chunks"
    config = records[0]["config"] if records else None
    assert all(record["config"] == config for record in records), f"{split_dir} mixes formats"
    content = json.dumps({"chunks": entries, "config": config, "updated_at": "0"}, indent=1).encode()
    split_dir.mkdir(exist_ok=True)
    write_durably(split_dir / INDEX_FILE, content)
    digests = {
        entry["filename"]: FileDigest(**record["digest"]) for entry, record in zip(entries, records, strict=True)
    }
    digests[INDEX_FILE] = digest_of(content)
    return {f"{split_dir.name}/{name}": digest for name, digest in digests.items()}


def _digest_other_files(folder: Path, manifest: Manifest) -> dict[str, FileDigest]:
    """Sync and digest what others put into the folder, such as the tokenizer."""
    written_here = {*manifest.splits, CHECKSUMS_FILE, MANIFEST_FILE}
    digests = {}
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        hidden = any(part.startswith(TEMPORARY) for part in relative.parts)
        if path.is_file() and relative.parts[0] not in written_here and not hidden:
            sync(path)
            digests[relative.as_posix()] = digest_file(path)
    return digests


def _record_path(split_dir: Path, index: int) -> Path:
    return split_dir / f"chunk-{index:06d}.json"


def _read_record(split_dir: Path, index: int) -> dict[str, Any]:
    record: dict[str, Any] = json.loads(_record_path(split_dir, index).read_text())
    return record


def _how_to_go_on(split_dir: Path) -> str:
    sizes = [path.stat().st_size for path in split_dir.glob("chunk-*.bin")]
    return (
        f"{len(sizes)} chunks ({sum(sizes):,} bytes) are written and stay. "
        "Free some space and run the same command again."
    )
