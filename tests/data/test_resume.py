"""Interrupt a run anywhere, go on, and see exactly the blocks that the uninterrupted run would have seen."""

from __future__ import annotations

import math
from itertools import chain
from pathlib import Path

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, ModelCheckpoint

from pd_lightning.data import TokenBlocks

BLOCKS, BATCH, EPOCHS = 10, 3, 3  # 4 batches an epoch, the last of one block


def flat(batches) -> list[int]:
    return list(chain.from_iterable(batches))


class Recording(LightningModule):
    """Remembers the blocks of each batch, and sums what its optimizer steps have seen."""

    def __init__(self, estimate: bool = False) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(100))
        self.estimate = estimate
        self.seen: list[list[int]] = []
        self.validated: list[int] = []

    def training_step(self, batch, batch_idx):
        blocks = batch["input_ids"][:, 0]
        self.seen.append(blocks.tolist())
        return -self.weight[blocks].sum()  # each step adds what it saw: weights tell exactly what was trained on

    def validation_step(self, batch, batch_idx):
        self.validated += batch["input_ids"][:, 0].tolist()

    def configure_optimizers(self):
        if self.estimate:
            self.trainer.estimated_stepping_batches  # noqa: B018 - sets the loaders up before counters are loaded
        return torch.optim.SGD(self.parameters(), lr=1.0)


class SaveAtBatch(Callback):
    """A checkpoint after every batch, in the middle of accumulation as well."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_batch_end(self, trainer, *args) -> None:
        trainer.save_checkpoint(self.folder / f"batch={trainer.fit_loop.epoch_loop.batch_progress.total.processed}")


class SaveAtValidation(Callback):
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_validation_end(self, trainer, *args) -> None:
        if not trainer.sanity_checking:
            step = trainer.fit_loop.epoch_loop.batch_progress.total.processed
            trainer.save_checkpoint(self.folder / f"batch={step}")


def make_trainer(tmp_path, callbacks=(), **kwargs) -> Trainer:
    kwargs = {"max_epochs": EPOCHS, "num_sanity_val_steps": 0, **kwargs}
    return Trainer(
        default_root_dir=tmp_path,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=any(isinstance(c, ModelCheckpoint) for c in callbacks),
        use_distributed_sampler=False,
        callbacks=list(callbacks),
        **kwargs,
    )


def run(tmp_path, path, callbacks=(), ckpt=None, data=None, estimate=False, **kwargs) -> Recording:
    model = Recording(estimate)
    data = {"batch_size": BATCH, "seed": 5, **(data or {})}
    trainer = make_trainer(tmp_path, callbacks, **kwargs)
    trainer.fit(model, datamodule=TokenBlocks(str(path), **data), ckpt_path=ckpt, weights_only=True)
    return model


def steps_taken(path: Path) -> int:
    return torch.load(path, weights_only=True)["global_step"]


def checkpoints(folder: Path) -> dict[int, Path]:
    found = {int(path.stem.split("=")[1]): path for path in folder.iterdir()}
    assert found
    return dict(sorted(found.items()))


@pytest.mark.parametrize("limit", [{}, {"max_steps": 11}, {"max_steps": 12, "max_epochs": -1}])
def test_every_batch_with_model_checkpoint(tmp_path, make_folder, limit):
    path = make_folder(train=BLOCKS, val=2)
    saving = ModelCheckpoint(tmp_path / "c", "{step}", every_n_train_steps=1, save_top_k=-1)
    whole = run(tmp_path, path, [saving], **limit)
    assert len(whole.seen) == limit.get("max_steps", 12)
    for epoch in range(EPOCHS - 1):
        assert sorted(flat(whole.seen[4 * epoch : 4 * epoch + 4])) == list(range(BLOCKS))
    assert whole.seen[:4] != whole.seen[4:8]
    for step, checkpoint in checkpoints(tmp_path / "c").items():
        resumed = run(tmp_path, path, ckpt=checkpoint, **limit)
        assert resumed.seen == whole.seen[step:], f"stopped after step {step}"
        assert torch.equal(resumed.weight, whole.weight)


@pytest.mark.parametrize("estimate", [False, True])
def test_workers(tmp_path, make_folder, estimate):
    path = make_folder(train=BLOCKS, val=2)
    whole = run(tmp_path, path, [SaveAtBatch(tmp_path / "c")], estimate=estimate)
    data = {"num_workers": 2}
    assert run(tmp_path, path, data=data, estimate=estimate).seen == whole.seen
    for batch in (1, 4, 7):
        resumed = run(tmp_path, path, ckpt=tmp_path / "c" / f"batch={batch}", data=data, estimate=estimate)
        assert resumed.seen == whole.seen[batch:]


@pytest.mark.parametrize("limit", [{}, {"max_steps": 7, "max_epochs": -1}])
@pytest.mark.parametrize("accumulate", [2, 3])
def test_accumulation_goes_back_to_the_last_step(tmp_path, make_folder, accumulate, limit):
    path = make_folder(train=14, val=2)  # 5 batches an epoch
    kwargs = {"accumulate_grad_batches": accumulate, **limit}
    whole = run(tmp_path, path, [SaveAtBatch(tmp_path / "c")], **kwargs)
    for batch, checkpoint in checkpoints(tmp_path / "c").items():
        epoch, within = divmod(batch, 5)
        stepped = epoch * 5 + within // accumulate * accumulate
        resumed = run(tmp_path, path, ckpt=checkpoint, **kwargs)
        assert resumed.seen == whole.seen[stepped:], f"stopped after batch {batch}"
        assert torch.equal(resumed.weight, whole.weight), f"stopped after batch {batch}"
        assert resumed.trainer.global_step == whole.trainer.global_step


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize(
    "validation",
    [
        {"val_check_interval": 2},
        {"val_check_interval": 0.5},
        {"val_check_interval": 3, "check_val_every_n_epoch": None},
        {"check_val_every_n_epoch": 2},
    ],
    ids=str,
)
@pytest.mark.parametrize("saver", [SaveAtBatch, SaveAtValidation])
def test_with_validation_in_between(tmp_path, make_folder, validation, saver, accumulate):
    path = make_folder(train=BLOCKS, val=4)
    kwargs = {**validation, "accumulate_grad_batches": accumulate}
    whole = run(tmp_path, path, [saver(tmp_path / "c")], **kwargs)
    assert whole.validated[:4] == [0, 1, 2, 3]
    for batch, checkpoint in checkpoints(tmp_path / "c").items():
        resumed = run(tmp_path, path, ckpt=checkpoint, **kwargs)
        seen = len(resumed.seen)
        assert resumed.seen == whole.seen[len(whole.seen) - seen :]
        assert 12 - batch <= seen < 12 - batch + accumulate
        assert torch.equal(resumed.weight, whole.weight)


def test_limited_epochs_go_through_all_the_data(tmp_path, make_folder):
    path = make_folder(train=BLOCKS, val=2)
    kwargs = {"limit_train_batches": 3, "max_epochs": 4}
    limited = run(tmp_path, path, [SaveAtBatch(tmp_path / "c")], **kwargs)
    assert limited.seen == run(tmp_path, path).seen
    for batch, checkpoint in checkpoints(tmp_path / "c").items():
        assert run(tmp_path, path, ckpt=checkpoint, **kwargs).seen == limited.seen[batch:]


@pytest.mark.parametrize("batch_size", [1, 2, 5, 20])
def test_another_batch_size_sees_the_rest_of_the_data_once(tmp_path, make_folder, batch_size):
    path = make_folder(train=BLOCKS, val=2)
    whole = run(tmp_path, path, [SaveAtBatch(tmp_path / "c")])
    for batch, checkpoint in checkpoints(tmp_path / "c").items():
        resumed = run(tmp_path, path, ckpt=checkpoint, data={"batch_size": batch_size})
        assert flat(resumed.seen) == flat(whole.seen[batch:]), f"stopped after batch {batch}"
        rest = (BLOCKS - 3 * (batch % 4)) % BLOCKS
        expected = math.ceil(rest / batch_size) + math.ceil(BLOCKS / batch_size) * ((12 - batch) // 4)
        assert len(resumed.seen) == expected


def test_a_chain_of_interruptions(tmp_path, make_folder):
    path = make_folder(train=BLOCKS, val=2)
    whole, seen, checkpoint = run(tmp_path, path).seen, [], None
    for stop in (3, 4, 9, 12):
        saving = SaveAtBatch(tmp_path / "c")
        seen += run(tmp_path, path, [saving], ckpt=checkpoint, max_steps=stop, max_epochs=-1).seen
        checkpoint = tmp_path / "c" / f"batch={stop}"
    assert seen == whole


def test_a_second_fit_starts_anew(tmp_path, make_folder):
    path = make_folder(train=BLOCKS, val=2)
    whole = run(tmp_path, path, [SaveAtBatch(tmp_path / "c")])
    data = TokenBlocks(str(path), batch_size=BATCH, seed=5)
    for checkpoint, expected in ((tmp_path / "c" / "batch=5", whole.seen[5:]), (None, whole.seen)):
        model = Recording()
        make_trainer(tmp_path).fit(model, datamodule=data, ckpt_path=checkpoint, weights_only=True)
        assert model.seen == expected


@pytest.mark.parametrize(
    "change", [{"seed": 6}, {"shuffle": False}, {"shuffle_window": 4}, {"max_train_blocks": 9}], ids=str
)
def test_other_data_is_refused(tmp_path, make_folder, change):
    path = make_folder(train=BLOCKS, val=2)
    run(tmp_path, path, [SaveAtBatch(tmp_path / "c")], max_steps=2)
    name = {"max_train_blocks": "num_blocks"}.get(*change, *change)
    with pytest.raises(ValueError, match=rf"must be the checkpoint's, which had {name}.*Restore data\.path"):
        run(tmp_path, path, ckpt=tmp_path / "c" / "batch=2", data=change)


def test_another_document_attention_is_refused(tmp_path, make_folder):
    run(tmp_path, make_folder(train=BLOCKS, val=2), [SaveAtBatch(tmp_path / "c")], max_steps=2)
    checkpoint = tmp_path / "c" / "batch=2"
    isolated = make_folder("isolated", attention="isolated", train=BLOCKS, val=2)
    message = "checkpoint's, which had document_attention full, got document_attention isolated"
    with pytest.raises(ValueError, match=message):
        run(tmp_path, isolated, ckpt=checkpoint)
    state = torch.load(checkpoint, weights_only=True)
    del state["TokenBlocks"]["document_attention"]
    torch.save(state, checkpoint)
    with pytest.raises(ValueError, match=message):
        run(tmp_path, isolated, ckpt=checkpoint)


def test_another_tokenizer_or_block_size_is_refused(tmp_path, make_folder):
    path = make_folder(train=BLOCKS, val=2)
    run(tmp_path, path, [SaveAtBatch(tmp_path / "c")], max_steps=2)
    checkpoint = tmp_path / "c" / "batch=2"
    other = make_folder("other", tokenizer="1", train=BLOCKS, val=2)
    with pytest.raises(ValueError, match=r"which had tokenizer sha256:44\w+, got tokenizer sha256:6b\w+\."):
        run(tmp_path, other, ckpt=checkpoint)
    state = torch.load(checkpoint, weights_only=True)
    state["TokenBlocks"]["block_size"] = 9
    torch.save(state, checkpoint)
    with pytest.raises(ValueError, match="checkpoint's, which had block_size 9, got block_size 4"):
        run(tmp_path, path, ckpt=checkpoint)
    del state["TokenBlocks"]["block_size"], state["TokenBlocks"]["tokenizer"]
    torch.save(state, checkpoint)
    run(tmp_path, other, ckpt=checkpoint, max_steps=2)  # what an older checkpoint does not tell


def test_a_checkpoint_can_be_validated_on_other_data(tmp_path, make_folder):
    run(tmp_path, make_folder(train=BLOCKS, val=2), [SaveAtBatch(tmp_path / "c")], max_steps=2)
    other = TokenBlocks(str(make_folder("other", train=4, val=5)))
    model = Recording()
    make_trainer(tmp_path).validate(model, datamodule=other, ckpt_path=tmp_path / "c" / "batch=2", weights_only=True)
    assert model.validated == [0, 1, 2, 3, 4]


def test_no_warning_and_no_random_numbers_drawn(tmp_path, make_folder, recwarn):
    path = make_folder(train=BLOCKS, val=2)
    whole = run(tmp_path, path, [SaveAtBatch(tmp_path / "c")])
    before = torch.get_rng_state()
    run(tmp_path, path, ckpt=tmp_path / "c" / "batch=2", data={"num_workers": 2})
    assert torch.equal(torch.get_rng_state(), before)
    assert not [w for w in recwarn if "resumable" in str(w.message)]
    assert len(whole.seen) == 12
