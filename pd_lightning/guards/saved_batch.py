"""A batch as one safetensors file: its tensors, and its structure as JSON in the header. No pickle."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from pd_lightning.store.durable import disk_full_explained, write_durably

_KEY = "structure"
_PLAIN = (str, int, float, bool, type(None))


def save_batch(batch: Any, path: str | Path) -> None:
    """Write a batch: tensors, in mappings, lists and tuples of any depth, and plain values.

    Args:
        batch: The batch. Of other objects only the names of their classes are kept.
        path: The file; its folder is made if missing.

    Raises:
        OSError: The disk is full.
    """
    path = Path(path)
    tensors: dict[str, Tensor] = {}
    structure = _taken_apart(batch, "batch", tensors)
    path.parent.mkdir(parents=True, exist_ok=True)
    with disk_full_explained(f"the batch {path}", lambda: "Free some space."):
        write_durably(path, save(tensors, {_KEY: json.dumps(structure)}))


def load_batch(path: str | Path) -> Any:
    """Read what `save_batch` wrote.

    Args:
        path: The file.

    Returns:
        The batch, its tensors on the CPU; None in place of objects that could not be written.

    Raises:
        ValueError: If it is another file.
    """
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
        if _KEY not in metadata:
            raise ValueError(f"load_batch must be given a file of save_batch, got {path}. Name another file.")
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping, it only has keys
    return _put_together(json.loads(metadata[_KEY]), tensors)


def _taken_apart(node: Any, name: str, tensors: dict[str, Tensor]) -> dict[str, Any]:
    """The structure of a batch, its leaves named; fills `tensors`."""
    if isinstance(node, Tensor):
        # A copy: safetensors refuses tensors that share memory.
        tensors[name] = node.detach().cpu().contiguous().clone()
        return {"tensor": name}
    if isinstance(node, Mapping):
        return {"mapping": [[key, _taken_apart(node[key], f"{name}.{key}", tensors)] for key in node if _is_key(key)]}
    if isinstance(node, list | tuple):
        kind = "tuple" if isinstance(node, tuple) else "list"
        return {kind: [_taken_apart(part, f"{name}.{i}", tensors) for i, part in enumerate(node)]}
    return {"value": node} if isinstance(node, _PLAIN) else {"omitted": type(node).__qualname__}


def _put_together(structure: dict[str, Any], tensors: dict[str, Tensor]) -> Any:
    ((kind, content),) = structure.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "mapping":
        return {key: _put_together(part, tensors) for key, part in content}
    if kind in ("list", "tuple"):
        parts = [_put_together(part, tensors) for part in content]
        return tuple(parts) if kind == "tuple" else parts
    return content if kind == "value" else None


def _is_key(key: Any) -> bool:
    return isinstance(key, str | int)
