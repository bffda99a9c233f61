"""Recording while the teacher trains: the same training, and a store of what it said."""

import json
import os
import signal
import subprocess
import sys
from itertools import groupby
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from pd_lightning.callbacks import LogitsRecorder
from pd_lightning.data import TokenBlocks
from pd_lightning.data.mix import teacher_steps
from pd_lightning.language_model import LanguageModel
from pd_lightning.module import DistillationModule
from pd_lightning.schedules import Constant
from pd_lightning.selection import Selection
from pd_lightning.store.chunks import done_chunks
from pd_lightning.store.manifest import read_manifest
from pd_lightning.store.reader import BlockReader
from pd_lightning.store.verification import verify_folder
from pd_lightning.students import HFStudent
from pd_lightning.teachers import OfflineTeacher

BATCH, BLOCKS = 4, 30  # 8 batches an epoch, the last of two blocks


class Plain(pl.LightningModule):
    """Other people's module, of the simplest kind."""

    def __init__(self, vocab_size: int, slices: int = 1) -> None:
        super().__init__()
        self.inner = nn.ModuleDict({"body": nn.Embedding(vocab_size, 8), "head": nn.Linear(8, vocab_size)})
        self.slices = slices
        self.said: list[Tensor] = []

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> dict[str, Tensor]:
        hidden = self.inner["body"](batch["input_ids"])
        logits = torch.cat([self.inner["head"](part) for part in hidden.flatten(0, 1).chunk(self.slices)])
        self.said.append(logits.detach().view(*hidden.shape[:2], -1))
        labels = batch["labels"] if "labels" in batch else batch["input_ids"].roll(-1, 1)
        return {"loss": F.cross_entropy(logits, labels.flatten()), "predicted": logits.view(*hidden.shape[:2], -1)}

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.5)


class SaveAt(pl.Callback):
    """Checkpoints after some steps; the training is cut off after `stop`."""

    def __init__(self, folder: Path, steps: tuple[int, ...], stop: int | None = None) -> None:
        self.folder, self.steps, self.stop = folder, steps, stop

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step in self.steps:
            trainer.save_checkpoint(self.folder / f"{trainer.global_step}.ckpt")
        if trainer.global_step == self.stop:
            raise KeyboardInterrupt


def fit(module: pl.LightningModule, data: Any, *callbacks: pl.Callback, steps: int = 12, **kwargs: Any) -> None:
    ckpt = kwargs.pop("ckpt", None)
    trainer = pl.Trainer(
        accelerator="cpu",
        max_steps=steps,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        limit_val_batches=0,
        callbacks=list(callbacks),
        **kwargs,
    )
    try:
        trainer.fit(module, data, ckpt_path=ckpt, weights_only=True)
    except SystemExit:
        trainer.strategy.barrier()


def of(blocks: Path, **settings: Any) -> TokenBlocks:
    return TokenBlocks(str(blocks), **{"batch_size": BATCH, "max_train_blocks": BLOCKS, **settings})


def recorder(folder: Path, **settings: Any) -> LogitsRecorder:
    settings = {"selection": Selection(1.0, 20), "values": "exact", "blocks_per_chunk": 5, **settings}
    return LogitsRecorder(str(folder), **settings)


def items(store: Path) -> list[dict[str, np.ndarray]]:
    reader = BlockReader(store, "train")
    return [reader[index] for index in range(len(reader))]


def same(one: Path, other: Path) -> bool:
    pairs = zip(items(one), items(other), strict=True)
    return all(np.array_equal(a[name], b[name]) for a, b in pairs for name in {*a, *b})


def steps_of(store: Path) -> list[list[int]]:
    """The teacher's steps as the manifest tells them, with the blocks of each, in the order of the blocks."""
    steps = teacher_steps(read_manifest(store).splits["train"])
    assert steps is not None
    return [[step, len(list(group))] for step, group in groupby(steps.tolist())]


@pytest.fixture
def plain(tiny: Any) -> Plain:
    torch.manual_seed(3)
    return Plain(tiny.vocab_size)


def distillation(tiny: Any) -> DistillationModule:
    torch.manual_seed(4)
    return DistillationModule(HFStudent(config={**tiny.config, "attention_dropout": 0.1}), lr=Constant(1e-2))


@pytest.mark.parametrize(
    ("settings", "recorded"),
    [
        ({"precision": "32-true"}, 5 * BATCH + 4),
        ({"precision": "bf16-mixed"}, 5 * BATCH + 4),
        ({"accumulate_grad_batches": 3}, 60),
    ],
)
@pytest.mark.parametrize("checkpointed", [False, True])
def test_training_is_the_same_to_the_bit(
    tmp_path: Path, tiny: Any, blocks: Path, settings: dict[str, Any], recorded: int, checkpointed: bool
) -> None:
    runs = [distillation(tiny), distillation(tiny)]
    for run in runs:
        run.configure_model()
        if checkpointed:
            assert isinstance(run.student, LanguageModel)
            run.student.model.gradient_checkpointing_enable()
    fit(runs[0], of(blocks), **settings)
    fit(runs[1], of(blocks), recorder(tmp_path / "store", every_n_steps=2), **settings)
    for (name, one), (_, other) in zip(*(run.state_dict().items() for run in runs), strict=True):
        assert torch.equal(one, other), name
    assert read_manifest(tmp_path / "store").splits["train"].num_blocks == recorded


def test_the_store_holds_what_was_said_and_when(tmp_path: Path, plain: Plain, blocks: Path, tiny: Any) -> None:
    store = tmp_path / "store"
    fit(plain, of(blocks), recorder(store, module="inner.head"))
    manifest = read_manifest(store)
    assert verify_folder(store) == []
    assert (manifest.kind, manifest.vocab_size, manifest.teacher_steps) == ("logits", tiny.vocab_size, True)
    assert manifest.tokenizer == read_manifest(blocks).tokenizer
    assert manifest.splits["train"].num_blocks == sum(len(said) for said in plain.said) == 46
    assert manifest.teacher is not None
    assert manifest.teacher["last_step"] == 12
    said = [(step, row) for step, batch in enumerate(plain.said) for row in batch]
    for item, (step, logits) in zip(items(store), said, strict=True):
        log_p = logits.double().log_softmax(-1)
        values, ids = log_p.topk(20)
        assert item["teacher_step"].tolist() == [step]
        assert item["ids"].reshape(-1, 20).tolist() == ids.tolist()
        np.testing.assert_allclose(item["logprobs"].reshape(-1, 20), values, rtol=1e-5, atol=1e-5)
        labels = torch.from_numpy(item["block"][1:, None])
        np.testing.assert_allclose(item["label_logprob"], log_p.gather(-1, labels)[:, 0], rtol=1e-5, atol=1e-5)
    assert steps_of(store)[:2] == [[0, 4], [1, 4]]
    assert sorted(path.name for path in store.rglob("*") if path.name.startswith(".")) == []


@pytest.mark.parametrize("source", [{"output": "predicted"}, {"module": "inner.head"}])
def test_whole_or_in_slices_from_output_or_module(tmp_path: Path, tiny: Any, blocks: Path, source: Any) -> None:
    for name, slices, where in (("one", 1, {"module": "inner.head"}), ("other", 3, source)):
        torch.manual_seed(3)
        fit(Plain(tiny.vocab_size, slices), of(blocks), recorder(tmp_path / name, **where), steps=3)
    for one, other in zip(items(tmp_path / "one"), items(tmp_path / "other"), strict=True):
        assert np.array_equal(one["block"], other["block"])
        for name in ("label_logprob", "entropy", "logprobs"):
            np.testing.assert_allclose(one[name], other[name], rtol=1e-4, atol=1e-5)


def test_our_own_module_is_recorded_with_its_head(tmp_path: Path, tiny: Any, blocks: Path) -> None:
    module = distillation(tiny)
    module.configure_model()
    store = tmp_path / "store"
    saved = SaveAt(tmp_path, (2,))
    fit(module, of(blocks), recorder(store, start_step=2), saved, steps=3)
    before = distillation(tiny)
    before.configure_model()
    before.load_state_dict(torch.load(tmp_path / "2.ckpt", weights_only=True)["state_dict"])
    assert isinstance(before.student, LanguageModel)
    before.student.eval()
    for item in items(store):
        assert item["teacher_step"].tolist() == [2]
        log_p = before.student(torch.from_numpy(item["block"][None, :-1]))[0].log_softmax(-1)
        assert (item["ids"].reshape(-1, 20)[:, 0] == log_p.argmax(-1).numpy()).mean() > 0.5  # dropout is on in training


def test_start_and_interval(tmp_path: Path, plain: Plain, blocks: Path) -> None:
    store = tmp_path / "store"
    fit(plain, of(blocks), recorder(store, module="inner.head", start_step=3, every_n_steps=4), steps=12)
    assert steps_of(store) == [[3, 4], [7, 2], [11, 4]]


def test_accumulated_batches_are_all_of_one_step(tmp_path: Path, plain: Plain, blocks: Path) -> None:
    store = tmp_path / "store"
    fit(plain, of(blocks), recorder(store, module="inner.head"), steps=4, accumulate_grad_batches=2)
    assert steps_of(store) == [[0, 8], [1, 8], [2, 8], [3, 6]]


def test_the_last_step_may_fall_into_an_accumulation(tmp_path: Path, plain: Plain, blocks: Path) -> None:
    """Three batches a step, two at the end of an epoch of eight; and a checkpoint between two batches of a step."""
    whole, store = tmp_path / "whole", tmp_path / "store"
    fit(plain, of(blocks), recorder(whole, module="inner.head"), steps=4, accumulate_grad_batches=3)
    assert steps_of(whole) == [[0, 12], [1, 12], [2, 6], [3, 12]]

    class SaveAfter(pl.Callback):
        def on_train_batch_end(self, trainer: pl.Trainer, module: Any, outputs: Any, batch: Any, idx: int) -> None:
            if idx == 3:
                trainer.save_checkpoint(tmp_path / "amid.ckpt")
            if idx == 6:
                raise KeyboardInterrupt

    settings = {"steps": 4, "accumulate_grad_batches": 3}
    fit(plain, of(blocks), recorder(store, module="inner.head"), SaveAfter(), **settings)
    fit(plain, of(blocks), recorder(store, module="inner.head"), ckpt=tmp_path / "amid.ckpt", **settings)
    assert [item["block"].tolist() for item in items(store)][:30] == [item["block"].tolist() for item in items(whole)][
        :30
    ]
    assert verify_folder(store) == []


@pytest.mark.parametrize("stop", [2, 5, 9])
@pytest.mark.parametrize("saved", [2, 4, 9])
def test_a_resumed_training_records_every_block_once(
    tmp_path: Path, tiny: Any, blocks: Path, saved: int, stop: int
) -> None:
    """Chunks of 5 blocks, 4 blocks a step: checkpoints fall into the middle of chunks, completed since or not."""
    if stop < saved:
        pytest.skip("no such checkpoint")

    def run(store: Path, *callbacks: pl.Callback, ckpt: Path | None = None) -> None:
        torch.manual_seed(3)
        fit(Plain(tiny.vocab_size), of(blocks), recorder(store, module="inner.head"), *callbacks, ckpt=ckpt)

    run(tmp_path / "whole")
    run(tmp_path / "cut", SaveAt(tmp_path, (saved, stop), stop))
    assert not (tmp_path / "cut" / "manifest.json").exists()
    run(tmp_path / "cut", ckpt=tmp_path / f"{saved}.ckpt")
    assert verify_folder(tmp_path / "cut") == []
    assert same(tmp_path / "whole", tmp_path / "cut")


@pytest.fixture
def run(tmp_path: Path, tiny: Any, blocks: Path) -> Any:
    """Train the same teacher as ever, recording into a folder of some name."""

    def run(store: str, *callbacks: pl.Callback, **settings: Any) -> None:
        torch.manual_seed(3)
        recording = {name: settings.pop(name) for name in ("blocks_per_chunk", "start_step") if name in settings}
        callbacks = (*callbacks, recorder(tmp_path / store, module="inner.head", **recording))
        fit(Plain(tiny.vocab_size), of(blocks), *callbacks, **settings)

    return run


@pytest.mark.parametrize("blocks_per_chunk", [4, 5])
def test_a_later_checkpoint_than_the_training_goes_on_from_is_refused(
    tmp_path: Path, run: Any, blocks_per_chunk: int
) -> None:
    """Back to step 1, which removes what came later, stopped, and forth to step 4."""
    run("store", SaveAt(tmp_path, (1, 4), 5), blocks_per_chunk=blocks_per_chunk)
    run("store", SaveAt(tmp_path, (), 2), ckpt=tmp_path / "1.ckpt", blocks_per_chunk=blocks_per_chunk)
    with pytest.raises(ValueError, match=r"must hold the 16 blocks that rank 0 had recorded when the checkpoint was"):
        run("store", ckpt=tmp_path / "4.ckpt", blocks_per_chunk=blocks_per_chunk)
    run("store", ckpt=tmp_path / "1.ckpt", blocks_per_chunk=blocks_per_chunk)
    run("whole", blocks_per_chunk=blocks_per_chunk)
    assert same(tmp_path / "store", tmp_path / "whole")


def test_stopped_after_its_last_checkpoint_a_training_still_makes_its_store(tmp_path: Path, run: Any) -> None:
    """What goes on from there has no step left to train."""

    class Stop(pl.Callback):
        def on_train_end(self, *_: Any) -> None:
            raise KeyboardInterrupt

    run("store", SaveAt(tmp_path, (12,)), Stop())
    assert not (tmp_path / "store" / "manifest.json").exists()
    run("elsewhere", ckpt=tmp_path / "12.ckpt")
    assert not (tmp_path / "elsewhere").exists()
    run("store", ckpt=tmp_path / "12.ckpt")
    run("whole")
    assert same(tmp_path / "store", tmp_path / "whole")
    (tmp_path / "store" / ".tmp-finishing").touch()  # stopped just before the end
    run("store", ckpt=tmp_path / "12.ckpt")
    assert not (tmp_path / "store" / ".tmp-finishing").exists()


def test_a_finished_training_goes_on_into_a_new_folder(tmp_path: Path, run: Any) -> None:
    run("whole", steps=16)
    run("first", SaveAt(tmp_path, (12,)))
    with pytest.raises(ValueError, match=r"must not be a finished folder, got .*first\. Set it to a new one: a tr"):
        run("first", ckpt=tmp_path / "12.ckpt", steps=16)
    for stop in (14, None):  # the first attempt leaves no checkpoint that knows of the new folder
        with pytest.warns(UserWarning, match=r"begins in .*second at step 12: what the teacher said before, from st"):
            run("second", SaveAt(tmp_path, (), stop), ckpt=tmp_path / "12.ckpt", steps=16)
    both = [*items(tmp_path / "first"), *items(tmp_path / "second")]
    for one, other in zip(both, items(tmp_path / "whole"), strict=True):
        assert all(np.array_equal(one[name], other[name]) for name in {*one, *other})
    assert steps_of(tmp_path / "second")[0] == [12, 4]


def test_who_saves_earlier_or_later_saves_the_whole_recording(tmp_path: Path, run: Any) -> None:
    """A callback before the recorder, at the end of a batch; and one at the end of the training, and after it."""

    class SaveAtEnd(pl.Callback):
        def on_train_end(self, trainer: pl.Trainer, *_: Any) -> None:
            trainer.save_checkpoint(tmp_path / "end.ckpt")

        def on_fit_end(self, trainer: pl.Trainer, *_: Any) -> None:
            trainer.save_checkpoint(tmp_path / "after.ckpt")

    run("whole", SaveAtEnd())
    assert not [path for path in (tmp_path / "whole").rglob("*") if path.name.startswith(".")]
    states = [torch.load(tmp_path / name, weights_only=True)["LogitsRecorder"] for name in ("end.ckpt", "after.ckpt")]
    assert states[0] == states[1]
    assert states[0]["num_blocks"] == [46]
    run("store", SaveAt(tmp_path, (3,), 5))
    run("store", ckpt=tmp_path / "3.ckpt")
    assert same(tmp_path / "store", tmp_path / "whole")


def test_stopped_before_its_first_checkpoint_a_training_begins_anew(tmp_path: Path, run: Any) -> None:
    run("store", SaveAt(tmp_path, (), 5))
    assert done_chunks(tmp_path / "store" / "train")
    run("store")
    run("whole")
    assert same(tmp_path / "store", tmp_path / "whole")


def test_nothing_recorded_is_said(tmp_path: Path, run: Any) -> None:
    with pytest.warns(UserWarning, match=r"recorded nothing into .*: training ended at step 12, start_step is 50\. Lo"):
        run("store", start_step=50)
    assert not (tmp_path / "store" / "manifest.json").exists()


@pytest.mark.slow
def test_killed_outright_and_resumed_the_store_is_the_same(tmp_path: Path, blocks: Path) -> None:
    """kill -9 within the backward pass of step 7; checkpoints after each three steps."""
    script = Path(__file__).with_name("killed_while_recording.py")

    def train(name: str, *more: str) -> int:
        command = [sys.executable, str(script), str(blocks), str(tmp_path / name), *more]
        return subprocess.run(command, timeout=300, env={**os.environ, "OMP_NUM_THREADS": "1"}).returncode

    assert train("whole") == 0
    assert train("cut", "kill") == -signal.SIGKILL
    assert not (tmp_path / "cut" / "store" / "manifest.json").exists()
    assert train("cut") == 0
    assert verify_folder(tmp_path / "cut" / "store") == []
    assert same(tmp_path / "whole" / "store", tmp_path / "cut" / "store")


def test_a_student_learns_from_late_teachers(tmp_path: Path, tiny: Any, blocks: Path, plain: Plain) -> None:
    store = tmp_path / "store"
    fit(plain, of(blocks), recorder(store, module="inner.head"))
    data = TokenBlocks(str(store), batch_size=4, min_teacher_step=6, shuffle=False, val_path=str(blocks))
    student = DistillationModule(HFStudent(config=tiny.config), OfflineTeacher())
    steps: list[int] = []

    class Steps(pl.Callback):
        def on_train_batch_start(self, trainer: Any, module: Any, batch: dict[str, Tensor], batch_idx: int) -> None:
            steps.extend(batch["teacher_step"].tolist())

    fit(student, data, Steps(), steps=5)
    assert steps == [6] * 4 + [7] * 2 + [8] * 4 + [9] * 4 + [10] * 4 + [11] * 2


class Texts(pl.LightningDataModule):
    """Other people's data, with or without labels."""

    def __init__(self, blocks: Path, labels: bool, tokenizer_dir: Path | None = None) -> None:
        super().__init__()
        self.labels, self.tokens = labels, [item["block"] for item in items(blocks)[:8]]
        if tokenizer_dir is not None:
            self.tokenizer_dir = tokenizer_dir

    def train_dataloader(self) -> Any:
        rows = [{"input_ids": torch.from_numpy(block[:-1])} for block in self.tokens]
        if self.labels:
            for row, block in zip(rows, self.tokens, strict=True):
                row["labels"] = torch.from_numpy(block[1:]).index_fill(0, torch.tensor([1, 15]), -100)
        return torch.utils.data.DataLoader(rows, batch_size=4)


class Padded(Texts):
    def train_dataloader(self) -> Any:
        rows = [
            {"input_ids": torch.from_numpy(block), "attention_mask": torch.arange(17) < 12} for block in self.tokens
        ]
        return torch.utils.data.DataLoader(rows, batch_size=4)


def test_padding_of_other_peoples_data_is_not_trained_on(tmp_path: Path, plain: Plain, blocks: Path) -> None:
    tokenizer = str(blocks / "tokenizer")
    fit(plain, Padded(blocks, False), recorder(tmp_path / "store", module="inner.head", tokenizer=tokenizer), steps=2)
    reader = BlockReader(tmp_path / "store", "train")
    assert reader.manifest.columns[-1] == "labelled"
    assert [reader[index]["labelled"].tolist() for index in range(8)] == [[1.0] * 11 + [0.0] * 5] * 8


@pytest.mark.parametrize("labels", [False, True])
def test_other_peoples_data(tmp_path: Path, plain: Plain, blocks: Path, tiny: Any, labels: bool) -> None:
    store, data = tmp_path / "store", Texts(blocks, labels)
    tokenizer = str(blocks / "tokenizer")
    fit(plain, data, recorder(store, module="inner.head", tokenizer=tokenizer), steps=2)
    manifest = read_manifest(store)
    assert manifest.block_size == tiny.block_size - (not labels)
    assert manifest.tokenizer == read_manifest(blocks).tokenizer
    expected = torch.cat(plain.said)[:, : manifest.block_size].double().log_softmax(-1).topk(20)
    for item, tokens, ids in zip(items(store), data.tokens, expected.indices, strict=True):
        assert item["block"][:-1].tolist() == tokens[: manifest.block_size].tolist()
        assert item["ids"].reshape(-1, 20).tolist() == ids.tolist()
    reading = TokenBlocks(str(store), val_path=str(blocks), batch_size=8, shuffle=False)
    reading.setup("fit")
    batch = next(iter(reading.train_dataloader()))
    assert (batch["labels"] == -100).sum(dim=1).tolist() == [2 * labels] * 8
    assert set(OfflineTeacher()(batch).statistics) == {"log_z", "mean", "std", "entropy", "label_logprob"}  # type: ignore[union-attr]


def test_a_training_step_may_change_its_batch(tmp_path: Path, tiny: Any, blocks: Path) -> None:
    class Takes(Plain):
        def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> dict[str, Tensor]:
            step = super().training_step(batch, batch_idx)
            batch.pop("labels")
            self.ids = batch["input_ids"]
            return step

        def on_after_backward(self) -> None:
            self.ids.zero_()

    for name, kind in (("plain", Plain), ("takes", Takes)):
        torch.manual_seed(3)
        tokenizer = str(blocks / "tokenizer")
        data = Texts(blocks, labels=True)
        fit(kind(tiny.vocab_size), data, recorder(tmp_path / name, module="inner.head", tokenizer=tokenizer), steps=2)
    assert same(tmp_path / "plain", tmp_path / "takes")


def test_columns_belong_to_the_stored_token_where_there_is_no_label(tmp_path: Path, plain: Plain, blocks: Path) -> None:
    store, tokenizer = tmp_path / "store", str(blocks / "tokenizer")
    fit(plain, Texts(blocks, labels=True), recorder(store, module="inner.head", tokenizer=tokenizer), steps=2)
    for item, logits in zip(items(store), torch.cat(plain.said), strict=True):
        assert item["labelled"].tolist() == [1, 0] + [1] * 13 + [0]
        stored = torch.from_numpy(item["block"][1:, None])
        np.testing.assert_allclose(
            item["label_logprob"], logits.log_softmax(-1).gather(-1, stored)[:, 0], rtol=1e-5, atol=1e-5
        )


@pytest.mark.parametrize("reentrant", [False, True])
def test_what_backward_computes_again_is_not_recorded(tmp_path: Path, tiny: Any, blocks: Path, reentrant: bool) -> None:
    """Forward and backward slice by slice, so that the head of one slice runs again before the next."""

    class Slices(Plain):
        def __init__(self, checkpointed: bool) -> None:
            super().__init__(tiny.vocab_size)
            self.automatic_optimization = False
            self.checkpointed = checkpointed

        def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:  # type: ignore[override]
            self.optimizers().zero_grad()  # type: ignore[union-attr]
            hidden = self.inner["body"](batch["input_ids"]).flatten(0, 1)
            leaf = hidden.detach().requires_grad_()
            for rows, labels in zip(leaf.chunk(4), batch["labels"].flatten().chunk(4), strict=True):
                loss = checkpoint(self._loss, rows, labels, use_reentrant=reentrant) if self.checkpointed else None
                (self._loss(rows, labels) if loss is None else loss).backward()
            hidden.backward(leaf.grad)
            self.optimizers().step()  # type: ignore[union-attr]

        def _loss(self, rows: Tensor, labels: Tensor) -> Tensor:
            return F.cross_entropy(self.inner["head"](rows), labels)

    for checkpointed in (False, True):
        torch.manual_seed(3)
        fit(Slices(checkpointed), of(blocks), recorder(tmp_path / str(checkpointed), module="inner.head"), steps=3)
    assert same(tmp_path / "False", tmp_path / "True")


@pytest.mark.slow
def test_ranks_record_their_shares(tmp_path: Path, tiny: Any, blocks: Path) -> None:
    """Each of two ranks sees half of each batch; the last batch of an epoch is one block, of the first rank."""
    script = Path(__file__).with_name("recorded_on_ranks.py")
    for devices, resumed in ((2, False), (2, True)):
        command = [sys.executable, str(script), str(blocks), str(tmp_path / "store"), str(devices), str(int(resumed))]
        subprocess.run(command, check=True, timeout=300, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert verify_folder(tmp_path / "store") == []
    steps = steps_of(tmp_path / "store")
    stored = items(tmp_path / "store")
    assert [step for step, count in steps for _ in range(count)] == [int(item["teacher_step"][0]) for item in stored]
    data = TokenBlocks(str(blocks), batch_size=BATCH, max_train_blocks=13)
    data.setup("fit")
    epoch = [tuple(row) for batch in data.train_dataloader() for row in batch["input_ids"].tolist()]
    first = [tuple(item["block"][:-1].tolist()) for item in stored if item["teacher_step"][0] < 4]
    assert sorted(first) == sorted(epoch), "one epoch of four steps: every block once"
    assert len(stored) == 26


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"module": "inner.hat"},
            r"must name a submodule of Plain, got 'inner.hat'\. There are inner.head, inner",
        ),
        ({}, "must know where the logits of Plain are, got neither module nor output"),
        ({"output": "logits"}, r"the logits as 'logits', got \['loss', 'predicted'\]"),
        ({"module": "inner"}, r"must be logits of each of the batch's 64 positions, got 0"),
    ],
)
@pytest.mark.parametrize("start_step", [0, 50])
def test_logits_that_are_not_there(
    tmp_path: Path, plain: Plain, blocks: Path, settings: dict[str, Any], message: str, start_step: int
) -> None:
    """Found out with the first batch, whichever step is the first to be recorded."""
    with pytest.raises(ValueError, match=message):
        fit(plain, of(blocks), recorder(tmp_path / "store", start_step=start_step, **settings))
    assert plain.global_step <= 1


def test_batches_that_no_store_can_hold(tmp_path: Path, plain: Plain, blocks: Path) -> None:
    class Shifted(Texts):
        def train_dataloader(self) -> Any:
            tokens = [torch.from_numpy(block) for block in self.tokens]
            rows = [{"input_ids": block, "labels": block.roll(2)} for block in tokens]
            return torch.utils.data.DataLoader(rows, batch_size=4)

    late = recorder(tmp_path / "store", module="inner.head", tokenizer=str(blocks / "tokenizer"), start_step=50)
    with pytest.raises(ValueError, match=r"labels must be the next tokens, .* those of the same positions, got others"):
        fit(plain, Shifted(blocks, labels=True), late)


def test_ranks_that_share_their_data_are_refused(
    tmp_path: Path, plain: Plain, blocks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pl.Trainer, "distributed_sampler_kwargs", {"rank": 0, "num_replicas": 1})
    monkeypatch.setattr(pl.Trainer, "world_size", 2)
    with pytest.raises(ValueError, match=r"got 2 ranks and data dealt to 1\. Set tensor_parallel_size of trainer\.s"):
        fit(plain, of(blocks), recorder(tmp_path / "store", module="inner.head"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"module": "a", "output": "b"}, "must have module or output, got a and b. Leave one out"),
        ({"every_n_steps": 0}, "every_n_steps of LogitsRecorder must be at least 1, got 0"),
        ({"start_step": -1}, "start_step of LogitsRecorder must be at least 0, got -1"),
    ],
)
def test_settings_out_of_range(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LogitsRecorder("anywhere", **settings)


def test_folders_that_are_not_for_this_recording(tmp_path: Path, plain: Plain, blocks: Path) -> None:
    store = tmp_path / "store"

    def run(**settings: Any) -> None:
        ckpt = settings.pop("ckpt", None)
        stop = SaveAt(tmp_path, (3,), settings.pop("stop", None))
        fit(plain, of(blocks), recorder(store, module="inner.head", **settings), stop, ckpt=ckpt)

    run(stop=4)
    assert done_chunks(store / "train") == {0, 1, 2}
    with pytest.raises(ValueError, match=r"must be a new folder for a new training, got .*store, which holds an unf"):
        run()
    with pytest.raises(ValueError, match=r"where blocks_per_chunk was 5, is 6. Put them back"):
        run(blocks_per_chunk=6, ckpt=tmp_path / "3.ckpt")
    run(ckpt=tmp_path / "3.ckpt")
    with pytest.raises(ValueError, match=r"must not be a finished folder, got .*store"):
        run()
    with pytest.raises(ValueError, match=r"with other files. Set it to another folder"):
        fit(plain, of(blocks), recorder(tmp_path, module="inner.head"))
    with pytest.raises(ValueError, match="must know the tokenizer of the data, got none"):
        fit(plain, Texts(blocks, False), recorder(tmp_path / "new", module="inner.head"))
    assert json.loads((store / "recording.json").read_text())["num_ranks"] == 1


@pytest.mark.slow
def test_a_compiled_student_is_recorded_as_it_is(
    tmp_path: Path, tiny: Any, blocks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch._dynamo.reset()
    counter, original = CompileCounter(), nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", lambda self, **options: original(self, backend=counter, **options))
    for name in ("eager", "compiled"):
        module = DistillationModule(HFStudent(config=tiny.config, compile=name == "compiled"), lr=Constant(1e-2))
        module.seed = 3
        fit(module, of(blocks), recorder(tmp_path / name), steps=8)
    assert same(tmp_path / "eager", tmp_path / "compiled")
    assert counter.frame_count == 1, "the recorder is left out"
