from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from pd_lightning.data.batch import BlockDataset, MixedDataset, collate, without_targets
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
            first = logprobs[start:end].tolist() if count else [0.0]
            expected = first + [-math.inf] * (K - len(first))
            assert batch["teacher_logprobs"][row, t].tolist() == expected
            start = end
        missing = counts == 0
        assert batch["teacher_missing"][row].tolist() == missing.tolist()
        assert batch["teacher_log_tail"][row].tolist() == np.where(missing, -np.inf, columns["log_tail"]).tolist()
        assert batch["teacher_entropy"][row].tolist() == columns["entropy"].tolist()


def test_nothing_kept_anywhere_leaves_one_entry_with_all_mass(make_folder, known):
    (item,) = BlockDataset(BlockReader(make_folder(kind="logits", train=1), "train"))[[0]]
    none = {"counts": np.zeros(known.T, np.int64), "ids": np.zeros(0, np.int64), "logprobs": np.zeros(0, np.float32)}
    batch = collate([item | none])
    assert batch["teacher_ids"].tolist() == [[[0]] * known.T]
    assert batch["teacher_logprobs"].tolist() == [[[0.0]] * known.T]
    assert batch["teacher_log_tail"].tolist() == [[-math.inf] * known.T]
    assert batch["teacher_missing"].tolist() == [[True] * known.T]


def test_where_every_position_has_targets_none_is_missing(make_folder, known):
    (item,) = BlockDataset(BlockReader(make_folder(kind="logits", train=1), "train"))[[0]]
    item |= {"counts": np.ones(known.T, np.int64), "ids": np.arange(known.T)}
    assert "teacher_missing" not in collate([item | {"logprobs": np.zeros(known.T, np.float32)}])


def test_draws_and_teacher_steps_are_stacked(make_folder, known):
    (item,) = BlockDataset(BlockReader(make_folder(kind="blocks", train=1), "train"))[[0]]
    sampled = {"counts": np.array([2, 0, 1, 1]), "ids": np.array([5, 6, 7, 8]), "draws": np.array([3, 1, 4, 4])}
    batch = collate([item | sampled | {"teacher_step": np.array([9])}] * 2)
    assert batch["teacher_ids"][1].tolist() == [[5, 6], [0, 0], [7, 0], [8, 0]]
    assert batch["teacher_draws"][1].tolist() == [[3, 1], [1, 0], [4, 0], [4, 0]]
    assert batch["teacher_missing"][1].tolist() == [False, True, False, False]
    assert batch["teacher_step"].tolist() == [9, 9]
    assert not batch.keys() & {"teacher_logprobs", "teacher_log_tail"}


def test_blocks_can_be_chosen(make_folder):
    dataset = BlockDataset(BlockReader(make_folder(train=7), "train"), np.array([5, 3]))
    assert len(dataset) == 2
    assert collate(dataset[[1, 0]])["input_ids"][:, 0].tolist() == [3, 5]


def test_mixed_folders_are_numbered_on_and_keep_what_they_share(make_folder):
    stored, plain = (
        BlockReader(make_folder(kind, kind=kind, start=start, train=4), "train")
        for kind, start in (("logits", 0), ("blocks", 100))
    )
    shared = replace(stored.manifest, columns=("log_tail",))
    dataset = MixedDataset([BlockDataset(stored), BlockDataset(plain, [2, 3])], shared)
    batch = collate(dataset[[5, 1, 4, PADDING, 3]])
    assert batch["input_ids"][:, 0].tolist() == [103, 1, 102, 0, 3]
    assert batch["teacher_missing"][[0, 2, 3]].all()
    assert "teacher_entropy" not in batch
    alone = collate(BlockDataset(stored)[[1, 3]])
    K = alone["teacher_ids"].shape[-1]
    for name in ("teacher_ids", "teacher_logprobs"):
        assert torch.equal(batch[name][[1, 4], :, :K], alone[name])
    tokens = MixedDataset([BlockDataset(plain)] * 2, plain.manifest)
    assert set(collate(tokens[[7]])) == {"input_ids", "labels", "document_ids"}


@pytest.mark.parametrize(
    "targets", [{}, {"samples": 3}, {"samples": 3, "values": "half"}, {"samples": 3, "values": "counts"}]
)
def test_without_targets_is_made_like_a_stored_block(make_folder, targets):
    reader = BlockReader(make_folder(kind="logits", train=1, **targets), "train")
    stored, empty = reader[0], without_targets(reader.manifest)
    assert empty.keys() == stored.keys() - {"block"}
    assert {name: array.dtype for name, array in empty.items()} == {name: stored[name].dtype for name in empty}


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
