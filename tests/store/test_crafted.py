"""Items with sound checksums that would ask for more memory than any block needs."""

import resource
import struct

import numpy as np
import pytest
import zstandard

from pd_lightning.store import huffman
from pd_lightning.store.codec import codec_info, decode, encode_draws, encode_targets
from pd_lightning.store.manifest import Manifest, SplitInfo, TokenizerInfo
from pd_lightning.store.payload import seal, unseal

T, V = 8, 300


def manifest(values, k=V, vocab_size=V, **selection):
    columns = () if "samples" in selection else ("log_tail",)
    selection = selection or {"k": k}
    split = {"train": SplitInfo(1, T, 1)}
    tokenizer = TokenizerInfo("d", 0)
    return Manifest(
        "logits", T, vocab_size, tokenizer, split, codec=codec_info(values), columns=columns, selection=selection
    )


def item(values, keep):
    ids = np.tile(np.arange(keep), T)
    logprobs, columns = np.full(ids.size, -9.0, dtype=np.float32), {"log_tail": np.full(T, -1.0, dtype=np.float32)}
    block, counts = np.arange(T + 1), np.full(T, keep)
    if values == "counts":
        return encode_draws(block, counts, ids, np.ones_like(ids), {}, vocab_size=V)
    return encode_targets(block, counts, ids, logprobs, columns, values=values, vocab_size=V)


def crafted(values, targets):
    """An item with other targets, under a checksum that matches."""
    one = item(values, 1)
    return seal(one["tokens"], targets, unseal(one)[1], None)


def zeros(size):
    """A frame of so many zeros, in a few bytes for each of their megabytes."""
    compressor, piece = zstandard.ZstdCompressor(level=1).compressobj(size=size), bytes(1 << 20)
    parts = [compressor.compress(piece) for _ in range(size >> 20)]
    return b"".join([*parts, compressor.compress(bytes(size % (1 << 20))), compressor.flush()])


def planes(total, value_bytes):
    return struct.pack("<I", total) + zeros(2 * T + (2 + value_bytes) * total)


def matrix(total, rest, size):
    return struct.pack("<II3II", 0, total, total, 0, 0, rest) + zeros(size)


@pytest.mark.parametrize(
    ("values", "targets", "problem"),
    [
        ("half", planes(1 << 24, 2), r"it can't keep 16777216 ids at 8 positions of at most 300"),
        ("exact", planes(8 * 300 + 1, 4), r"it can't keep 2401 ids at 8 positions of at most 300"),
        ("compact", struct.pack("<f", 2.0**-8) + matrix(2401, 0, 9), "it can't keep 2401 ids at 8 positions of at mos"),
        ("counts", matrix(0, 1 << 27, 2 * T + (1 << 27)), "16 numbers can't have 134217728 bytes of further bits"),
    ],
)
def test_no_more_is_expanded_than_a_block_can_hold(values, targets, problem):
    about = manifest(values, samples=V) if values == "counts" else manifest(values)
    one = crafted(values, targets)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ValueError, match=problem):
        decode(one, about)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000, "kB"


def test_there_is_a_limit_whatever_the_manifest_says():
    one = item("exact", 1)
    one = seal(one["tokens"].astype("<u4"), struct.pack("<I", 1 << 28) + b"\0", unseal(one)[1], None)
    with pytest.raises(ValueError, match="its payload expands to 2147483680 bytes, more than the 268435456 of any"):
        decode(one, manifest("exact", k=1 << 30, vocab_size=1 << 30))


@pytest.mark.parametrize(
    ("values", "selection"),
    [("exact", {"k": 2}), ("half", {"k": 2}), ("compact", {"k": 2}), ("counts", {"samples": 2})],
)
def test_one_position_can_not_keep_more_than_was_selected(values, selection):
    """Or a batch would be made as wide for all of its positions."""
    one = item(values, 2)
    assert decode(one, manifest(values, **selection))["counts"].tolist() == [2] * T
    with pytest.raises(ValueError, match="at most 1"):
        decode(one, manifest(values, **dict.fromkeys(selection, 1)))
    ids, counts = np.arange(9), np.array([9] + [0] * (T - 1))
    block, tails = np.arange(T + 1), {"log_tail": np.full(T, -1.0, dtype=np.float32)}
    if values == "counts":
        wide = encode_draws(block, counts, ids, np.ones_like(ids), {}, vocab_size=V)
    else:
        wide = encode_targets(block, counts, ids, ids - 20.0, tails, values=values, vocab_size=V)
    with pytest.raises(ValueError, match="a position keeps 9 ids, more than 2"):
        decode(wide, manifest(values, **selection))


def test_what_could_not_be_read_is_not_written(monkeypatch):
    monkeypatch.setattr(huffman, "MOST_BYTES", 100)
    assert huffman.decompress(huffman.compress([bytes(100)]), 100).size == 100
    with pytest.raises(ValueError, match=r"must take at most 100 bytes before compression, got 101\. Keep fewer ids"):
        huffman.compress([bytes(60), bytes(41)])
