"""Token ids in a folder of litdata, of litgpt among others."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pd_lightning.data.litdata_chunks import flat_ids, items
from pd_lightning.data.litdata_index import Index
from pd_lightning.data.token_sources import Document, TokenSource, check_split_tokens, cut, parts


class LitData(TokenSource):
    """A folder that `litdata.optimize` wrote, uncompressed: flat tokens (`TokensLoader`), arrays or lists of ids.

    Args:
        path: The folder, with its `index.json`.
        field: Name of the field that holds the ids, where items are dicts.
        packed: Whether items are windows of a stream, which is cut at each end-of-text; by default each is a document.
            Flat tokens are a stream always.
        split_tokens: In a stream, a document that is longer comes in pieces of about so many ids, and each counts as a
            document where there is a validation split.
    """

    def __init__(
        self, path: str, field: str = "input_ids", packed: bool = False, split_tokens: int = 1_000_000
    ) -> None:
        self.path = path
        self.field = field
        self.packed = packed
        self.split_tokens = check_split_tokens(split_tokens)

    def documents(self, eos_token_id: int | None) -> Iterator[Document]:
        """Yields the documents, see TokenSource."""
        folder = Path(self.path)
        index = Index.read(folder, self.field)
        if index.flat:
            stream = (
                part for chunk in index.chunks for part in parts(flat_ids(folder, chunk, index), self.split_tokens)
            )
            yield from cut(stream, eos_token_id, self.split_tokens)
            return
        rows = (ids for chunk in index.chunks for ids in items(folder, chunk, index))
        yield from cut(rows, eos_token_id, self.split_tokens) if self.packed else map(Document, rows)

    def num_tokens(self) -> int | None:
        """Ids of all chunks, where these are flat."""
        index = Index.read(Path(self.path), self.field)
        return sum(flat_ids(Path(self.path), chunk, index).size for chunk in index.chunks) if index.flat else None
