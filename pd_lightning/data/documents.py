"""Which document of its block each token belongs to, and where in it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def document_ids(tokens: NDArray[np.int64], eos_token_id: int) -> NDArray[np.int64]:
    """Number the documents of a block.

    Args:
        tokens: Token ids, int64 `[n]`.
        eos_token_id: End-of-text, which belongs to the document that it ends.

    Returns:
        int64 `[n]`: 0 in the first document, which may go on from the block before, and one more after each
        end-of-text.
    """
    ends = (tokens == eos_token_id).astype(np.int64)
    return ends.cumsum() - ends


def document_positions(documents: NDArray[np.int64]) -> NDArray[np.int64]:
    """Count positions anew in each document.

    Args:
        documents: What `document_ids` gives, int64 `[n]`.

    Returns:
        int64 `[n]`, from 0 in each document.
    """
    index = np.arange(len(documents))
    starts = np.diff(documents, prepend=0) > 0
    return index - np.maximum.accumulate(np.where(starts, index, 0))
