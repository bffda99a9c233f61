import numpy as np
import pytest

from pd_lightning.store.huffman import compress, decompress


def test_streams_come_back_one_after_another():
    rng = np.random.default_rng(0)
    streams = [rng.integers(0, 4, 300_000).astype(np.uint8).tobytes(), b"", b"a", rng.bytes(500)]
    frame = compress(streams)
    raw = b"".join(streams)
    assert decompress(frame, len(raw)).tobytes() == raw
    # Two bits each, and what can't be compressed.
    assert len(frame) < 1.02 * (300_000 / 4 + 500)
    assert decompress(compress([]), 0).size == 0


def test_each_stream_has_a_table_of_its_own():
    rng = np.random.default_rng(0)
    low, high = (rng.integers(start, start + 4, 10_000).astype(np.uint8).tobytes() for start in (0, 100))
    assert len(compress([low, high])) < 0.7 * len(compress([low + high]))


def test_damage_is_refused():
    frame = compress([bytes(1000)])
    with pytest.raises(ValueError, match="its payload expands to 1000 bytes, not 999"):
        decompress(frame, 999)
    with pytest.raises(ValueError, match="its payload does not decompress"):
        decompress(frame[:-1], 1000)
    with pytest.raises(ValueError, match="its payload does not decompress"):
        decompress(b"", 0)
