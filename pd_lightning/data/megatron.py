"""Token ids of Megatron-LM's preprocessing: `.bin` with the ids, `.idx` with where documents begin."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pd_lightning.data.files import find_files
from pd_lightning.data.token_sources import Document, Ids, TokenSource

_KEY = "source.paths of MegatronIndexed"
_MAPPED, _OLD = b"MMIDIDX\x00\x00", b"TNTIDX\x00\x00"
# 6 and 7 are floats, the one or the other by version; 9 and 10 are fairseq's, from which the format comes.
_DTYPES = {1: "<u1", 2: "<i1", 3: "<i2", 4: "<i4", 5: "<i8", 8: "<u2", 9: "<u4", 10: "<u8"}
_Numbers = NDArray[np.integer[Any]]


class MegatronIndexed(TokenSource):
    """Indexed data sets of Megatron-LM, NeMo and GPT-NeoX (`mmap`), and the older form (`lazy`, `cached`).

    Args:
        paths: The `.idx` files, their names without the suffix as Megatron's `--data-path` has them, folders and globs.
    """

    def __init__(self, paths: list[str]) -> None:
        self.paths = paths

    def documents(self, eos_token_id: int | None) -> Iterator[Document]:
        """Yields the documents: the sequences of each, end to end."""
        for path in self._files():
            index = _read_index(path)
            ids = (
                np.memmap(path.with_suffix(".bin"), index.dtype, "r") if index.sizes.sum() else np.empty(0, index.dtype)
            )
            for first, last in zip(index.documents[:-1], index.documents[1:], strict=True):
                yield Document(_sequences(ids, index, int(first), int(last)))

    def num_tokens(self) -> int:
        """Ids of all files together."""
        return sum(int(_read_index(path).sizes.sum()) for path in self._files())

    def _files(self) -> list[Path]:
        whole = [f"{path}.idx" if Path(f"{path}.idx").is_file() else path for path in self.paths]
        files = [path for path in find_files(whole, _KEY) if path.suffix == ".idx"]
        if not files:
            raise FileNotFoundError(f"paths must name an .idx file, got {self.paths}. Mend {_KEY}.")
        return files


@dataclass(frozen=True)
class _Index:
    """What an `.idx` file says.

    Args:
        dtype: Of the ids.
        sizes: Ids of each sequence.
        starts: Where each begins, counted in ids.
        documents: The first sequence of each document, and one past the last.
    """

    dtype: np.dtype
    sizes: _Numbers
    starts: _Numbers
    documents: _Numbers


def _sequences(ids: Ids, index: _Index, first: int, last: int) -> Ids:
    pieces = [ids[start : start + size] for start, size in zip(index.starts[first:last], index.sizes[first:last])]  # noqa: B905
    return np.concatenate(pieces) if pieces else np.empty(0, index.dtype)


def _read_index(path: Path) -> _Index:
    """Read an index, and hold it against its data.

    Raises:
        ValueError: It is none, of another version, or not of that data.
        FileNotFoundError: The data are not there.
    """
    try:
        data = np.memmap(path, np.uint8, "r")
        head = data[: len(_MAPPED)].tobytes()
        if head == _MAPPED:
            index = _mapped(_Fields(data[len(_MAPPED) :]))
        elif head.startswith(_OLD):
            index = _old(_Fields(data[len(_OLD) :]))
        else:
            raise ValueError("another kind of file")
    except (ValueError, KeyError) as error:
        found = f"ids of type {error}" if isinstance(error, KeyError) else error
        raise ValueError(
            f"{path} must be an index of Megatron-LM of version 1, got {found}. Mend {_KEY}, or "
            "preprocess the data anew."
        ) from None
    _check_extent(path, index)
    return index


class _Fields:
    """Takes one field of a file after another; long ones stay on disk until they are looked at."""

    def __init__(self, data: NDArray[np.uint8]) -> None:
        self._data = data
        self._at = 0

    def take(self, dtype: str, count: int) -> _Numbers:
        """Give the next numbers, integers `[count]`."""
        end = self._at + count * np.dtype(dtype).itemsize
        if count < 0 or end > len(self._data):
            raise ValueError("less of it than it tells of")
        found = self._data[self._at : end].view(dtype)
        self._at = end
        return found

    def one(self, dtype: str) -> int:
        """Give the next number."""
        return int(self.take(dtype, 1)[0])


def _mapped(fields: _Fields) -> _Index:
    version, code = fields.one("<u8"), fields.one("<u1")
    if version != 1:
        raise ValueError(f"version {version}")
    dtype, sequences, documents = np.dtype(_DTYPES[code]), fields.one("<u8"), fields.one("<u8")
    sizes, pointers = fields.take("<i4", sequences), fields.take("<i8", sequences)
    if (pointers % dtype.itemsize).any():
        raise ValueError("pointers into the middle of an id")
    return _Index(dtype, sizes, pointers // dtype.itemsize, fields.take("<i8", documents))


def _old(fields: _Fields) -> _Index:
    version, code, _ = fields.one("<u8"), fields.one("<u8"), fields.one("<u8")
    if version != 1:
        raise ValueError(f"version {version}")
    dtype, sequences, sizes, documents = np.dtype(_DTYPES[code]), *(fields.one("<u8") for _ in range(3))
    dimensions, starts = fields.take("<i8", sequences + 1), fields.take("<i8", sequences + 1)
    if sizes != sequences or (np.diff(dimensions) != 1).any():
        raise ValueError("sequences of more than one dimension")
    return _Index(dtype, fields.take("<i8", sizes), starts[:-1], fields.take("<i8", documents))


def _check_extent(path: Path, index: _Index) -> None:
    data = path.with_suffix(".bin")
    if not data.is_file():
        raise FileNotFoundError(f"{path} must have its data beside it, got no {data.name}. Mend {_KEY}.")
    there = data.stat().st_size // index.dtype.itemsize
    bounds = index.documents
    ordered = len(bounds) > 0 and bounds[0] >= 0 and bounds[-1] <= len(index.sizes) and (np.diff(bounds) >= 0).all()
    inside = (index.starts >= 0).all() and (index.sizes >= 0).all() and (index.starts + index.sizes <= there).all()
    if not (ordered and inside):
        raise ValueError(
            f"{path} must point into {data.name}, got places outside its {there} ids. Get both files again from where "
            "they came from."
        )
