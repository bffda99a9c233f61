"""What the index of a litdata folder says of the token ids in it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pd_lightning.store.checksums import inside
from pd_lightning.store.json_files import read_json

# litdata numbers the types of torch and NumPy; others than these are no ids.
_TORCH = {11: "u1", 12: "i1", 13: "<i2", 14: "<i2", 15: "<i4", 16: "<i4", 17: "<i8", 18: "<i8", 20: "<u2"}
_NUMPY = {0: "i1", 1: "<i2", 2: "<i4", 3: "<i8", 4: "u1", 5: "<u2", 6: "<u4", 7: "<u8"}
_PREFIXES = {"no_header_tensor": _TORCH, "no_header_numpy": _NUMPY}
_FLAT = "TokensLoader"


@dataclass(frozen=True)
class Index:
    """What `index.json` says.

    Args:
        chunks: Names of the chunk files.
        formats: Data format of each leaf of an item.
        leaves: The leaves that the ids are in: one array, or one number each.
        flat: Whether chunks are nothing but ids.
        field: Name of the field that the ids are in.
    """

    chunks: list[str]
    formats: list[str]
    leaves: range
    flat: bool
    field: str

    @classmethod
    def read(cls, folder: Path, field: str) -> Index:
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
        return cls(names, formats, leaves, config.get("item_loader") == _FLAT, field)

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
