"""Arrays as byte planes, one byte of each number after another, which compress far better than whole numbers.

All numbers are little-endian, and a plane is one stream of `huffman`: first the lowest byte of every number.
"""

from __future__ import annotations

import struct

import numpy as np

from pd_lightning.store.damage import require
from pd_lightning.store.huffman import compress, decompress

_TOTAL = struct.Struct("<I")


def encode_planes(counts: np.ndarray, ids: np.ndarray, values: np.ndarray, vocab_size: int) -> bytes:
    """Encode kept ids in the order in which they are given.

    Args:
        counts: Kept entries of each position `[T]`.
        ids: Kept ids, position after position `[S]`.
        values: What is kept of each, little-endian floats `[S]`.
        vocab_size: V; all ids are below.

    Returns:
        S (uint32), then one zstd frame of the planes of counts, ids and values.
    """
    width = _id_width(vocab_size)
    numbers = [counts.astype("<u4"), ids.astype("<u4")]
    planes = [plane for array in numbers for plane in _planes(array)[:width]]
    return _TOTAL.pack(ids.size) + compress([*planes, *_planes(values)])


def decode_planes(
    data: bytes, positions: int, dtype: np.dtype, vocab_size: int, most: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Decode what `encode_planes` gave.

    Args:
        data: The bytes.
        positions: T.
        dtype: Type of the values.
        vocab_size: V; all ids are below.
        most: Entries of a position at most.

    Returns:
        Counts int64 `[T]`, ids int64 `[S]` and values `[S]`.

    Raises:
        ValueError: The bytes are damaged.
    """
    require(len(data) > _TOTAL.size, "its targets are cut off")
    (total,) = _TOTAL.unpack_from(data)
    require(total <= positions * most, f"it can't keep {total} ids at {positions} positions of at most {most}")
    width = _id_width(vocab_size)
    sizes = [positions * width, total * width, total * dtype.itemsize]
    raw = decompress(data[_TOTAL.size :], sum(sizes))
    planes = np.split(raw, np.cumsum(sizes)[:-1])
    counts, ids = (_joined(part, width, np.dtype("<u4")).astype(np.int64) for part in planes[:2])
    require(int(counts.sum()) == total, f"its counts sum to {int(counts.sum())}, not {total}")
    require(int(counts.max()) <= most, f"a position keeps {int(counts.max())} ids, more than {most}")
    require(int(ids.max(initial=0)) < vocab_size, "a kept id lies outside the vocabulary")
    return counts, ids, _joined(planes[2], dtype.itemsize, dtype)


def encode_columns(columns: list[np.ndarray]) -> bytes:
    """Encode per-position figures, little-endian floats `[T]` each; nothing where there are none."""
    return compress(plane for column in columns for plane in _planes(column)) if columns else b""


def decode_columns(data: bytes, number: int, positions: int, dtype: np.dtype) -> list[np.ndarray]:
    """Decode what `encode_columns` gave.

    Args:
        data: The bytes.
        number: How many columns.
        positions: T.
        dtype: Type of the figures.

    Returns:
        The figures of each column `[T]`.

    Raises:
        ValueError: The bytes are damaged.
    """
    if number == 0:
        require(not data, f"it has {len(data)} bytes of columns, but the store has none")
        return []
    raw = decompress(data, number * positions * dtype.itemsize)
    return [_joined(part, dtype.itemsize, dtype) for part in np.split(raw, number)]


def _id_width(vocab_size: int) -> int:
    """Bytes of an id or a count: a count can be `vocab_size` itself."""
    return (vocab_size.bit_length() + 7) // 8


def _planes(array: np.ndarray) -> list[bytes]:
    return [plane.tobytes() for plane in array.view(np.uint8).reshape(array.size, array.itemsize).T]


def _joined(planes: np.ndarray, width: int, dtype: np.dtype) -> np.ndarray:
    octets = np.zeros((planes.size // width, dtype.itemsize), dtype=np.uint8)
    octets[:, :width] = planes.reshape(width, -1).T
    return octets.view(dtype).ravel()
