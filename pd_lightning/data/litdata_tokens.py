"""Token ids in the chunks of litdata, of litgpt among others.

The chunks are read here, and not by litdata, which would unpickle what an index calls pickled, and import the modules
that a data spec names. What is not asked for is never decoded.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pd_lightning.data.token_sources import Document, Ids, TokenSource, check_split_tokens, cut, parts
from pd_lightning.store.checksums import chunk_header, inside
from pd_lightning.store.json_files import read_json

# litdata numbers the types of torch and NumPy; others than these are no ids.
_TORCH = {11: "u1", 12: "i1", 13: "<i2", 14: "<i2", 15: "<i4", 16: "<i4", 17: "<i8", 18: "<i8", 20: "<u2"}
_NUMPY = {0: "i1", 1: "<i2", 2: "<i4", 3: "<i8", 4: "u1", 5: "<u2", 6: "<u4", 7: "<u8"}
_PREFIXES = {"no_header_tensor": _TORCH, "no_header_numpy": _NUMPY}
_FLAT = "TokensLoader"


class LitData(TokenSource):
    """A folder that `litdata.optimize` wrote, uncompressed: flat tokens (`TokensLoader`), arrays or lists of ids.

    Args:
        path: The folder, with its `index.json`.
        field: Name of the field that holds the ids, where items are dicts.
        packed: Whether items are windows of a stream, which is cut at each end-of-text; by default each is a document.
            Flat tokens are a stream always.
        split_tokens: In a stream, a document that is longer comes in pieces of about so many ids, and each counts as a
            document where there is a validation split.
    """

    def __init__(
        self, path: str, field: str = "input_ids", packed: bool = False, split_tokens: int = 1_000_000
    ) -> None:
        self.path = path
        self.field = field
        self.packed = packed
        self.split_tokens = check_split_tokens(split_tokens)

    def documents(self, eos_token_id: int | None) -> Iterator[Document]:
        """Yields the documents, see TokenSource."""
        folder = Path(self.path)
        index = _Index.read(folder, self.field)
        if index.flat:
            stream = (part for chunk in index.chunks for part in parts(_flat(folder, chunk, index), self.split_tokens))
            yield from cut(stream, eos_token_id, self.split_tokens)
            return
        items = (ids for chunk in index.chunks for ids in _items(folder, chunk, index))
        yield from cut(items, eos_token_id, self.split_tokens) if self.packed else map(Document, items)

    def num_tokens(self) -> int | None:
        """Ids of all chunks, where these are flat."""
        index = _Index.read(Path(self.path), self.field)
        return sum(_flat(Path(self.path), chunk, index).size for chunk in index.chunks) if index.flat else None


@dataclass(frozen=True)
class _Index:
    """What `index.json` says.

    Args:
        chunks: Names of the chunk files.
        formats: Data format of each leaf of an item.
        leaves: The leaves that the ids are in: one array, or one number each.
        flat: Whether chunks are nothing but ids.
    """

    chunks: list[str]
    formats: list[str]
    leaves: range
    flat: bool

    @classmethod
    def read(cls, folder: Path, field: str) -> _Index:
        """Read it.

        Raises:
            FileNotFoundError: There is none.
            ValueError: It is no index of litdata, or of items without ids that can be read safely.
        """
        path = folder / "index.json"
        if not path.is_file():
            raise FileNotFoundError(f"source.path must be a folder of litdata, got {folder} without index.json.")
        try:
            index = read_json(path)
            config, names = index["config"], [str(chunk["filename"]) for chunk in index["chunks"]]
            formats = [str(data_format) for data_format in config["data_format"]]
            spec = config["data_spec"]
            spec = json.loads(spec)[1] if isinstance(spec, str) else spec
            leaves = _leaves(spec, field) if spec else range(1)
        except (KeyError, TypeError, IndexError, AttributeError, RecursionError) as error:
            raise ValueError(
                f"{path} must be an index of litdata, got one without {error}. Write the folder again with "
                "litdata.optimize."
            ) from error
        for name in ("compression", "encryption"):
            if config.get(name):
                raise ValueError(
                    f"{path} must tell of plain chunks, got {name} {config[name]!r}. Write the folder again without."
                )
        found = {formats[leaf] if leaf < len(formats) else "nothing" for leaf in leaves}
        numbers = len(leaves) == 1 and next(iter(found)).partition(":")[0] in (*_PREFIXES, "json")
        if not numbers and found != {"int"}:
            raise ValueError(
                f"{path} must tell of ids as a flat array or list of integers, got the data format "
                f"{', '.join(sorted(found))}. Set source.field, or write the folder again with arrays of ids."
            )
        for name in names:
            inside(folder, name)
        return cls(names, formats, leaves, config.get("item_loader") == _FLAT)

    def dtype(self) -> np.dtype:
        """Give the data type of ids that are arrays.

        Raises:
            ValueError: They are no integers.
        """
        name, _, code = self.formats[self.leaves.start].partition(":")
        known = _PREFIXES[name]
        if not code.isdigit() or int(code) not in known:
            raise ValueError(
                f"Items of litdata must hold integers as ids, got the data format {name}:{code}. Set source.field."
            )
        return np.dtype(known[int(code)])


def _leaves(spec: dict[str, Any], field: str) -> range:
    """Give which leaves of an item's tree are the ids."""
    if spec["type"] is None or "children_spec" not in spec:
        return range(1)
    children = spec["children_spec"]
    if not str(spec["type"]).endswith("dict"):
        return range(_width(spec))
    keys = json.loads(spec["context"]) if isinstance(spec["context"], str) else spec["context"]
    if field not in keys:
        raise ValueError(
            f"Items of litdata must have the field {field!r}, got {', '.join(map(str, keys))}. Set source.field."
        )
    at = keys.index(field)
    start = sum(_width(child) for child in children[:at])
    return range(start, start + _width(children[at]))


def _width(spec: dict[str, Any]) -> int:
    return 1 if spec["type"] is None else sum(_width(child) for child in spec["children_spec"])


def _flat(folder: Path, chunk: str, index: _Index) -> Ids:
    """Give the ids of a chunk that holds nothing else; they stay on disk until they are read."""
    path, dtype = inside(folder, chunk), index.dtype()
    start, size = int(_offsets(path)[0]), path.stat().st_size
    if (size - start) % dtype.itemsize:
        raise ValueError(_damaged(path, f"{size - start} bytes of ids"))
    return np.memmap(path, dtype, "r", start) if size > start else np.empty(0, dtype)


def _items(folder: Path, chunk: str, index: _Index) -> Iterator[Ids]:
    """Yields the ids of each item: the sizes of its leaves come first, then the leaves."""
    path = inside(folder, chunk)
    offsets = _offsets(path)
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


def _decoded(data: bytes, index: _Index, path: Path) -> Ids:
    name = index.formats[index.leaves.start].partition(":")[0]
    if name == "json":
        from litdata.streaming.serializers import JsonSerializer

        ids = np.asarray(JsonSerializer().deserialize(data))
        if ids.ndim != 1 or not (ids.size == 0 or ids.dtype.kind in "iu"):
            raise ValueError(
                f"Items of litdata must hold lists of integers as ids, got something else in {path}. Set source.field."
            )
        return ids.astype(np.int64)
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
