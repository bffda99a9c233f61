"""From decoded blocks to a batch of tensors."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pd_lightning.data.documents import document_ids, document_positions
from pd_lightning.data.order import PADDING
from pd_lightning.store.reader import BlockReader

IGNORE_INDEX = -100
Item = dict[str, NDArray]
_TOKENS = {"block", "document_ids", "position_ids"}


class BlockDataset(torch.utils.data.Dataset[list[Item]]):
    """Blocks by lists of indices, a whole batch at a time, with the documents that they are made of.

    Args:
        reader: Decoded blocks by index. Index -1 gives a padding block instead.
    """

    def __init__(self, reader: BlockReader) -> None:
        self.reader = reader

    def __len__(self) -> int:
        return len(self.reader)

    def __getitem__(self, indices: Sequence[int]) -> list[Item]:
        return [self._with_documents(self._padding() if i == PADDING else self.reader[i]) for i in indices]

    def _with_documents(self, item: Item) -> Item:
        manifest = self.reader.manifest
        item["document_ids"] = document_ids(item["block"], manifest.tokenizer.eos_token_id)
        if manifest.document_attention == "isolated":
            item["position_ids"] = document_positions(item["document_ids"][:-1])
        return item

    def _padding(self) -> Item:
        """A block that counts for nothing: no labels, and all mass on one kept id."""
        manifest = self.reader.manifest
        T = manifest.block_size
        item: Item = {"block": np.full(T + 1, IGNORE_INDEX, dtype=np.int64)}
        if manifest.kind == "logits":
            item |= {"counts": np.ones(T, dtype=np.int64), "ids": np.zeros(T, dtype=np.int64)}
            item |= {column: np.zeros(T, dtype=np.float32) for column in ("logprobs", *manifest.columns)}
            item["log_tail"] = np.full(T, -np.inf, dtype=np.float32)
        return item


class SplitsDataset(torch.utils.data.Dataset[list[Item]]):
    """Batches of several splits, by the name of a split and the indices of its blocks.

    Args:
        splits: The blocks of each split, by its name.
    """

    def __init__(self, splits: dict[str, BlockDataset]) -> None:
        self._splits = splits

    def __getitem__(self, batch: tuple[str, Sequence[int]]) -> list[Item]:
        name, indices = batch
        return self._splits[name][indices]


def collate(items: Sequence[Item]) -> dict[str, Tensor]:
    """Stacks decoded blocks into the batch that models and teachers take.

    Args:
        items: What `BlockDataset` gives.

    Returns:
        `input_ids` and `labels`, int64 `[B, T]`, labels shifted already and -100 in padding blocks; `document_ids`,
        int64 `[B, T+1]`, counted from 0 in each block, of all its tokens: the last is the last label's; and, where
        documents are isolated, `position_ids`, int64 `[B, T]`, counted from 0 in each document: models that are given
        them attend within a document. With a logit store also `teacher_ids` int64 `[B, T, K]` and `teacher_logprobs`
        float32 `[B, T, K]` (K is the largest number of kept ids in this batch; positions with fewer are filled with id
        0 and -inf), and `teacher_<column>` float32 `[B, T]` for each column, `teacher_log_tail` among them.
    """
    blocks = torch.from_numpy(np.stack([item["block"] for item in items]))
    batch = {"input_ids": blocks[:, :-1].clamp(min=0), "labels": blocks[:, 1:].contiguous()}
    for name in items[0].keys() & {"document_ids", "position_ids"}:
        batch[name] = torch.from_numpy(np.stack([item[name] for item in items]))
    if "counts" not in items[0]:
        return batch
    counts = np.stack([item["counts"] for item in items])
    kept = np.arange(max(1, counts.max())) < counts[:, :, None]  # [B, T, K]
    ids = np.zeros(kept.shape, dtype=np.int64)
    logprobs = np.full(kept.shape, -np.inf, dtype=np.float32)
    # A mask assigns in row-major order, which is the order in which ids are stored one after another.
    ids[kept] = np.concatenate([item["ids"] for item in items])
    logprobs[kept] = np.concatenate([item["logprobs"] for item in items])
    batch["teacher_ids"] = torch.from_numpy(ids)
    batch["teacher_logprobs"] = torch.from_numpy(logprobs)
    for column in items[0].keys() - _TOKENS - {"counts", "ids", "logprobs"}:
        batch[f"teacher_{column}"] = torch.from_numpy(np.stack([item[column] for item in items]))
    return batch
