"""From decoded blocks to a batch of tensors."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pd_lightning.data.documents import document_ids, document_positions
from pd_lightning.data.order import PADDING
from pd_lightning.store.manifest import Manifest
from pd_lightning.store.reader import BlockReader

IGNORE_INDEX = -100
Item = dict[str, NDArray]
# Column of a store whose data had positions without a label: 0 there, else 1.
LABELLED = "labelled"
_TOKENS = {"block", "labels", "document_ids", "position_ids"}
_KEPT = {"counts", "ids", "logprobs", "draws"}


class BlockDataset(torch.utils.data.Dataset[list[Item]]):
    """Blocks by lists of indices, a whole batch at a time, with the documents that they are made of.

    Args:
        reader: Decoded blocks by index.
        blocks: Which of them to take, and in what order; by default all as they come.
    """

    def __init__(self, reader: BlockReader, blocks: Sequence[int] | NDArray[np.int64] | None = None) -> None:
        self.reader = reader
        self.blocks = range(len(reader)) if blocks is None else blocks

    def __len__(self) -> int:
        return len(self.blocks)

    def __getitem__(self, indices: Sequence[int]) -> list[Item]:
        return [self.block(index) for index in indices]

    def block(self, index: int) -> Item:
        """Give one block; index -1 gives a padding block, which counts for nothing: no labels, and no targets."""
        manifest = self.reader.manifest
        if index == PADDING:
            item = {"block": np.full(manifest.block_size + 1, IGNORE_INDEX, dtype=np.int64)}
            if manifest.kind == "logits":
                item |= without_targets(manifest)
        else:
            item = self.reader[self.blocks[index]]
            if LABELLED in item:
                item["labels"] = np.where(item.pop(LABELLED) > 0, item["block"][1:], IGNORE_INDEX)
        item["document_ids"] = document_ids(item["block"], manifest.tokenizer.eos_token_id)
        if manifest.document_attention == "isolated":
            item["position_ids"] = document_positions(item["document_ids"][:-1])
        return item


class MixedDataset(torch.utils.data.Dataset[list[Item]]):
    """The blocks of several folders by lists of indices, with targets where their folder has some.

    Args:
        parts: The folders' blocks, numbered one part after another.
        manifest: What the folders have in common, see `in_common`: columns that some stores lack are left out.
    """

    def __init__(self, parts: Sequence[BlockDataset], manifest: Manifest) -> None:
        self.parts = parts
        self.manifest = manifest
        self._ends = np.cumsum([len(part) for part in parts])

    def __getitem__(self, indices: Sequence[int]) -> list[Item]:
        return [self._conform(self._block(index)) for index in indices]

    def _block(self, index: int) -> Item:
        if index == PADDING:
            return self.parts[0].block(PADDING)
        part = int(np.searchsorted(self._ends, index, side="right"))
        return self.parts[part].block(index - int(self._ends[part]) + len(self.parts[part]))

    def _conform(self, item: Item) -> Item:
        if self.manifest.kind == "blocks":
            return item
        if "counts" not in item:
            return item | without_targets(self.manifest)
        return {name: item[name] for name in item.keys() & {*_TOKENS, *_KEPT, *self.manifest.columns}}


def without_targets(manifest: Manifest) -> Item:
    """What a block of a logit store has beside its tokens where the teacher said nothing: no id is kept anywhere.

    Args:
        manifest: Manifest of the store.
    """
    T = manifest.block_size
    values = {"draws": np.int64} if manifest.counted else {"logprobs": np.float32}
    item: Item = {"counts": np.zeros(T, dtype=np.int64), "ids": np.zeros(0, dtype=np.int64)}
    item |= {name: np.zeros(0, dtype=dtype) for name, dtype in values.items()}
    item |= {column: np.zeros(T, dtype=np.float32) for column in manifest.columns if column != LABELLED}
    if manifest.teacher_steps:
        item["teacher_step"] = np.zeros(1, dtype=np.int64)
    return item


def collate(items: Sequence[Item]) -> dict[str, Tensor]:
    """Stacks decoded blocks into the batch that models and teachers take.

    Args:
        items: What `BlockDataset` or `MixedDataset` gives.

    Returns:
        `input_ids` and `labels`, int64 `[B, T]`, labels shifted already, and -100 in padding blocks and where a
        store's column `labelled` is 0; `document_ids`, int64 `[B, T+1]`, counted from 0 in each block, of all its
        tokens: the last is the last label's; and, where documents are isolated, `position_ids`, int64 `[B, T]`, counted
        from 0 in each document: models that are given them attend within a document.

        With a logit store also `teacher_ids` int64 `[B, T, K]` and `teacher_logprobs` float32 `[B, T, K]` (K is the
        largest number of kept ids in this batch; positions with fewer are filled with id 0 and -inf), or
        `teacher_draws` int64 `[B, T, K]` of counted draws (filled with 0), and `teacher_<column>` float32 `[B, T]`
        for each column, `teacher_log_tail` among them; `teacher_step` int64 `[B]` where the store has it; and, only
        where some positions have no targets, `teacher_missing` bool `[B, T]`. Such a position has no kept id, as in
        blocks of a folder without targets; here it is given all its mass on id 0.
    """
    blocks = torch.from_numpy(np.stack([item["block"] for item in items]))
    labels = np.stack([item.get("labels", item["block"][1:]) for item in items])
    batch = {"input_ids": blocks[:, :-1].clamp(min=0), "labels": torch.from_numpy(labels)}
    for name in items[0].keys() & {"document_ids", "position_ids"}:
        batch[name] = torch.from_numpy(np.stack([item[name] for item in items]))
    if "counts" in items[0]:
        batch |= {f"teacher_{name}": torch.from_numpy(array) for name, array in _targets(items).items()}
    return batch


def _targets(items: Sequence[Item]) -> Item:
    counts = np.stack([item["counts"] for item in items])
    used = np.arange(max(1, counts.max())) < counts[:, :, None]  # [B, T, K]
    missing = counts == 0
    targets: Item = {}
    for name, empty, certain in (("ids", 0, 0), ("logprobs", -np.inf, 0.0), ("draws", 0, 1)):
        if name in items[0]:
            array = np.full(used.shape, empty, dtype=items[0][name].dtype)
            # A mask assigns in row-major order, which is the order in which ids are stored one after another.
            array[used] = np.concatenate([item[name] for item in items])
            # Something that losses can be formed of, however little it counts.
            array[missing, 0] = certain
            targets[name] = array
    for column in items[0].keys() - _TOKENS - _KEPT - {"teacher_step"}:
        targets[column] = np.stack([item[column] for item in items])
    if "log_tail" in targets:
        targets["log_tail"][missing] = -np.inf
    if "teacher_step" in items[0]:
        targets["step"] = np.concatenate([item["teacher_step"] for item in items])
    if missing.any():
        targets["missing"] = missing
    return targets
