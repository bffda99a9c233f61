"""Other people's training batches, as teacher and objective take them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from pd_lightning.data.batch import IGNORE_INDEX

# What others call the documents that a row is packed of.
DOCUMENTS = ("segment_ids", "sequence_ids", "seq_idx", "cu_seqlens", "cu_seq_lens_q")


class BatchInputs:
    """Finds token ids and labels in the batches of a causal language model's training.

    A batch is a mapping with `input_ids`, int64 `[B, T]`, and maybe `labels` `[B, T]` of the next tokens or, as Hugging
    Face models take them, of the same positions; or a pair of token ids and labels; or token ids alone. Which it is,
    the first batch of training tells, and the first of validation. Without labels they are the ids themselves;
    positions whose next token has an `attention_mask` of 0 have none.

    Args:
        batch_map: Gives such a mapping for the batches of other data; by default they are such already.
    """

    def __init__(self, batch_map: Callable[[Any], Any] | None = None) -> None:
        self._map = batch_map
        self._checked = False
        self._same: dict[bool, bool] = {}

    def __call__(self, batch: Any) -> dict[str, Tensor]:
        """Give the batch with its `labels` shifted.

        Args:
            batch: Of the training.

        Returns:
            The batch's tensors by name, with `input_ids` and `labels`, int64 `[B, T]`: the next token of each
            position, -100 where there is none.

        Raises:
            ValueError: If there are no token ids in it, or the labels are others than its tokens.
        """
        mapping = as_mapping(batch if self._map is None else self._map(batch))
        found = {name: value for name, value in mapping.items() if isinstance(value, Tensor)}
        input_ids = found["input_ids"]
        labels = found.get("labels")
        if not self._checked:
            _check_context(found)
            self._checked = True
        if labels is None:
            mask = found.get("attention_mask")
            labels = input_ids if mask is None else input_ids.masked_fill(mask == 0, IGNORE_INDEX)
        elif not self._are_same(input_ids, labels):
            return found
        return found | {"labels": F.pad(labels[:, 1:], (0, 1), value=IGNORE_INDEX)}

    def _are_same(self, input_ids: Tensor, labels: Tensor) -> bool:
        """Whether labels are those of the same positions, as the first batch with labels tells.

        The first in training, and the first in validation: looking at each would make the host wait for the device.
        """
        training = torch.is_grad_enabled()
        if training not in self._same and bool((labels != IGNORE_INDEX).any()):
            self._same[training] = _relation(input_ids, labels)
        return self._same.get(training, False)


def as_mapping(batch: Any) -> dict[str, Any]:
    """Give what is in a batch by name, `input_ids` among them.

    Args:
        batch: A mapping that has them, a pair of token ids and labels, or token ids alone, int64 `[B, T]`.

    Raises:
        ValueError: If there are no token ids in it.
    """
    if isinstance(batch, Mapping) and _is_ids(batch.get("input_ids")):
        return dict(batch)
    if isinstance(batch, (tuple, list)) and len(batch) == 2 and all(map(_is_ids, batch)):
        return dict(zip(("input_ids", "labels"), batch, strict=True))
    if _is_ids(batch):
        return {"input_ids": batch}
    found = f"a mapping of {', '.join(map(str, batch))}" if isinstance(batch, Mapping) else type(batch).__name__
    raise ValueError(
        f"A batch must have token ids `input_ids` of shape [B, T], got {found}. Set batch_map to a function that gives "
        "a dictionary of them, and of `labels`, the next tokens, for a batch."
    )


def _is_ids(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dim() == 2 and not value.is_floating_point()


def _check_context(batch: Mapping[str, Tensor]) -> None:
    """Refuse what would make the teacher see another context than the student."""
    mask = batch.get("attention_mask")
    if mask is not None and mask.dim() == 2 and bool((mask[:, 1:] > mask[:, :-1]).any()):
        raise ValueError(
            "Padding must be on the right of a row, where no token sees it, got an attention_mask with padding before "
            "tokens. Set padding_side to right in the data."
        )
    documents = [name for name in DOCUMENTS if name in batch]
    if documents and "position_ids" not in batch:
        raise ValueError(
            f"Documents of a row must be told by position_ids, which the teacher is given, got {documents[0]}. Set "
            "batch_map to a function that gives position_ids, int64 [B, T], counted from 0 in each document."
        )


def _relation(input_ids: Tensor, labels: Tensor) -> bool:
    """Whether labels are those of the same positions; if not, they must be the next tokens."""
    if are_those_of_same_positions(labels, input_ids):
        return True
    if labels.shape == input_ids.shape and _agree(labels[:, :-1], input_ids[:, 1:]):
        return False
    raise ValueError(
        "labels must be the next tokens, labels[:, t] being input_ids[:, t + 1] or -100, or those of the same "
        f"positions, got others, {list(labels.shape)} for {list(input_ids.shape)} input_ids. Set batch_map to a "
        "function that gives them for a batch."
    )


def are_those_of_same_positions(labels: Tensor, input_ids: Tensor) -> bool:
    """Whether labels are the token ids of the same positions, as Hugging Face models shift them; -100 for none.

    Args:
        labels: Int64 `[B, T]`.
        input_ids: Int64 `[B, T]`.
    """
    if labels.shape != input_ids.shape or not _agree(labels, input_ids):
        return False
    return not _agree(labels[:, :-1], input_ids[:, 1:])


def _agree(labels: Tensor, ids: Tensor) -> bool:
    return bool(torch.where(labels == IGNORE_INDEX, ids, labels).equal(ids))
