from __future__ import annotations

import numpy as np
import pytest

from pd_lightning.data.pack import Packer, batched, is_validation


@pytest.mark.parametrize("block_size", [1, 3, 8])
@pytest.mark.parametrize("at_once", [1, 2, 5])
def test_blocks_are_the_stream_cut(block_size, at_once):
    rng = np.random.default_rng(0)
    documents = [rng.integers(1, 99, size).tolist() for size in rng.integers(0, 20, 12)]
    stream = [token for document in documents for token in [*document, 0]]
    packer, blocks = Packer(block_size, eos_token_id=0), []
    for document in documents:
        packer.add(document, 3)
        while packer.ready >= at_once:
            blocks += packer.take(at_once).tolist()
    if packer.ready:
        blocks += packer.take(packer.ready).tolist()
    T = block_size
    count = (len(stream) - 1) // T
    assert blocks == [stream[b * T : b * T + T + 1] for b in range(count)]
    assert (packer.documents, packer.bytes, packer.tokens) == (12, 36, len(stream))
    assert packer.dropped_tokens == len(stream) - (count * T + 1)


def test_less_than_a_block_is_dropped_whole():
    packer = Packer(10, 0)
    packer.add([1, 2, 3], 3)
    assert (packer.ready, packer.dropped_tokens) == (0, 4)


def test_a_document_may_come_in_pieces():
    whole, pieces = Packer(3, 0), Packer(3, 0)
    for document in ([1, 2, 3, 4], [5]):
        whole.add(document, 2)
    for ids, ends in (([1, 2], False), (np.array([3, 4], dtype=np.uint16), False), ([], True), ([5], True)):
        pieces.add(ids, 1, ends)
    assert (pieces.documents, pieces.bytes, pieces.tokens) == (whole.documents, whole.bytes, whole.tokens) == (2, 4, 7)
    assert pieces.take(2).tolist() == whole.take(2).tolist() == [[1, 2, 3, 4], [4, 0, 5, 0]]


def test_the_split_is_a_fair_function_of_the_text():
    texts = [f"text {number}" for number in range(4000)]
    chosen = [is_validation(text, 0.1, seed=0) for text in texts]
    assert chosen == [is_validation(text, 0.1, seed=0) for text in texts]
    assert abs(sum(chosen) - 400) < 5 * np.sqrt(360)
    assert chosen != [is_validation(text, 0.1, seed=1) for text in texts]
    assert not any(is_validation(text, 0.0, seed=0) for text in texts)
    larger = [is_validation(text, 0.3, seed=0) for text in texts]
    assert all(large for small, large in zip(chosen, larger, strict=True) if small)


def test_batches_are_bounded_and_complete():
    documents = [("x" * size, False) for size in (5, 1, 1, 1, 12, 3)]
    batches = list(batched(iter(documents), 6))
    assert [[len(text) for text, _ in batch] for batch in batches] == [[5, 1], [1, 1, 12], [3]]
