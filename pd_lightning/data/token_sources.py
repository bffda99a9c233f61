"""Where token ids come from that others have made: one class each, one document or a piece of it in memory at a time.

A class of your own works the same: subclass `TokenSource`, yield `Document`s, name it by `class_path`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pd_lightning.data.sources import Source

Ids = NDArray[np.integer[Any]]


class Document(NamedTuple):
    """A document, or a piece of one that goes on.

    Args:
        ids: Token ids, integers `[n]`, with or without the end-of-text at their end.
        ends: Whether the document ends with them.
    """

    ids: Ids
    ends: bool = True


class TokenSource(Source):
    """A corpus of token ids, the same ones each time it is read."""

    @abstractmethod
    def documents(self, eos_token_id: int | None) -> Iterator[Document]:
        """Yields the documents.

        Args:
            eos_token_id: End-of-text, at which streams without other boundaries are cut; None to leave them whole.
        """

    def __iter__(self) -> Iterator[Any]:
        return self.documents(None)

    def num_tokens(self) -> int | None:
        """Ids to expect; None where that is not known."""
        return None


def check_split_tokens(split_tokens: int) -> int:
    """Refuse pieces of no length.

    Raises:
        ValueError: `split_tokens` is below 1.
    """
    if split_tokens < 1:
        raise ValueError(f"split_tokens must be at least 1, got {split_tokens}. Raise source.split_tokens.")
    return split_tokens


def cut(stream: Iterable[Ids], eos_token_id: int | None, size: int) -> Iterator[Document]:
    """Cuts a stream into documents at each end-of-text.

    Args:
        stream: Its parts, in order.
        eos_token_id: End-of-text, or None where there is none.
        size: A document that is longer comes in pieces of at least so many ids.
    """
    held: list[Ids] = []
    for part in stream:
        start = 0
        for end in [] if eos_token_id is None else np.flatnonzero(part == eos_token_id).tolist():
            yield Document(np.concatenate([*held, part[start:end]]))
            held, start = [], end + 1
        if start < len(part):
            held.append(part[start:])
        if sum(map(len, held)) >= size:
            yield Document(np.concatenate(held), ends=False)
            held = []
    if held:
        yield Document(np.concatenate(held), ends=False)


def parts(ids: Ids, size: int) -> Iterator[Ids]:
    """Reads ids that lie in a file a part at a time."""
    for start in range(0, len(ids), size):
        yield np.array(ids[start : start + size])
