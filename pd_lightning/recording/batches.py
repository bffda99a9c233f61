"""From other people's batches to blocks that a store can hold."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from pd_lightning.data.batch import IGNORE_INDEX, LABELLED
from pd_lightning.data.inputs import DOCUMENTS, are_those_of_same_positions, as_mapping

# What is looked at of a batch.
KEYS = ("input_ids", "labels", "attention_mask", "position_ids", *DOCUMENTS)


def as_blocks(batch: Any, vocab_size: int, filler: int) -> dict[str, Tensor]:
    """Check a batch and give every position a label.

    Args:
        batch: A mapping with `input_ids`, int64 `[B, T]`, and maybe `labels`, int64 `[B, T]`: the next token of each
            position or, as Hugging Face models take them, that of the same position; -100 where the student shall not
            train on it. Without labels, maybe an `attention_mask`, `[B, T]`, that is 0 at padding, on which it does not
            train either. Or a pair of token ids and labels, or token ids alone.
        vocab_size: V; all ids must be below.
        filler: Id to store as the label of a last position that has none.

    Returns:
        `input_ids` and `labels`, int64 `[B, T]`, every label a token, and `labelled`, bool `[B, T]`, where there were
        labels; without labels of the next tokens `[B, T-1]`, the last token being a label only, and `labelled` where
        there was a mask, or labels of the same positions.

    Raises:
        ValueError: If there are no token ids, the labels are not the next tokens, or documents or padding come in a
            form that recording would disregard.
    """
    batch = as_mapping(batch)
    input_ids = _matrix(batch, "input_ids")
    mask = _check_context(batch, input_ids)
    if int(input_ids.min()) < 0 or int(input_ids.max()) >= vocab_size:
        raise ValueError(
            f"input_ids must lie in [0, {vocab_size}), got [{int(input_ids.min())}, {int(input_ids.max())}]. Set "
            "model.tokenizer to the tokenizer that made them."
        )
    if "labels" not in batch:
        blocks = {"input_ids": input_ids[:, :-1], "labels": input_ids[:, 1:].contiguous()}
        return blocks if mask is None else {**blocks, LABELLED: mask[:, 1:].bool().cpu()}
    labels = _matrix(batch, "labels")
    labelled = labels != IGNORE_INDEX
    if are_those_of_same_positions(labels, input_ids):
        blocks = {"input_ids": input_ids[:, :-1], "labels": input_ids[:, 1:].contiguous()}
        return {**blocks, LABELLED: labelled[:, 1:].contiguous()}
    following = torch.cat([input_ids[:, 1:], torch.where(labelled, labels, filler)[:, -1:]], dim=1)
    if labels.shape != input_ids.shape or not torch.equal(labels[labelled], following[labelled]):
        raise ValueError(
            f"labels must be the next tokens, labels[:, t] being input_ids[:, t + 1] or {IGNORE_INDEX}, or those of "
            "the same positions, got others. Correct them in the data, or leave them out of the batches."
        )
    if int(following.min()) < 0 or int(following.max()) >= vocab_size:
        raise ValueError(
            f"labels must lie in [0, {vocab_size}) or be {IGNORE_INDEX}, got {int(following.min())} to "
            f"{int(following.max())}. Set model.tokenizer to the tokenizer that made them."
        )
    return {"input_ids": input_ids, "labels": following, LABELLED: labelled}


def _matrix(batch: Any, name: str) -> Tensor:
    value = batch.get(name) if isinstance(batch, Mapping) else None
    if not isinstance(value, Tensor) or value.dim() != 2 or value.shape[1] < 2 or value.is_floating_point():
        found = f"{name} {list(value.shape)} of {value.dtype}" if isinstance(value, Tensor) else _contents(batch)
        raise ValueError(
            f"A batch to record must be a dictionary with token ids `{name}` of shape [B, T], got {found}. Set data to "
            "a LightningDataModule that gives them, a collate_fn does it say."
        )
    return value.long().cpu()


def _contents(batch: Any) -> str:
    return f"a dictionary of {', '.join(map(str, batch))}" if isinstance(batch, Mapping) else type(batch).__name__


def _check_context(batch: Any, input_ids: Tensor) -> Tensor | None:
    """Refuse what would make the teacher see another context than the data mean; give the mask, where there is one."""
    mask: Tensor | None = batch.get("attention_mask")
    if mask is not None and mask.shape != input_ids.shape:
        raise ValueError(_as_a_whole(f"an attention_mask {list(mask.shape)}"))
    if mask is not None and bool((mask[:, 1:] > mask[:, :-1]).any()):
        raise ValueError(
            "Padding must be on the right of a block, where no token sees it, got an attention_mask with padding "
            "before tokens. Set padding_side to right in the data."
        )
    for name in DOCUMENTS:
        if name in batch:
            raise ValueError(_as_a_whole(name))
    positions = batch.get("position_ids")
    if isinstance(positions, Tensor) and bool((positions.cpu() != torch.arange(input_ids.shape[1])).any()):
        raise ValueError(_as_a_whole("position_ids that begin anew"))
    return mask


def _as_a_whole(found: str) -> str:
    return (
        f"A batch to record must be attended to as a whole, got {found}. Run `pd-lightning tokenize` with "
        "--document_attention isolated, which keeps documents apart when the store is read too."
    )
