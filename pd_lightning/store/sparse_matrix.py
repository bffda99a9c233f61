"""The sparse matrix of a block's kept ids, T positions by V ids, with a small whole number at each entry.

It is written by columns: which ids the block has at all, and for each of them at which positions. A teacher repeats
itself within a block, so a column is cheaper than the row entries that it stands for.

- Positions are taken in the order of (length in bits of their count, input token), which the reader knows too. Those
  that keep many ids come first, and those with the same input token are neighbours: gaps get short.
- Ids are grouped by how many positions keep them (4 or more, 2 to 3, 1), sorted, and written as gaps. The groups are
  what the entropy coder has for context.
- A number is written less the smallest of its position.

Bytes: `_HEAD`, then one zstd frame of the symbols of counts [T], smallest numbers [T], repeats [U], ids [U],
places [S] and numbers [S], and of the bits that remain of all of them in this order. U is the number of different ids,
S that of entries.
"""

from __future__ import annotations

import struct

import numpy as np

from pd_lightning.store.damage import require
from pd_lightning.store.huffman import compress, decompress
from pd_lightning.store.symbols import from_symbols, most_rest, to_symbols

# Smallest number of all, S, U of each group, bytes of the bits that remain.
_HEAD = struct.Struct("<II3II")
_LEAST_REPEATS = np.array([4, 2, 1])  # of each group


def encode_matrix(tokens: np.ndarray, counts: np.ndarray, ids: np.ndarray, numbers: np.ndarray) -> bytes:
    """Encode the entries of a block.

    Args:
        tokens: Input token of each position `[T]`.
        counts: Entries of each position `[T]`.
        ids: Their ids, position after position, none twice in a position `[S]`.
        numbers: What is kept of each, from 0 on, integers `[S]`.

    Raises:
        ValueError: A position has an id twice.
    """
    rows = np.repeat(np.arange(counts.size), counts)
    unique, column, repeats = np.unique(ids, return_inverse=True, return_counts=True)
    group = len(_LEAST_REPEATS) - np.searchsorted(_LEAST_REPEATS[::-1], repeats, side="right")
    grouped = np.argsort(group, kind="stable")
    members = np.bincount(group, minlength=len(_LEAST_REPEATS))
    repeats = repeats[grouped]
    place = np.argsort(_reading_order(counts, tokens))[rows]
    entries = _order_by(np.argsort(grouped)[column] * counts.size + place)
    places = _gaps(place[entries], repeats)
    if places.min(initial=0) < 0:
        raise ValueError("the ids of a position must differ, got one twice. Sum the probabilities of equal ids first.")
    lowest = int(numbers.min(initial=numbers.max(initial=0)))
    smallest = _smallest(numbers, counts, lowest)
    streams = [
        counts,
        smallest - lowest,
        *_split(repeats - np.repeat(_LEAST_REPEATS, members), members),
        *_split(_gaps(unique[grouped], members), members),
        *_split(places, [int(part.sum()) for part in _split(repeats, members)]),
        (numbers - smallest[rows])[entries],
    ]
    symbols, rest = to_symbols(np.concatenate(streams))
    ends = np.cumsum([stream.size for stream in streams])
    frame = compress([*(part.tobytes() for part in np.split(symbols, ends[:-1])), rest])
    return _HEAD.pack(lowest, ids.size, *members, len(rest)) + frame


def decode_matrix(
    data: bytes, tokens: np.ndarray, vocab_size: int, most: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Decode what `encode_matrix` gave.

    Args:
        data: The bytes.
        tokens: Input token of each position `[T]`.
        vocab_size: V; all ids are below.
        most: Entries of a position at most.

    Returns:
        Counts `[T]`, ids `[S]` and numbers `[S]`, int64, the largest number of each position first.

    Raises:
        ValueError: The bytes are damaged.
    """
    require(len(data) > _HEAD.size, "its targets are cut off")
    lowest, total, *members, rest_size = _HEAD.unpack_from(data)
    positions, different = tokens.size, sum(members)
    require(different <= total, f"it can't keep {total} entries of {different} ids")
    require(total <= positions * most, f"it can't keep {total} ids at {positions} positions of at most {most}")
    sizes = [positions, positions, different, different, total, total]
    require(rest_size <= most_rest(sum(sizes)), f"{sum(sizes)} numbers can't have {rest_size} bytes of further bits")
    raw = decompress(data[_HEAD.size :], sum(sizes) + rest_size)
    decoded = from_symbols(raw[: sum(sizes)], raw[sum(sizes) :])
    counts, smallest, repeats, unique, place, numbers = _split(decoded, sizes)
    repeats = repeats + np.repeat(_LEAST_REPEATS, members)
    require(int(counts.sum()) == total, f"its counts sum to {int(counts.sum())}, not {total}")
    require(int(counts.max()) <= most, f"a position keeps {int(counts.max())} ids, more than {most}")
    require(int(repeats.sum()) == total, f"its ids repeat {int(repeats.sum())} times, not {total}")
    unique, place = _ungap(unique, np.array(members)), _ungap(place, repeats)
    require(int(unique.max(initial=0)) < vocab_size, "a kept id lies outside the vocabulary")
    require(int(place.max(initial=0)) < positions, "a kept id lies outside the block")
    row = _reading_order(counts, tokens)[place]
    require(np.array_equal(np.bincount(row, minlength=positions), counts), "its positions do not match its counts")
    numbers = numbers + (smallest + lowest)[row]
    height = int(numbers.max(initial=0))
    by_row = _order_by(row * (height + 1) + height - numbers)
    return counts, np.repeat(unique, repeats)[by_row], numbers[by_row]


def _reading_order(counts: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """Sort positions `[T]` by the length in bits of their counts, longest first, then by token."""
    return np.lexsort((tokens, -np.frexp(counts)[1]))


def _order_by(key: np.ndarray) -> np.ndarray:
    """Give the stable order of integer keys, less than 2^63 / size `[S]`."""
    # One number with the index in its low bits sorts several times faster than an argsort.
    bits = key.size.bit_length()
    numbered: np.ndarray = key << bits | np.arange(key.size)
    numbered.sort()
    numbered &= (1 << bits) - 1
    return numbered


def _smallest(numbers: np.ndarray, counts: np.ndarray, lowest: int) -> np.ndarray:
    """Give the smallest number of each position, `lowest` where there is none `[T]`."""
    some = np.flatnonzero(counts)
    smallest = np.full(counts.size, lowest, dtype=np.int64)
    if some.size:
        smallest[some] = np.minimum.reduceat(numbers, (np.cumsum(counts) - counts)[some])
    return smallest


def _split(values: np.ndarray, sizes: list[int] | np.ndarray) -> list[np.ndarray]:
    return np.split(values, np.cumsum(sizes)[:-1])


def _gaps(values: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Give how many values each ascending run skips before each of its values `[sum(lengths)]`."""
    before = np.concatenate(([-1], values[:-1])) if values.size else values
    before[(np.cumsum(lengths) - lengths)[lengths > 0]] = -1
    gaps: np.ndarray = values - before - 1
    return gaps


def _ungap(gaps: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    sums = np.concatenate(([0], np.cumsum(gaps + 1)))
    starts = np.cumsum(lengths) - lengths
    values: np.ndarray = sums[1:] - np.repeat(sums[starts] + 1, lengths)
    return values
