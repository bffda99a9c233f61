"""Reading token ids out of the chunks of litdata.

Not by litdata, which would unpickle what an index calls pickled, and import the modules that a data spec names. What is
not asked for is never decoded.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pd_lightning.data.litdata_index import Index
from pd_lightning.data.sources import optional_package
from pd_lightning.data.token_sources import Ids
from pd_lightning.store.checksums import chunk_header, inside

_MAGIC = b"LDARW01\0"
_END = struct.Struct("<I8s")  # of a chunk with a table: its length, and the magic


def flat_ids(folder: Path, chunk: str, index: Index) -> Ids:
    """Give the ids of a chunk that holds nothing else; they stay on disk until they are read.

    Args:
        folder: The folder of litdata.
        chunk: Name of the chunk.
        index: What is said of it.

    Raises:
        ValueError: It is damaged, or holds no integers.
    """
    path, dtype = inside(folder, chunk), index.dtype()
    start, size = int(_offsets(path)[0]), path.stat().st_size
    if (size - start) % dtype.itemsize:
        raise ValueError(_damaged(path, f"{size - start} bytes of ids"))
    return np.memmap(path, dtype, "r", start) if size > start else np.empty(0, dtype)


def items(folder: Path, chunk: str, index: Index) -> Iterator[Ids]:
    """Yields the ids of each item: the sizes of its leaves come first, then the leaves.

    Args:
        folder: The folder of litdata.
        chunk: Name of the chunk.
        index: What is said of it.

    Raises:
        ValueError: It is damaged, or holds no integers.
    """
    path = inside(folder, chunk)
    offsets = _offsets(path)
    if (table := _table(path)) is not None:
        yield from _column(table, index.field, path)
        return
    count, leaves = len(index.formats), index.leaves
    with path.open("rb") as file:
        for start, end in pairwise(offsets):
            file.seek(int(start))
            item = file.read(int(end - start))
            sizes = np.frombuffer(item[: 4 * count], "<u4").astype(np.int64)
            if len(sizes) != count or 4 * count + sizes.sum() != len(item):
                raise ValueError(_damaged(path, "an item that does not have its size"))
            first = 4 * count + int(sizes[: leaves.start].sum())
            yield _decoded(item[first : first + int(sizes[leaves.start : leaves.stop].sum())], index, path)


def _table(path: Path) -> tuple[int, int] | None:
    """Give where in a chunk an Arrow table lies, in which newer versions keep rows; None for nowhere."""
    size = path.stat().st_size
    with path.open("rb") as file:
        file.seek(max(0, size - _END.size))
        end = file.read()
    if len(end) < _END.size or not end.endswith(_MAGIC):
        return None
    length, _ = _END.unpack(end)
    start = size - _END.size - length
    if start < 0:
        raise ValueError(_damaged(path, "a table that does not have its size"))
    return start, length


def _column(table: tuple[int, int], field: str, path: Path) -> Iterator[Ids]:
    arrow = optional_package("pyarrow", "pyarrow", "pd_lightning.data.LitData")
    start, length = table
    try:
        with arrow.memory_map(str(path)) as file, arrow.ipc.open_file(file.read_buffer(start + length)[start:]) as rows:
            for number in range(rows.num_record_batches):
                for row in rows.get_batch(number).column(field):
                    yield _integers(row.as_py(), path)
    except (arrow.ArrowException, KeyError) as error:
        raise ValueError(_damaged(path, f"a table that can't be read ({error})")) from error


def _integers(found: Any, path: Path) -> Ids:
    try:
        ids = np.asarray(found)
    except ValueError:  # lists of other lengths in it
        ids = np.empty((0, 0))
    if ids.ndim != 1 or not (ids.size == 0 or ids.dtype.kind in "iu"):
        raise ValueError(
            f"Items of litdata must hold lists of integers as ids, got something else in {path}. Set source.field."
        )
    return ids.astype(np.int64)


def _decoded(data: bytes, index: Index, path: Path) -> Ids:
    name = index.formats[index.leaves.start].partition(":")[0]
    if name == "json":
        from litdata.streaming.serializers import JsonSerializer

        return _integers(JsonSerializer().deserialize(data), path)
    dtype = np.dtype("<i8") if name == "int" else index.dtype()
    if len(data) % dtype.itemsize:
        raise ValueError(_damaged(path, "an item that holds half an id"))
    return np.frombuffer(data, dtype)


def _offsets(path: Path) -> NDArray[np.int64]:
    """Give where items begin and end.

    Raises:
        FileNotFoundError: There is no such chunk.
        ValueError: The header of the chunk does not say.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} must be there, as index.json tells of it, got none. Get the folder again.")
    header = chunk_header(path)
    numbers = np.frombuffer(header[: len(header) // 4 * 4], "<u4").astype(np.int64)
    ordered = numbers.size >= 2 and numbers.size == numbers[0] + 2 and bool((np.diff(numbers[1:]) >= 0).all())
    if not ordered or numbers[1] != len(header) or numbers[-1] > path.stat().st_size:
        raise ValueError(_damaged(path, "a header that does not describe its items"))
    return numbers[1:]


def _damaged(path: Path, found: str) -> str:
    return f"{path} must be a chunk of litdata, got {found}: it is damaged. Get the folder again."
