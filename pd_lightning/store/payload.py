"""The bytes of an item's targets and columns under one checksum, which covers all other arrays of the item too."""

from __future__ import annotations

import struct
import zlib

import numpy as np

from pd_lightning.store.damage import require

Item = dict[str, np.ndarray]

_HEAD = struct.Struct("<II")


def seal(tokens: np.ndarray, targets: bytes, columns: bytes, teacher_step: int | None) -> Item:
    """Put an item together.

    Args:
        tokens: Token ids as they are stored `[T+1]`.
        targets: Encoded ids, counts and values.
        columns: Encoded per-position figures.
        teacher_step: Step of the teacher, where it was in training.

    Returns:
        `tokens`, `payload` uint8 (crc32 of all that follows and of the other arrays, size of the targets, targets,
        columns), and `teacher_step` int64 `[1]` where there is one.
    """
    item = {"tokens": tokens}
    step = {} if teacher_step is None else {"teacher_step": np.array([teacher_step], dtype=np.int64)}
    payload = np.frombuffer(_HEAD.pack(0, len(targets)) + targets + columns, dtype=np.uint8).copy()
    item |= {"payload": payload, **step}
    payload[:4] = np.frombuffer(struct.pack("<I", _checksum(item)), dtype=np.uint8)
    return item


def unseal(item: Item) -> tuple[bytes, bytes]:
    """Give the targets and the columns of an item.

    Raises:
        ValueError: The item is damaged.
    """
    payload = item["payload"].tobytes()
    require(len(payload) >= _HEAD.size, "its payload is cut off")
    checksum, size = _HEAD.unpack_from(payload)
    require(checksum == _checksum(item), "its checksum does not match")
    require(_HEAD.size + size <= len(payload), "its targets are cut off")
    return payload[_HEAD.size : _HEAD.size + size], payload[_HEAD.size + size :]


def part_sizes(item: Item) -> dict[str, int]:
    """Give the bytes of each part of an item of kind `logits`: targets are ids, counts and values."""
    targets, columns = unseal(item)
    return {"tokens": item["tokens"].nbytes, "targets": len(targets), "columns": len(columns)}


def _checksum(item: Item) -> int:
    checksum = zlib.crc32(item["payload"][4:].tobytes())
    for name in ("tokens", "teacher_step"):
        checksum = zlib.crc32(item[name].tobytes() if name in item else b"", checksum)
    return checksum
