"""Token ids in a column of a Hugging Face data set."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from pd_lightning.data.sources import HuggingFace
from pd_lightning.data.token_sources import Document, Ids, TokenSource, check_split_tokens, cut


class HuggingFaceTokens(TokenSource):
    """A Hugging Face data set that is tokenized already, streamed.

    Args:
        name: Name on the hub, or a local folder (Parquet and other files that `datasets` can load, or what
            `save_to_disk` wrote).
        split: Name of the split.
        config: Name of the configuration, where the data set has several.
        field: Name of the column that holds lists of token ids.
        packed: Whether rows are windows of a stream, which is cut at each end-of-text; by default each is a document.
        split_tokens: Where rows are packed, a document that is longer comes in pieces of about so many ids.
    """

    def __init__(
        self,
        name: str,
        split: str = "train",
        config: str | None = None,
        field: str = "input_ids",
        packed: bool = False,
        split_tokens: int = 1_000_000,
    ) -> None:
        self.name = name
        self.split = split
        self.config = config
        self.field = field
        self.packed = packed
        self.split_tokens = check_split_tokens(split_tokens)

    def documents(self, eos_token_id: int | None) -> Iterator[Document]:
        """Yields the documents, see TokenSource."""
        if self.packed:
            yield from cut(self._rows(), eos_token_id, self.split_tokens)
        else:
            yield from map(Document, self._rows())

    def _rows(self) -> Iterator[Ids]:
        for number, record in enumerate(HuggingFace(self.name, self.split, self.config).records()):
            if self.field not in record:
                found = f"the fields {', '.join(record)}"
            else:
                try:
                    ids = np.asarray(record[self.field])
                except ValueError:  # lists of other lengths in it
                    ids = np.empty((0, 0))
                if ids.ndim == 1 and (ids.size == 0 or ids.dtype.kind in "iu"):
                    yield ids.astype(np.int64)
                    continue
                found = "something else"
            raise ValueError(
                f"{self.name}, record {number} must hold a list of token ids in the field {self.field!r}, got {found}. "
                "Set source.field, or source to pd_lightning.data.HuggingFace for text."
            )
