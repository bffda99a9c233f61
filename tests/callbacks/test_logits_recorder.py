"""Recording while the teacher trains: the same training, and a store of what it said."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pd_lightning.callbacks import LogitsRecorder
from pd_lightning.data import TokenBlocks
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


@pytest.fixture
def plain(tiny: Any) -> Plain:
    torch.manual_seed(3)
    return Plain(tiny.vocab_size)


def distillation(tiny: Any) -> DistillationModule:
    torch.manual_seed(4)
    return DistillationModule(HFStudent(config={**tiny.config, "attention_dropout": 0.1}), lr=Constant(1e-2))


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_training_is_the_same_to_the_bit(tmp_path: Path, tiny: Any, blocks: Path, precision: Any) -> None:
    runs = [distillation(tiny), distillation(tiny)]
    fit(runs[0], of(blocks), precision=precision)
    fit(runs[1], of(blocks), recorder(tmp_path / "store", every_n_steps=2), precision=precision)
    for (name, one), (_, other) in zip(*(run.state_dict().items() for run in runs), strict=True):
        assert torch.equal(one, other), name
    assert read_manifest(tmp_path / "store").splits["train"].num_blocks == 5 * BATCH + 4


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
    assert manifest.splits["train"].extra["teacher_steps"][:2] == [[0, 4], [1, 4]]
    assert not (store / "pending").exists()


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
    assert read_manifest(store).splits["train"].extra["teacher_steps"] == [[3, 4], [7, 2], [11, 4]]


def test_accumulated_batches_are_all_of_one_step(tmp_path: Path, plain: Plain, blocks: Path) -> None:
    store = tmp_path / "store"
    fit(plain, of(blocks), recorder(store, module="inner.head"), steps=4, accumulate_grad_batches=2)
    assert read_manifest(store).splits["train"].extra["teacher_steps"] == [[0, 8], [1, 8], [2, 8], [3, 6]]


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


@pytest.mark.slow
def test_ranks_record_their_shares(tmp_path: Path, tiny: Any, blocks: Path) -> None:
    """Each of two ranks sees half of each batch; the last batch of an epoch is one block, of the first rank."""
    script = Path(__file__).with_name("recorded_on_ranks.py")
    for devices, resumed in ((2, False), (2, True)):
        command = [sys.executable, str(script), str(blocks), str(tmp_path / "store"), str(devices), str(int(resumed))]
        subprocess.run(command, check=True, timeout=300, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert verify_folder(tmp_path / "store") == []
    steps = read_manifest(tmp_path / "store").splits["train"].extra["teacher_steps"]
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
        ({"module": "inner.hat"}, r"must name a submodule of Plain, got 'inner.hat'\. .* begins with one of inner"),
        ({}, "must know where the logits of Plain are, got neither module nor output"),
        ({"output": "logits"}, r"the logits as 'logits', got \['loss', 'predicted'\]"),
        ({"module": "inner"}, r"must be logits of each of the batch's 64 positions, got 0"),
    ],
)
def test_logits_that_are_not_there(
    tmp_path: Path, plain: Plain, blocks: Path, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        fit(plain, of(blocks), recorder(tmp_path / "store", **settings))


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
