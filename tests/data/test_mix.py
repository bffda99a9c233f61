from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer

from pd_lightning.data import MixedIn, TokenBlocks
from pd_lightning.data.mix import in_common
from pd_lightning.store.manifest import read_manifest


def opened(path, **settings) -> TokenBlocks:
    data = TokenBlocks(str(path), batch_size=4, **settings)
    data.setup("fit")
    return data


def seen(loader) -> list[int]:
    return [int(number) for batch in loader for number in batch["input_ids"][:, 0]]


@pytest.fixture
def stores(make_folder):
    """Stores of two teachers over the same eight blocks, and plain blocks 500 to 511."""
    return (
        make_folder("one", kind="logits", train=8, val=2),
        make_folder("other", kind="logits", train=8),
        make_folder("plain", start=500, train=12),
    )


def test_an_epoch_is_one_pass_over_the_path_with_the_others_mixed_in(stores):
    one, other, plain = stores
    data = opened(one, mix={"other": MixedIn(str(other)), "plain": MixedIn(str(plain), weight=0.5, skip_blocks=4)})
    loader = data.train_dataloader()
    numbers = seen(loader)
    assert len(loader) == 5
    assert len(numbers) == 20
    assert sorted(n for n in numbers if n < 500) == sorted([*range(8)] * 2)
    assert len({n for n in numbers if n >= 504}) == 4
    assert (data.kind, seen(data.val_dataloader())) == ("logits", [0, 1])


@pytest.mark.parametrize("swapped", [False, True])
def test_blocks_with_and_without_targets_stand_in_one_batch(stores, swapped):
    one, _, plain = stores
    path, mixed = (plain, one) if swapped else (one, plain)
    data = opened(path, mix={"more": MixedIn(str(mixed), weight=1.0)}, val_path=str(one))
    for batch in data.train_dataloader():
        first = batch["input_ids"][:, 0]
        recorded = batch["teacher_missing"][first < 500]
        assert not recorded.all(dim=-1).any()
        assert batch["teacher_missing"][first >= 500].all()
        assert batch["teacher_entropy"].shape == batch["labels"].shape
    assert data.kind == data.manifest.kind == "logits"


def test_folders_in_common(make_folder):
    manifests = [read_manifest(make_folder(name, kind="logits", train=1)) for name in ("a", "b")]
    manifests[0].selection = {"p": 0.95, "k": 50, "min_k": 1}
    manifests[1].selection = {"k": 20}
    manifests[1].columns, manifests[1].vocab_size = ("log_tail",), 1024
    shared = in_common(manifests)
    assert (shared.columns, shared.selection, shared.vocab_size) == (("log_tail",), {"k": 20}, 1024)
    assert in_common(manifests[:1]) is manifests[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tokenizer": "1"}, "with the tokenizer of data.path, got .*odd with sha256:6b.* and .*one with sha256:44"),
        ({"attention": "isolated"}, "with the document_attention of data.path, got .* with isolated"),
    ],
)
def test_folders_that_do_not_go_together(stores, make_folder, change, message):
    odd = make_folder("odd", train=3, **change)
    with pytest.raises(ValueError, match=message):
        opened(stores[0], mix={"odd": MixedIn(str(odd))})


@pytest.mark.parametrize(
    ("one", "other", "message"),
    [
        ({}, {"samples": 3, "values": "counts"}, r"got the most probable ids in .*one and counted draws in .*other\."),
        ({"samples": 3, "values": "counts"}, {"samples": 3}, "got counted draws in .*one and estimates from draws in"),
    ],
)
def test_stores_of_other_targets_do_not_go_together(make_folder, one, other, message):
    paths = [make_folder(name, kind="logits", train=3, **kind) for name, kind in (("one", one), ("other", other))]
    with pytest.raises(ValueError, match=message):
        opened(paths[0], mix={"other": MixedIn(str(paths[1]))})


@pytest.mark.parametrize("values", ["counts", "exact", "half"])
@pytest.mark.parametrize("first", ["store", "plain"])
def test_blocks_without_targets_mix_with_drawn_ids(make_folder, values, first):
    """Only where draws are counted do they come as counts."""
    store = make_folder("store", kind="logits", samples=3, values=values, train=2, val=1)
    plain = make_folder("plain", start=500, train=2, val=1)
    path, other = (store, plain) if first == "store" else (plain, store)
    data = opened(path, mix={"other": MixedIn(str(other))})
    (batch,) = data.train_dataloader()
    assert ("teacher_draws" in batch, "teacher_logprobs" in batch) == (values == "counts", values != "counts")
    assert torch.equal(batch["teacher_missing"].all(dim=-1), batch["input_ids"][:, 0] >= 500)


def test_mixed_folders_need_a_training_split(stores, make_folder):
    empty = make_folder("empty", val=3)
    with pytest.raises(ValueError, match="empty must hold blocks in its train split"):
        opened(stores[0], mix={"empty": MixedIn(str(empty))})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"weight": 0.0}, r"weight must be above 0, got 0.0. Set data.mix.<name>.weight"),
        ({"skip_blocks": -1}, "skip_blocks must be at least 0, got -1"),
    ],
)
def test_settings_out_of_range(settings, message):
    with pytest.raises(ValueError, match=message):
        MixedIn("anywhere", **settings)


def test_nothing_left_to_mix_in(stores):
    with pytest.raises(ValueError, match=r"must leave some of the training blocks, got 12 of 12 in .*plain\. Lower"):
        opened(stores[0], mix={"plain": MixedIn(str(stores[2]), skip_blocks=12)})


@pytest.fixture
def recorded_in_training(make_folder):
    """Two ranks wrote chunks of three blocks in turn."""
    return make_folder("online", kind="logits", train=9, val=1, steps=[0, 0, 1, 0, 0, 1, 2, 2, 3])


def test_blocks_of_late_teachers_alone(recorded_in_training):
    assert sorted(seen(opened(recorded_in_training, min_teacher_step=1).train_dataloader())) == [2, 5, 6, 7, 8]
    few = opened(recorded_in_training, min_teacher_step=1, max_train_blocks=3)
    assert sorted(seen(few.train_dataloader())) == [2, 5, 6]


def test_unshuffled_blocks_come_in_the_order_of_teacher_steps(recorded_in_training):
    assert seen(opened(recorded_in_training, shuffle=False).train_dataloader()) == [0, 1, 3, 4, 2, 5, 6, 7, 8]
    late = opened(recorded_in_training, shuffle=False, min_teacher_step=1)
    assert seen(late.train_dataloader()) == [2, 5, 6, 7, 8]


def test_teacher_steps_that_are_not_there(recorded_in_training, stores, make_folder):
    with pytest.raises(ValueError, match=r"must be 0 where the store does not tell .* got 3\. Set data\.path to a st"):
        opened(stores[0], min_teacher_step=3)
    with pytest.raises(ValueError, match=r"at most the teacher's last recorded step, 3, got 4. Lower"):
        opened(recorded_in_training, min_teacher_step=4)
    with pytest.raises(ValueError, match=r"must tell of 9 blocks, got 1. Record the store again"):
        opened(make_folder("short", kind="logits", train=9, val=1, steps=[0]))


class Seeing(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.seen: list[list[int]] = []

    def training_step(self, batch, batch_idx):
        self.seen.append(batch["input_ids"][:, 0].tolist())

    def configure_optimizers(self):
        return None


def fit(data: TokenBlocks, epochs: int, folder, ckpt=None) -> list[list[int]]:
    module = Seeing()
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        limit_val_batches=0,
        default_root_dir=folder,
    )
    trainer.fit(module, datamodule=data, ckpt_path=ckpt, weights_only=True)
    trainer.save_checkpoint(folder / "last.ckpt")
    return module.seen


@pytest.mark.parametrize("workers", [0, 2])
def test_a_resumed_mixture_goes_on_as_the_whole_one(stores, tmp_path, workers):
    def data(**changes) -> TokenBlocks:
        mix = {"plain": MixedIn(str(stores[2]), **{"weight": 0.6, **changes})}
        return TokenBlocks(str(stores[0]), batch_size=3, num_workers=workers, mix=mix)

    whole = fit(data(), 4, tmp_path)
    first = fit(data(), 2, tmp_path)
    assert whole == first + fit(data(), 4, tmp_path, tmp_path / "last.ckpt")
    assert {n for batch in whole for n in batch} == {*range(8), *range(500, 512)}
    message = re.escape("checkpoint's, which had mix [[12, 5]], got mix [[12, 4]]")
    with pytest.raises(ValueError, match=message):
        fit(data(weight=0.5), 5, tmp_path, tmp_path / "last.ckpt")


def test_another_first_step_of_the_teacher_is_refused(recorded_in_training, tmp_path):
    fit(TokenBlocks(str(recorded_in_training), min_teacher_step=1), 1, tmp_path)
    with pytest.raises(ValueError, match=r"which had num_blocks 5, min_teacher_step 1, got num_blocks 3, min_teacher"):
        fit(TokenBlocks(str(recorded_in_training), min_teacher_step=2), 2, tmp_path, tmp_path / "last.ckpt")


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("batch_size", [4, 8])
def test_every_epoch_has_each_block_once_whatever_the_loaders(stores, tmp_path, batch_size, workers):
    data = TokenBlocks(str(stores[0]), batch_size=batch_size, num_workers=workers, prefetch_factor=1)
    batches = fit(data, 2, tmp_path)
    numbers = np.array([n for batch in batches for n in batch])
    assert [sorted(epoch.tolist()) for epoch in np.split(numbers, 2)] == [[*range(8)]] * 2


@pytest.mark.slow
@pytest.mark.parametrize(("batch_size", "workers"), [(4, 2), (8, 1)])
def test_two_processes_see_each_block_once(stores, tmp_path, batch_size, workers):
    script = Path(__file__).with_name("blocks_on_ranks.py")
    output = tmp_path / "seen"
    output.mkdir()
    command = [sys.executable, str(script), str(stores[0]), str(stores[2]), str(batch_size), str(workers), str(output)]
    subprocess.run(command, check=True, timeout=300, env={**os.environ, "OMP_NUM_THREADS": "1"})
    numbers = [number for path in output.iterdir() for number in json.loads(path.read_text())]
    assert sorted(n for n in numbers if n < 500) == sorted([*range(8)] * 2)
    assert len({n for n in numbers if n >= 500}) == 8, "two epochs of four are eight of twelve"
    assert len(numbers) == 24
