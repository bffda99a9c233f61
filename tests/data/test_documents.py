from __future__ import annotations

import numpy as np
import pytest

from pd_lightning.data.documents import document_ids, document_positions


def reference(tokens: list[int], eos: int) -> tuple[list[int], list[int]]:
    """Token by token: an end-of-text belongs to its document, the next token begins another."""
    documents, positions = [], []
    document = position = 0
    for token in tokens:
        documents.append(document)
        positions.append(position)
        position += 1
        if token == eos:
            document, position = document + 1, 0
    return documents, positions


@pytest.mark.parametrize(
    ("tokens", "documents", "positions"),
    [
        ([5, 6, 7], [0, 0, 0], [0, 1, 2]),
        ([5, 0, 7, 8], [0, 0, 1, 1], [0, 1, 0, 1]),
        ([0, 0, 7, 0], [0, 1, 2, 2], [0, 0, 0, 1]),
        ([-100, -100], [0, 0], [0, 1]),
    ],
)
def test_an_end_of_text_belongs_to_the_document_that_it_ends(tokens, documents, positions):
    found = document_ids(np.array(tokens), 0)
    assert found.tolist() == documents
    assert document_positions(found).tolist() == positions
    assert found.dtype == document_positions(found).dtype == np.int64
    assert reference(tokens, 0) == (documents, positions)


@pytest.mark.parametrize("ids", [1, 2, 5, 50])
def test_any_tokens(ids):
    rng = np.random.default_rng(ids)
    for _ in range(50):
        tokens = rng.integers(0, ids, rng.integers(1, 40))
        found = document_ids(tokens, 0)
        assert (found.tolist(), document_positions(found).tolist()) == reference(tokens.tolist(), 0)
