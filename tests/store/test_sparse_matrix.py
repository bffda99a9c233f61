import numpy as np
import pytest

from pd_lightning.store.sparse_matrix import decode_matrix, encode_matrix

RNG = np.random.default_rng(0)


def rows(counts, ids, numbers):
    """Positions as dicts from id to number."""
    ends = np.cumsum(counts)
    return [dict(zip(ids[e - n : e], numbers[e - n : e], strict=True)) for n, e in zip(counts, ends, strict=True)]


def round_trip(tokens, counts, ids, numbers, vocab_size):
    decoded = decode_matrix(encode_matrix(tokens, counts, ids, numbers), tokens, vocab_size, vocab_size)
    assert rows(*decoded) == rows(counts, ids, numbers)
    assert all(array.dtype == np.int64 for array in decoded)
    return decoded


@pytest.mark.parametrize("positions", [1, 2, 700])
@pytest.mark.parametrize("kept", [0, 1, 8])
def test_blocks_that_keep_nothing_one_or_everything(positions, kept):
    counts = np.full(positions, kept)
    ids = np.tile(np.arange(kept), positions)
    round_trip(RNG.integers(0, 8, positions), counts, ids, RNG.integers(0, 100, ids.size), 8)


def test_the_largest_number_of_a_position_comes_first():
    drawn = RNG.multinomial(50, RNG.dirichlet(np.full(1000, 0.01), 64))
    row, ids = np.nonzero(drawn)
    counts, _, numbers = round_trip(
        RNG.integers(0, 1000, 64), np.bincount(row, minlength=64), ids, drawn[row, ids], 1000
    )
    for n, end in zip(counts, np.cumsum(counts), strict=True):
        assert np.all(np.diff(numbers[end - n : end]) <= 0)


def test_the_largest_ids_counts_and_numbers():
    vocab_size = 1 << 24
    ids = np.concatenate((np.array([0, vocab_size - 1]), np.arange(100_000)))
    numbers = np.full(ids.size, (1 << 27) - 1)
    round_trip(np.array([vocab_size - 1, 0]), np.array([2, 100_000]), ids, numbers, vocab_size)


def test_an_id_that_comes_again_is_cheap():
    """What coding by columns is for."""
    tokens, counts, numbers = np.arange(512), np.full(512, 8), np.ones(4096, dtype=np.int64)
    again = np.tile(np.arange(8) * 1000, 512)
    new = RNG.permutation(128_000)[:4096]
    assert len(encode_matrix(tokens, counts, again, numbers)) < 0.1 * len(encode_matrix(tokens, counts, new, numbers))


def test_an_id_twice_in_a_position_is_refused():
    with pytest.raises(ValueError, match=r"the ids of a position must differ, got one twice\. Sum the probabilities"):
        encode_matrix(np.zeros(2), np.array([0, 2]), np.array([3, 3]), np.ones(2, dtype=np.int64))


def test_damage_ends_in_an_error_or_in_arrays_that_fit():
    counts = RNG.integers(0, 50, 64)
    ids = np.concatenate([RNG.permutation(1000)[:count] for count in counts])
    tokens = RNG.integers(0, 1000, 64)
    data = encode_matrix(tokens, counts, ids, RNG.integers(0, 90, ids.size))
    damaged = [data[:size] for size in range(0, len(data), 37)]
    for _ in range(500):
        flipped = bytearray(data)
        flipped[RNG.integers(len(data))] ^= 1 << RNG.integers(8)
        damaged.append(bytes(flipped))
    refused = 0
    for one in damaged:
        try:
            got_counts, got_ids, numbers = decode_matrix(one, tokens, 1000, 50)
        except ValueError:
            refused += 1
        else:
            assert got_ids.shape == numbers.shape == (got_counts.sum(),)
            assert got_ids.max(initial=0) < 1000
    assert refused > len(range(0, len(data), 37))
