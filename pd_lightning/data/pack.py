"""From documents to blocks: the split, the token stream, and the cut."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

import numpy as np
from numpy.typing import NDArray


def is_validation(content: str | bytes, val_fraction: float, seed: int) -> bool:
    """Whether a document belongs to the validation split: a function of its content alone.

    So neither the order of documents nor the number of workers matters, and copies of a document never end up on
    both sides.

    Args:
        content: The document: its text, or its token ids as bytes.
        val_fraction: Probability of validation, in [0, 1).
        seed: Another seed draws another split.
    """
    data = content if isinstance(content, bytes) else content.encode()
    digest = blake2b(data, digest_size=8, key=seed.to_bytes(8, "little", signed=True)).digest()
    return int.from_bytes(digest, "little") < val_fraction * 2**64


def batched(documents: Iterable[tuple[str, bool]], size: int) -> Iterator[list[tuple[str, bool]]]:
    """Groups documents up to `size` characters: enough to share among threads, little to hold in memory."""
    batch: list[tuple[str, bool]] = []
    held = 0
    for document in documents:
        batch.append(document)
        held += len(document[0])
        if held >= size:
            yield batch
            batch, held = [], 0
    if batch:
        yield batch


@dataclass
class Packer:
    """Cuts the token stream of one split into blocks.

    A block holds T+1 ids and the next one begins with its last: every token but the very first is predicted exactly
    once.

    Args:
        block_size: T, the number of predictions of a block.
        eos_token_id: Follows each document.
    """

    block_size: int
    eos_token_id: int
    documents: int = 0
    bytes: int = 0
    tokens: int = 0
    _held: list[NDArray[np.int64]] = field(default_factory=list)
    _length: int = 0
    _goes_on: bool = False

    def add(self, ids: Sequence[int] | NDArray[np.integer[Any]], size: int, ends: bool = True) -> None:
        """Appends a document and its end-of-text to the stream.

        Args:
            ids: Its token ids.
            size: Bytes of its text.
            ends: Whether it ends here; otherwise what is added next goes on with it.
        """
        self.documents += not self._goes_on
        self._goes_on = not ends
        self.bytes += size
        end = [self.eos_token_id] if ends else []
        self._held.append(np.concatenate([np.asarray(ids, dtype=np.int64), np.array(end, dtype=np.int64)]))
        self.tokens += len(self._held[-1])
        self._length += len(self._held[-1])

    @property
    def ready(self) -> int:
        """Whole blocks in the stream."""
        return max(0, self._length - 1) // self.block_size

    @property
    def dropped_tokens(self) -> int:
        """Ids that a whole block could not be made of; meant for the end, when all blocks are taken."""
        return self._length - (self.tokens > self._length)  # the id shared with the last block is not lost

    def take(self, count: int) -> NDArray[np.int64]:
        """Removes the first `count` blocks from the stream, int64 `[count, T+1]`."""
        assert 0 < count <= self.ready, (count, self.ready)
        stream = np.concatenate(self._held)
        windows = np.lib.stride_tricks.sliding_window_view(stream, self.block_size + 1)
        blocks = windows[: count * self.block_size : self.block_size]
        self._held = [stream[count * self.block_size :].copy()]
        self._length = len(self._held[0])
        return blocks
