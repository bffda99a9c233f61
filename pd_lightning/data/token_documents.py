"""From token ids that others have made to what goes into blocks: checked, measured, and dealt to the splits."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from pd_lightning.data.bpe import Tokenizer
from pd_lightning.data.pack import is_validation
from pd_lightning.data.token_sources import Document, Ids, TokenSource

_BATCH_TOKENS = 500_000


class Encoded(NamedTuple):
    """A document, or a piece of one, as token ids.

    Args:
        ids: Token ids, without the end-of-text.
        size: Bytes of text that they stand for.
        validation: Whether it belongs to the validation split.
        ends: Whether the document ends with them.
    """

    ids: Ids | list[int]
    size: int
    validation: bool
    ends: bool = True


def encoded_documents(source: TokenSource, tokenizer: Tokenizer, settings: dict[str, Any]) -> Iterator[Encoded]:
    """Reads a corpus of token ids.

    The split is a function of a document's ids. Where there is a validation split, a piece of a long document counts
    as a document; else pieces are laid end to end again. Empty documents are left out.

    Args:
        source: The corpus.
        tokenizer: That made the ids.
        settings: `val_fraction` and `seed` of the split.

    Raises:
        ValueError: An id is none of the tokenizer's.
    """
    for batch in _batches(_pieces(source, tokenizer.eos_token_id, whole=settings["val_fraction"] > 0)):
        for document in batch:
            _check_ids(document.ids, tokenizer, source)
        texts = tokenizer.backend.decode_batch([d.ids.tolist() for d in batch], skip_special_tokens=False)
        for document, text in zip(batch, texts, strict=True):
            content = document.ids.astype("<i8").tobytes()
            validation = is_validation(content, settings["val_fraction"], settings["seed"])
            yield Encoded(document.ids, len(text.encode("utf-8", "replace")), validation, document.ends)


def _pieces(source: TokenSource, eos_token_id: int, whole: bool) -> Iterator[Document]:
    """The documents without their end-of-text; `whole` makes each piece of one a document."""
    goes_on = False
    for ids, ends in source.documents(eos_token_id):
        if ends and len(ids) and ids[-1] == eos_token_id:
            ids = ids[:-1]
        if len(ids) or (goes_on and ends):
            yield Document(ids, ends or whole)
            goes_on = not (ends or whole)


def _batches(documents: Iterator[Document]) -> Iterator[list[Document]]:
    batch: list[Document] = []
    held = 0
    for document in documents:
        batch.append(document)
        held += len(document.ids)
        if held >= _BATCH_TOKENS:
            yield batch
            batch, held = [], 0
    if batch:
        yield batch


def _check_ids(ids: Ids, tokenizer: Tokenizer, source: TokenSource) -> None:
    if len(ids) == 0:
        return
    worst = int(ids.max()) if int(ids.max()) >= tokenizer.vocab_size else int(ids.min())
    if not 0 <= worst < tokenizer.vocab_size:
        raise ValueError(
            f"Token ids must be those of the tokenizer, from 0 to {tokenizer.vocab_size - 1}, got {worst} in "
            f"{source!r}. Set tokenizer to the one that made them, or the source's dtype or field."
        )
