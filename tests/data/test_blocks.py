from __future__ import annotations

import re
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer

from pd_lightning.data import TokenBlocks


def seen(loader) -> list[int]:
    return [int(number) for batch in loader for number in batch["input_ids"][:, 0]]


@pytest.mark.parametrize("stage", ["validate", "test", "predict", "fit"])
def test_validation_reads_each_block_once_in_order(make_folder, stage):
    data = TokenBlocks(str(make_folder(train=4, val=7)), batch_size=2, val_batch_size=3)
    data.setup(stage)
    loader = data.val_dataloader()
    assert len(loader) == 3
    assert seen(loader) == seen(loader) == list(range(7))


def test_blocks_and_store_give_the_same_order(make_folder):
    loaders = []
    for kind in ("blocks", "logits"):
        data = TokenBlocks(str(make_folder(kind, kind=kind, train=20, val=1)), batch_size=3, seed=9)
        data.setup("fit")
        assert data.kind == kind
        loaders.append(data.train_dataloader())
    assert seen(loaders[0]) == seen(loaders[1]) != list(range(20))


def test_facts_are_known_before_setup(make_folder, known):
    path = make_folder(train=4, val=1)
    data = TokenBlocks(str(path))
    assert (data.kind, data.vocab_size, data.manifest.block_size) == ("blocks", known.V, known.T)
    assert data.tokenizer_dir == path / "tokenizer"


def test_subsets_and_order_of_the_folder(make_folder):
    path = str(make_folder(train=20, val=9))
    data = TokenBlocks(path, shuffle=False, max_train_blocks=11, max_val_blocks=4)
    data.setup("fit")
    assert seen(data.train_dataloader()) == list(range(11))
    assert seen(data.val_dataloader()) == list(range(4))
    large = TokenBlocks(path, batch_size=100, max_train_blocks=100)
    large.setup("fit")
    assert sorted(seen(large.train_dataloader())) == list(range(20))
    share = TokenBlocks(path, shuffle=False, train_fraction=0.26)
    share.setup("fit")
    assert seen(share.train_dataloader()) == list(range(5))
    least = TokenBlocks(path, train_fraction=0.01)
    least.setup("fit")
    assert seen(least.train_dataloader()) == [0], "one block at least"


def test_validation_from_another_folder(make_folder):
    path, other = make_folder(train=4), make_folder("other", val=5)
    data = TokenBlocks(str(path), val_path=str(other))
    data.setup("fit")
    assert seen(data.val_dataloader()) == [0, 1, 2, 3, 4]
    stranger = make_folder("stranger", tokenizer="1", val=5)
    with pytest.raises(ValueError, match=r"data\.val_path must hold blocks of the tokenizer of data\.path"):
        TokenBlocks(str(path), val_path=str(stranger)).setup("fit")


@pytest.mark.parametrize(("ours", "theirs"), [("full", "isolated"), ("isolated", "full")])
def test_validation_with_another_document_attention(make_folder, ours, theirs):
    path, other = make_folder(train=4, attention=ours), make_folder("other", val=5, attention=theirs)
    message = rf"document_attention of data\.path, got .*other with {theirs} .* with {ours}\. .*attention {ours}\."
    with pytest.raises(ValueError, match=message):
        TokenBlocks(str(path), val_path=str(other)).setup("fit")


def test_validation_on_targets_over_another_vocabulary(make_folder):
    path, other = make_folder(kind="logits", train=4), make_folder("other", kind="logits", vocab_size=1024, val=5)
    with pytest.raises(
        ValueError, match=r"got .*other with 1024 ids and .*blocks with 1000\. Record it with the teacher"
    ):
        TokenBlocks(str(path), val_path=str(other)).setup("fit")
    blocks = make_folder("padded", kind="blocks", train=4)
    TokenBlocks(str(blocks), val_path=str(other)).setup("fit")  # whose targets nobody asks for


def test_validation_on_targets_of_another_kind(make_folder):
    path, other = make_folder(kind="logits", train=4), make_folder("other", kind="logits", samples=3, val=5)
    message = r"must hold targets of the kind .*other with ids drawn at random and .* most probable ids\."
    with pytest.raises(ValueError, match=message):
        TokenBlocks(str(path), val_path=str(other)).setup("fit")
    counted = make_folder("counted", kind="logits", samples=3, values="counts", train=4)
    TokenBlocks(str(counted), val_path=str(other)).setup("fit")
    TokenBlocks(str(path), val_path=str(make_folder("plain", val=5))).setup("fit")


@pytest.mark.parametrize("splits", [{"train": 3}, {"train": 3, "val": 0}])
def test_an_empty_validation_split_names_the_ways_out(make_folder, splits):
    path = make_folder(**splits)
    message = rf"{re.escape(str(path))} must hold blocks in its val split, got none\. Set data\.val_path .* --val_"
    with pytest.raises(ValueError, match=message):
        TokenBlocks(str(path)).setup("fit")
    data = TokenBlocks(str(path))
    data.trainer = Trainer(limit_val_batches=0, logger=False, accelerator="cpu", enable_checkpointing=False)
    data.setup("fit")
    with pytest.raises(ValueError, match="must hold blocks in its train split"):
        TokenBlocks(str(make_folder("other", train=0, val=2))).setup("fit")


def test_a_missing_folder():
    with pytest.raises(FileNotFoundError, match="the data folder must exist, got nowhere"):
        TokenBlocks("nowhere").setup("fit")


@pytest.mark.parametrize(
    "setting",
    [
        {"batch_size": 0},
        {"val_batch_size": 0},
        {"num_workers": -1},
        {"max_train_blocks": 0},
        {"max_val_blocks": 0},
    ],
    ids=str,
)
def test_settings_out_of_range(setting):
    with pytest.raises(ValueError, match=rf"data\.{next(iter(setting))} must be at least"):
        TokenBlocks("anywhere", **setting)


@pytest.mark.parametrize("share", [0.0, 1.5, -0.1])
def test_a_share_out_of_range(share):
    with pytest.raises(ValueError, match=rf"data\.train_fraction must be above 0 and at most 1, got {share}\. Set it"):
        TokenBlocks("anywhere", train_fraction=share)


class Nothing(LightningModule):
    def training_step(self, batch, batch_idx):
        return None

    def predict_step(self, batch, batch_idx):
        return batch["input_ids"][:, 0]

    def configure_optimizers(self):
        return None


def quiet_trainer(**kwargs) -> Trainer:
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    return Trainer(accelerator="cpu", max_epochs=1, **quiet, **kwargs)


def test_settings_of_the_trainer_that_would_break_the_order(make_folder, monkeypatch):
    data = TokenBlocks(str(make_folder(train=3, val=1)))
    with pytest.raises(ValueError, match=r"overfit_batches must be 0 .* data\.max_train_blocks"):
        quiet_trainer(overfit_batches=2).fit(Nothing(), datamodule=data)
    monkeypatch.setattr(Trainer, "distributed_sampler_kwargs", property(lambda self: {"num_replicas": 2, "rank": 0}))
    with pytest.raises(ValueError, match=r"Set trainer\.use_distributed_sampler to false"):
        quiet_trainer().fit(Nothing(), datamodule=data)


def test_prediction_keeps_our_batches(make_folder):
    data = TokenBlocks(str(make_folder(train=3, val=5)), batch_size=2)
    predictions = quiet_trainer().predict(Nothing(), datamodule=data)
    assert torch.cat(predictions).tolist() == [0, 1, 2, 3, 4]


def test_ranks_share_validation(make_folder, monkeypatch):
    path, blocks = str(make_folder(train=3, val=5)), []
    for rank in (0, 1):
        data = TokenBlocks(path, batch_size=2)
        data.setup("validate")
        data.trainer = SimpleNamespace(
            distributed_sampler_kwargs={"num_replicas": 2, "rank": rank},
            _accelerator_connector=SimpleNamespace(use_distributed_sampler=False),
            overfit_batches=0,
            strategy=SimpleNamespace(root_device=torch.device("cpu")),
        )
        batches = list(data.val_dataloader())
        assert [len(batch["labels"]) for batch in batches] == [2, 1]
        blocks += [int(row[0]) - 1 for batch in batches for row in batch["labels"] if row[0] != -100]
    assert sorted(blocks) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(("device", "given", "expected"), [("cpu", None, 0), ("cuda", None, 2), ("cuda", 0, 0)])
def test_a_gpu_does_not_wait_for_blocks(make_folder, device, given, expected):
    data = TokenBlocks(str(make_folder("blocks", train=8, val=1)), batch_size=2, num_workers=given)
    data.setup("fit")
    strategy = SimpleNamespace(root_device=torch.device(device))
    data.trainer = SimpleNamespace(strategy=strategy, distributed_sampler_kwargs=None)
    loader = data.val_dataloader()
    assert loader.num_workers == expected
    assert loader.pin_memory == (device == "cuda")
