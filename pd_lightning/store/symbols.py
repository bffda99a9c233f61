"""Whole numbers as symbols that an entropy coder makes small, and the bits that it could not.

A symbol holds a number's length in bits and the two bits below its leading one: small numbers have a symbol each,
larger ones share it with a few others and are told apart by the bits that remain.
"""

from __future__ import annotations

import numpy as np

from pd_lightning.store.damage import require

_MANTISSA = 2  # bits below the leading one that go into the symbol
_MOST_BITS = 25  # what four bytes from a byte's address hold of a field that starts anywhere in that byte
LARGEST = (1 << (_MOST_BITS + _MANTISSA + 1)) - 1  # number
_SYMBOLS = np.arange((_MOST_BITS + 2) << _MANTISSA)
_LENGTHS = np.maximum((_SYMBOLS >> _MANTISSA) - 1, 0).astype(np.uint8)  # bits that remain beside a symbol
_BASES = np.where(_SYMBOLS >> _MANTISSA, _SYMBOLS % (1 << _MANTISSA) + (1 << _MANTISSA), _SYMBOLS) << _LENGTHS
_MASKS = ((1 << _LENGTHS.astype(np.int64)) - 1).astype(np.uint32)


def to_symbols(numbers: np.ndarray) -> tuple[np.ndarray, bytes]:
    """Split numbers.

    Args:
        numbers: From 0 to `LARGEST`, int64 `[n]`.

    Returns:
        Their symbols, uint8 `[n]`, and the bits that remain, number after number from the lowest bit of each byte on.
    """
    assert numbers.size == 0 or (numbers.min() >= 0 and numbers.max() <= LARGEST)
    length_in_bits = np.frexp(numbers.astype(np.float64))[1]
    lengths = np.maximum(length_in_bits - 1 - _MANTISSA, 0)
    symbols = (lengths << _MANTISSA) + (numbers >> lengths)
    ends = np.cumsum(lengths, dtype=np.int64)
    some = np.flatnonzero(lengths)
    starts = ends[some] - lengths[some]
    shifted = (numbers[some] - _BASES[symbols[some]]) << (starts & 31)
    # Fields don't overlap, so that their sum is their union; below 2^32 it is exact in float64.
    bits = int(ends[-1]) if ends.size else 0
    words = bits // 32 + 2
    low = np.bincount(starts >> 5, shifted & 0xFFFFFFFF, words).astype("<u4")
    high = np.bincount((starts >> 5) + 1, shifted >> 32, words).astype("<u4")
    return symbols.astype(np.uint8), (low | high).tobytes()[: (bits + 7) // 8]


def most_rest(numbers: int) -> int:
    """Bytes of the bits that remain of so many numbers at most."""
    return (numbers * _MOST_BITS + 7) // 8


def from_symbols(symbols: np.ndarray, rest: np.ndarray) -> np.ndarray:
    """Join what `to_symbols` split.

    Args:
        symbols: The symbols, uint8 `[n]`.
        rest: The bytes of the bits that remain, uint8.

    Returns:
        The numbers, int64 `[n]`.

    Raises:
        ValueError: The two do not fit together.
    """
    require(int(symbols.max(initial=0)) < _SYMBOLS.size, "a symbol is not one")
    lengths = _LENGTHS.take(symbols)
    starts = np.cumsum(lengths, dtype=np.int64)
    bits = int(starts[-1]) if starts.size else 0
    require((bits + 7) // 8 == rest.size, f"its numbers have {bits} more bits, not {8 * rest.size}")
    starts -= lengths
    # Four bytes from every address, side by side: a gather from this copy is faster than from overlapping words.
    padded = np.concatenate((rest, np.zeros(4, dtype=np.uint8)))
    words = np.ascontiguousarray(np.ndarray(rest.size + 1, dtype="<u4", buffer=padded, strides=(1,)))
    fields = words.take(starts >> 3)
    fields >>= (starts & 7).astype(np.uint32)
    fields &= _MASKS.take(symbols)
    numbers: np.ndarray = _BASES.take(symbols) + fields
    return numbers
