from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from pd_lightning.data.batch import BlockDataset, collate
from pd_lightning.data.order import PADDING
from pd_lightning.store.reader import BlockReader


def test_tokens_are_shifted_once(make_folder, known):
    batch = collate(BlockDataset(BlockReader(make_folder(train=7), "train"))[[6, 0]])
    assert set(batch) == {"input_ids", "labels", "document_ids"}
    assert batch["input_ids"].tolist() == [known.block(6)[:-1].tolist(), known.block(0)[:-1].tolist()]
    assert batch["labels"].tolist() == [known.block(6)[1:].tolist(), known.block(0)[1:].tolist()]
    assert batch["input_ids"].dtype == batch["labels"].dtype == torch.int64
    assert all(tensor.is_contiguous() for tensor in batch.values())


def test_targets_equal_a_loop_over_positions(make_folder, known):
    numbers = [5, 2, 0]
    batch = collate(BlockDataset(BlockReader(make_folder(kind="logits", train=7), "train"))[numbers])
    K = max(known.targets(number)[0].max() for number in numbers)
    assert batch["teacher_ids"].shape == batch["teacher_logprobs"].shape == (3, known.T, K)
    assert batch["teacher_ids"].dtype == torch.int64
    assert batch["teacher_logprobs"].dtype == batch["teacher_log_tail"].dtype == torch.float32
    for row, number in enumerate(numbers):
        counts, ids, logprobs, columns = known.targets(number)
        start = 0
        for t, count in enumerate(counts):
            end = start + count
            assert batch["teacher_ids"][row, t].tolist() == ids[start:end].tolist() + [0] * (K - count)
            expected = logprobs[start:end].tolist() + [-math.inf] * (K - count)
            assert batch["teacher_logprobs"][row, t].tolist() == expected
            start = end
        for name, column in columns.items():
            assert batch[f"teacher_{name}"][row].tolist() == column.tolist()


def test_nothing_kept_anywhere_leaves_one_empty_entry(make_folder, known):
    (item,) = BlockDataset(BlockReader(make_folder(kind="logits", train=1), "train"))[[0]]
    none = {"counts": np.zeros(known.T, np.int64), "ids": np.zeros(0, np.int64), "logprobs": np.zeros(0, np.float32)}
    batch = collate([item | none])
    assert batch["teacher_ids"].tolist() == [[[0]] * known.T]
    assert batch["teacher_logprobs"].tolist() == [[[-math.inf]] * known.T]


@pytest.mark.parametrize("attention", ["full", "isolated"])
@pytest.mark.parametrize("kind", ["blocks", "logits"])
def test_documents_are_told_apart_and_isolated_ones_have_positions(make_folder, known, kind, attention):
    """End-of-text is 0, the first token of block 0."""
    folder = make_folder(kind=kind, attention=attention, train=7)
    batch = collate(BlockDataset(BlockReader(folder, "train"))[[0, 6, PADDING]])
    assert batch["document_ids"].tolist() == [[0, 1, 1, 1, 1], [0] * 5, [0] * 5]
    assert batch["document_ids"].dtype == torch.int64
    if attention == "full":
        assert "position_ids" not in batch
    else:
        assert batch["position_ids"].tolist() == [[0, 0, 1, 2], [0, 1, 2, 3], [0, 1, 2, 3]]
        assert batch["position_ids"].dtype == torch.int64


def test_a_padding_block_counts_for_nothing(make_folder, known):
    dataset = BlockDataset(BlockReader(make_folder(kind="logits", train=2), "train"))
    batch, alone = collate(dataset[[1, PADDING]]), collate(dataset[[1]])
    for name in alone:
        K = alone["teacher_ids"].shape[-1]
        both = batch[name][:1, :, :K] if batch[name].ndim == 3 else batch[name][:1]
        assert torch.equal(both, alone[name])
    assert (batch["labels"][1] == -100).all()
    assert (batch["input_ids"][1] == 0).all()
    assert (batch["teacher_log_tail"][1] == -math.inf).all()
    total = batch["teacher_logprobs"][1].logsumexp(-1)
    assert torch.equal(total, torch.zeros(known.T)), "its kept ids hold all the mass"
    assert (collate(BlockDataset(BlockReader(dataset.reader.folder, "train"))[[PADDING]])["labels"] == -100).all()
