"""The LightningModule: the same numbers whatever the teacher's form, the micro-batch, or the interruptions."""

import os
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor, nn
from torch.nn import functional as F

from pd_lightning.cli.runs import FinalCheckpoint
from pd_lightning.cli.unfinished_step import UnfinishedStep
from pd_lightning.data import TokenBlocks
from pd_lightning.language_model import LanguageModel
from pd_lightning.loggers import MetricsCSV
from pd_lightning.losses import ForwardKL
from pd_lightning.module import DistillationModule
from pd_lightning.module.surroundings import check_trainer
from pd_lightning.objective import Objective
from pd_lightning.record import Recorder
from pd_lightning.schedules import WSD, Constant, Linear, OneMinus, Part, Periodic, Piecewise
from pd_lightning.selection import Selection
from pd_lightning.store.manifest import read_manifest
from pd_lightning.students import HFStudent
from pd_lightning.teachers import FrozenTeacher, NoTeacher, OfflineTeacher, Surroundings, Teacher
from pd_lightning.trainer import PDTrainer
from pd_lightning.transforms import SampleTokens, Temperature, TopPK
from pd_lightning.weightings import MaskDocumentStarts, TeacherEntropy


@pytest.fixture(autouse=True)
def seed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PL_GLOBAL_SEED", "3")


@pytest.fixture
def student(tiny: Any) -> HFStudent:
    return HFStudent(config={**tiny.config, "initializer_range": 0.2})


def trainer(folder: Path | None = None, **settings: Any) -> pl.Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    checkpointing = folder is not None
    settings = {"max_steps": 1, "num_sanity_val_steps": 0, "limit_val_batches": 0, **quiet, **settings}
    return pl.Trainer(accelerator="cpu", default_root_dir=folder, enable_checkpointing=checkpointing, **settings)


def rebuilt(student: HFStudent) -> LanguageModel:
    """The student as the module makes it from the seed."""
    torch.manual_seed(3)
    return student.build({"vocab_size": 300, "eos_token_id": 0, "bos_token_id": 0, "pad_token_id": 0})


def first_batch(folder: Path) -> dict[str, Tensor]:
    data = TokenBlocks(str(folder), batch_size=4)
    data.setup("fit")
    return next(iter(data.train_dataloader()))


class Watched(DistillationModule):
    """Keeps gradients and losses as the optimizer meets them."""

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        super().on_before_optimizer_step(optimizer)
        self.gradients = {name: p.grad.clone() for name, p in self.named_parameters() if p.grad is not None}

    def loss(self, name: str = "loss") -> float:
        return float(self.trainer.logged_metrics[f"train/{name}"])


def one_step(module: Watched, data: pl.LightningDataModule, **settings: Any) -> Watched:
    trainer(**settings).fit(module, data)
    return module


def max_difference(one: Watched, other: Watched) -> float:
    """Largest difference of a gradient, relative to the largest gradient."""
    scale = max(float(gradient.abs().max()) for gradient in one.gradients.values())
    names = one.gradients.keys() | other.gradients.keys()
    return max(float((one.gradients[name] - other.gradients[name]).abs().max()) for name in names) / scale


def test_offline_equals_online_where_the_store_keeps_everything(
    student: HFStudent, exact_store: Path, teacher_dir: Path
) -> None:
    steps = [
        one_step(Watched(student, teacher, kd_weight=Constant(0.7)), TokenBlocks(str(exact_store), batch_size=4))
        for teacher in (OfflineTeacher(), FrozenTeacher(str(teacher_dir)))
    ]
    assert steps[0].loss() == pytest.approx(steps[1].loss(), rel=1e-6)
    assert steps[0].loss("kd_loss") == pytest.approx(steps[1].loss("kd_loss"), rel=1e-6)
    assert max_difference(*steps) < 1e-6


def test_truncation_costs_no_more_than_the_dropped_mass_explains(
    student: HFStudent, truncated_store: Path, teacher_dir: Path
) -> None:
    """A bucket is a coarser view of both sides, so its KL is below the dense one (data processing inequality); the
    difference is the mass dropped, times the KL between the two tails, which has Σ t log(t/q) as its bound."""
    data = TokenBlocks(str(truncated_store), batch_size=4)
    offline = one_step(Watched(student, OfflineTeacher(), kd_weight=Constant(1.0)), data)
    data = TokenBlocks(str(truncated_store), batch_size=4)
    online = one_step(Watched(student, FrozenTeacher(str(teacher_dir)), kd_weight=Constant(1.0)), data)
    batch = first_batch(truncated_store)
    log_q = rebuilt(student)(batch["input_ids"]).flatten(0, 1).log_softmax(-1)
    log_p = online.teacher(batch).rows(slice(None)).logprobs  # type: ignore[union-attr]
    sparse = OfflineTeacher()(batch)
    kept = torch.zeros_like(log_p, dtype=torch.bool).scatter(-1, sparse.ids, True)
    tails = [x.masked_fill(kept, -torch.inf) for x in (log_p, log_q)]
    shapes = [x.log_softmax(-1) for x in tails]
    inside = torch.where(kept, 0.0, shapes[0].exp() * (shapes[0] - shapes[1])).sum(-1)
    explained = float((tails[0].logsumexp(-1).exp() * inside).mean().detach())
    assert offline.loss() < online.loss()
    assert online.loss() - offline.loss() == pytest.approx(explained, rel=1e-2)


def test_the_lm_loss_is_the_models_own(student: HFStudent, blocks: Path) -> None:
    data = TokenBlocks(str(blocks), batch_size=4)
    module = one_step(Watched(student, NoTeacher()), data)
    batch = first_batch(blocks)
    model = rebuilt(student).model
    # transformers shifts labels itself, so it gets the ids with the last label appended.
    ids = torch.cat([batch["input_ids"], batch["labels"][:, -1:]], dim=1)
    expected = model(input_ids=ids, labels=ids).loss
    expected.backward()
    assert module.loss() == pytest.approx(float(expected), rel=1e-6)
    gradient = module.gradients["student.model.model.layers.0.mlp.up_proj.weight"]
    torch.testing.assert_close(gradient, model.model.layers[0].mlp.up_proj.weight.grad, rtol=1e-4, atol=1e-7)


class Uneven(pl.LightningDataModule):
    """Four blocks, of which 16, 3, 9 and 0 positions have labels."""

    def __init__(self, batch_size: int) -> None:
        super().__init__()
        self.batch_size = batch_size

    def train_dataloader(self) -> Any:
        ids = torch.randint(0, 300, (4, 17), generator=torch.Generator().manual_seed(5))
        labels = ids[:, 1:].clone()
        for row, count in enumerate([16, 3, 9, 0]):
            labels[row, count:] = -100
        items = [{"input_ids": ids[row, :-1], "labels": labels[row]} for row in range(4)]
        return torch.utils.data.DataLoader(items, batch_size=self.batch_size)


@pytest.mark.parametrize("teacher", ["none", "frozen"])
def test_every_labelled_position_of_a_step_counts_the_same(
    tiny: Any, teacher_dir: Path, teacher: str, student: HFStudent
) -> None:
    student.config = {**(student.config or {}), "vocab_size": 300}

    def step(batch_size: int, accumulate: int) -> Watched:
        taught = FrozenTeacher(str(teacher_dir), dtype="float32") if teacher == "frozen" else NoTeacher()
        module = Watched(student, taught, kd_weight=Constant(0.4))
        return one_step(module, Uneven(batch_size), precision="64-true", accumulate_grad_batches=accumulate)

    whole = step(4, 1)
    for micro_batches in (step(1, 4), step(2, 2), step(3, 2)):
        assert micro_batches.loss() == pytest.approx(whole.loss(), rel=1e-7)
        assert max_difference(whole, micro_batches) < 1e-6
        assert micro_batches.trainer.logged_metrics["train/tokens"] == 28


def test_an_epochs_short_last_accumulation_is_a_mean_too(student: HFStudent) -> None:
    student.config = {**(student.config or {}), "vocab_size": 300}
    whole = one_step(Watched(student, NoTeacher()), Uneven(4), max_steps=-1, max_epochs=1, precision="64-true")
    short = one_step(
        Watched(student, NoTeacher()),
        Uneven(2),
        max_steps=-1,
        max_epochs=1,
        accumulate_grad_batches=3,
        precision="64-true",
    )
    assert max_difference(whole, short) < 1e-6


def test_gradients_are_clipped_after_they_are_means(student: HFStudent, blocks: Path) -> None:
    module = Watched(student, NoTeacher(), optimizer=lambda params: torch.optim.SGD(params, lr=1.0), lr=Constant(1.0))
    before: dict[str, Tensor] = {}
    module.on_train_batch_start = lambda batch, index: before.update(  # type: ignore[method-assign,assignment]
        {name: p.detach().clone() for name, p in module.named_parameters()}
    )
    one_step(module, TokenBlocks(str(blocks), batch_size=2), gradient_clip_val=0.01)
    moved = torch.cat([(p - before[name]).flatten() for name, p in module.named_parameters()])
    assert module.trainer.logged_metrics["train/grad_norm"] > 0.1
    assert float(moved.norm()) == pytest.approx(0.01, rel=1e-3)


def test_matrices_decay_and_vectors_do_not(student: HFStudent, blocks: Path) -> None:
    module = one_step(Watched(student), TokenBlocks(str(blocks), batch_size=2))
    hidden, embeddings, vectors = module.trainer.optimizers[0].param_groups
    assert isinstance(module.trainer.optimizers[0], torch.optim.AdamW)
    assert [group["weight_decay"] for group in (hidden, embeddings, vectors)] == [0.1, 0.1, 0.0]
    assert {tuple(p.shape) for p in embeddings["params"]} == {(300, 32)}
    assert len(embeddings["params"]) == 2
    assert all(p.ndim >= 2 and 300 not in p.shape for p in hidden["params"])
    assert all(p.ndim == 1 for p in vectors["params"])
    assert sum(len(group["params"]) for group in (hidden, embeddings, vectors)) == len(list(module.parameters()))


def test_the_learning_rate_is_the_schedules(student: HFStudent, blocks: Path) -> None:
    rates: list[float] = []
    module = Watched(student, lr=WSD(0.5, warmup=0.5, decay=0.25))
    watch = pl.callbacks.LambdaCallback(
        on_train_batch_end=lambda trainer, *_: rates.append(float(trainer.logged_metrics["train/lr"]))
    )
    one_step(module, TokenBlocks(str(blocks), batch_size=2), max_steps=8, log_every_n_steps=1, callbacks=[watch])
    assert rates == pytest.approx([0.125, 0.25, 0.375, 0.5, 0.5, 0.5, 0.5, 0.25])


def padded(teacher_dir: Path, folder: Path) -> Path:
    """The teacher with 20 ids more than the tokenizer has, of which it is fond."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(teacher_dir)
    head = model.get_output_embeddings().weight.detach()
    model.resize_token_embeddings(320, mean_resizing=False)
    with torch.no_grad():
        model.get_output_embeddings().weight[300:] = head[:20]
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(teacher_dir).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("online", [True, False])
@pytest.mark.parametrize("student_size", [300, 310, 330])
def test_padding_of_a_vocabulary_is_left_out(
    tiny: Any, blocks: Path, teacher_dir: Path, tmp_path: Path, online: bool, student_size: int
) -> None:
    """Against both distributions cut to the shared ids by hand."""
    wide = padded(teacher_dir, tmp_path / "teacher")
    data = TokenBlocks(str(blocks), batch_size=4, max_train_blocks=8)
    if not online:
        recorder = Recorder(FrozenTeacher(str(wide)), str(tmp_path / "store"), Selection(1.0, 320), "exact")
        PDTrainer(accelerator="cpu", logger=False, enable_progress_bar=False).record(recorder, data)
        data = TokenBlocks(str(tmp_path / "store"), batch_size=4)
    data.setup("fit")
    batch = next(iter(data.train_dataloader()))
    student = HFStudent(config={**tiny.config, "initializer_range": 0.2, "vocab_size": student_size})
    module = Watched(student, FrozenTeacher(str(wide)) if online else OfflineTeacher(), kd_weight=Constant(1.0))
    one_step(module, data)
    shared = min(320, student_size)
    teacher = FrozenTeacher(str(wide))
    teacher.setup(Surroundings(torch.device("cpu")))
    probs = teacher(batch).rows(slice(None)).logprobs.double().exp()
    p = probs[:, :shared] / probs[:, :shared].sum(-1, keepdim=True)
    torch.manual_seed(3)
    model = student.build({})
    log_q = model(batch["input_ids"]).flatten(0, 1)[:, :shared].double().log_softmax(-1)
    assert module.loss("kd_loss") == pytest.approx(float((p * (p.log() - log_q)).sum(-1).mean().detach()), rel=1e-5)
    dropped = float(probs[:, shared:].sum(-1).mean())
    assert dropped > 1e-3 or shared == 320
    assert module.loss("dropped_mass") == pytest.approx(dropped, rel=1e-4, abs=1e-6)


class Dropout(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(300, 16)
        self.dropout = nn.Dropout(0.2)
        self.out = nn.Linear(16, 300)

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.out(self.dropout(F.gelu(self.embedding(input_ids))))


@pytest.mark.parametrize(
    ("stop", "accumulate", "num_workers"), [(3, 1, 0), (5, 1, 0), (7, 1, 0), (3, 2, 0), (3, 1, 2), (5, 1, 2)]
)
def test_a_resumed_run_is_the_run(
    truncated_store: Path, tmp_path: Path, num_workers: int, stop: int, accumulate: int
) -> None:
    """40 blocks in batches of 8: an epoch has 5 batches. Stops in mid-epoch, at an epoch's end, and beyond it."""

    def run(folder: Path, max_steps: int, ckpt_path: str | None = None) -> DistillationModule:
        pl.seed_everything(11)
        module = DistillationModule(
            Dropout(), OfflineTeacher(), {"cut": TopPK(0.8, 10)}, ForwardKL(), kd_weight=WSD(0.9), lr=WSD(0.05)
        )
        data = TokenBlocks(str(truncated_store), batch_size=8, num_workers=num_workers, seed=2)
        keep = ModelCheckpoint(folder, filename="{step}", every_n_train_steps=1, save_top_k=-1)
        fitted = trainer(folder, max_steps=max_steps, accumulate_grad_batches=accumulate, callbacks=[keep])
        fitted.fit(module, data, ckpt_path=ckpt_path, weights_only=True)
        return module

    whole = run(tmp_path / "whole", 8)
    resumed = run(tmp_path / "resumed", 8, str(tmp_path / "whole" / f"step={stop}.ckpt"))
    for (name, one), (_, other) in zip(whole.state_dict().items(), resumed.state_dict().items(), strict=True):
        assert torch.equal(one, other), name
    states = [module.trainer.optimizers[0].state_dict()["state"] for module in (whole, resumed)]
    assert all(torch.equal(states[0][i][key], states[1][i][key]) for i in states[0] for key in states[0][i])
    assert int(whole._num_tokens) == int(resumed._num_tokens)


@pytest.mark.parametrize("draws", [True, False])
def test_schedules_and_random_draws_go_on_where_they_were(
    student: HFStudent, blocks: Path, teacher_dir: Path, tmp_path: Path, draws: bool
) -> None:
    """Temperature, KD weight and learning rate by schedule; targets drawn anew at each step; documents masked."""

    def run(folder: Path, ckpt_path: str | None = None) -> DistillationModule:
        pl.seed_everything(11)
        warm = {"warm": Temperature(Piecewise({"hot": Part(Linear(4.0, 2.0), 0.5), "cold": Part(Constant(1.0))}))}
        module = DistillationModule(
            student,
            FrozenTeacher(str(teacher_dir)),
            {"sample": SampleTokens(20)} if draws else warm,
            weighting={"starts": MaskDocumentStarts(), "surest": TeacherEntropy(0.2)},
            kd_weight=Periodic(0.2, 0.8, 4),
            lr=OneMinus(Linear(0.99, 1.0)),
        )
        data = TokenBlocks(str(blocks), batch_size=4, max_train_blocks=16, seed=2)
        keep = ModelCheckpoint(folder, filename="{step}", every_n_train_steps=1, save_top_k=-1)
        trainer(folder, max_steps=7, callbacks=[keep]).fit(module, data, ckpt_path=ckpt_path, weights_only=True)
        return module

    whole = run(tmp_path / "whole")
    resumed = run(tmp_path / "resumed", str(tmp_path / "whole" / "step=3.ckpt"))
    for (name, one), (_, other) in zip(whole.state_dict().items(), resumed.state_dict().items(), strict=True):
        assert torch.equal(one, other), name


def test_a_longer_run_goes_on_with_its_own_learning_rate_and_numbers(
    student: HFStudent, truncated_store: Path, tmp_path: Path
) -> None:
    """Four steps to the end, then eight: the fifth has the rate of the longer schedule, and no row is left out."""

    def run(max_steps: int, ckpt_path: str | None = None) -> DistillationModule:
        hot = {"hot": Temperature(Linear(4.0, 2.0))}
        module = DistillationModule(student, OfflineTeacher(), hot, lr=Linear(1e-3, 0.0))
        logger = MetricsCSV(tmp_path / "logs")
        keep = ModelCheckpoint(tmp_path, filename="first", every_n_train_steps=2, save_last=True)
        callbacks = [keep, FinalCheckpoint(), UnfinishedStep()]
        fitted = trainer(tmp_path, max_steps=max_steps, callbacks=callbacks, logger=logger, log_every_n_steps=1)
        fitted.fit(module, TokenBlocks(str(truncated_store), batch_size=4), ckpt_path=ckpt_path, weights_only=True)
        return module

    run(3)
    run(8, str(tmp_path / "last.ckpt"))
    rows = MetricsCSV(tmp_path / "logs").rows()
    assert [int(row["step"]) for row in rows] == list(range(8))
    expected = [Linear(1e-3, 0.0)(step, 3 if step < 3 else 8) for step in range(8)]
    np.testing.assert_allclose([float(row["train/lr"]) for row in rows], expected, rtol=1e-6)
    hot = [Linear(4.0, 2.0)(step, 3 if step < 3 else 8) for step in range(8)]
    np.testing.assert_allclose([float(row["train/hot"]) for row in rows], hot, rtol=1e-6)


def test_a_student_is_as_wide_on_the_fly_as_from_a_padded_store(
    student: HFStudent, blocks: Path, teacher_dir: Path, tmp_path: Path
) -> None:
    wide = padded(teacher_dir, tmp_path / "teacher")
    recorder = Recorder(FrozenTeacher(str(wide)), str(tmp_path / "store"), Selection(1.0, 320), "exact")
    data = TokenBlocks(str(blocks), batch_size=4, max_train_blocks=4, max_val_blocks=4)
    PDTrainer(accelerator="cpu", logger=False, enable_progress_bar=False).record(recorder, data)
    module = one_step(Watched(student, OfflineTeacher()), TokenBlocks(str(tmp_path / "store"), batch_size=4))
    assert module.student is not None
    assert module.student.vocab_size == 300


def test_the_teacher_is_in_no_checkpoint_and_no_optimizer(
    student: HFStudent, truncated_store: Path, teacher_dir: Path, tmp_path: Path
) -> None:
    module = DistillationModule(student, FrozenTeacher(str(teacher_dir)))
    fitted = trainer(tmp_path)
    fitted.fit(module, TokenBlocks(str(truncated_store), batch_size=4))
    fitted.save_checkpoint(tmp_path / "x.ckpt")
    checkpoint = torch.load(tmp_path / "x.ckpt", weights_only=True)
    own = {id(parameter) for parameter in module.student.parameters()}  # type: ignore[union-attr]
    assert {id(p) for group in fitted.optimizers[0].param_groups for p in group["params"]} == own
    assert checkpoint["state_dict"].keys() == {f"student.{name}" for name in module.student.state_dict()}  # type: ignore[union-attr]
    assert not any(parameter.requires_grad for parameter in module.teacher.model.parameters())  # type: ignore[attr-defined]


def test_students_of_one_seed_start_alike(student: HFStudent, truncated_store: Path, teacher_dir: Path) -> None:
    starts = []
    for teacher in (NoTeacher(), OfflineTeacher(), FrozenTeacher(str(teacher_dir))):
        module = DistillationModule(student, teacher, lr=Constant(0.0), optimizer=torch.optim.SGD)
        trainer().fit(module, TokenBlocks(str(truncated_store), batch_size=4))
        starts.append(module.state_dict())
    assert all(torch.equal(starts[0][name], start[name]) for start in starts for name in start)


def test_validation_is_the_mean_over_all_positions(
    student: HFStudent, truncated_store: Path, teacher_dir: Path
) -> None:
    module = DistillationModule(student, FrozenTeacher(str(teacher_dir)))
    data = TokenBlocks(str(truncated_store), batch_size=4, val_batch_size=5)  # 12 blocks: the last batch is short
    (metrics,) = trainer(limit_val_batches=1.0).validate(module, data, verbose=False)
    batch = next(iter(everything(truncated_store)))
    log_q = module(batch["input_ids"]).log_softmax(-1)
    log_p = module.teacher.model(batch["input_ids"]).log_softmax(-1)  # type: ignore[attr-defined]
    lm = F.nll_loss(log_q.flatten(0, 1), batch["labels"].flatten())
    assert metrics["val/lm_loss"] == pytest.approx(float(lm), rel=1e-5)
    assert metrics["val/perplexity"] == pytest.approx(float(lm.exp()), rel=1e-5)
    kl = F.kl_div(log_q, log_p, reduction="sum", log_target=True) / batch["labels"].numel()
    assert metrics["val/kd_loss"] == pytest.approx(float(kl), rel=1e-5)
    agreement = (log_q.argmax(-1) == log_p.argmax(-1)).float().mean()
    assert metrics["val/top1_agreement"] == pytest.approx(float(agreement), rel=1e-5)


def everything(store: Path) -> Any:
    data = TokenBlocks(str(store), val_batch_size=100)
    data.setup("validate")
    return data.val_dataloader()


def test_a_kd_weight_of_zero_spares_the_teacher(student: HFStudent, truncated_store: Path) -> None:
    class Counting(OfflineTeacher):
        calls = 0

        def __call__(self, batch: Any) -> Any:
            self.calls += 1
            return super().__call__(batch)

    teacher = Counting()
    module = Watched(student, teacher, kd_weight=Linear(0.0, 1.0))
    one_step(module, TokenBlocks(str(truncated_store), batch_size=4), max_steps=3)
    assert teacher.calls == 2


@pytest.mark.parametrize(
    ("settings", "trainer_settings", "message"),
    [
        ({"kd_weight": Linear(0.0, 1.5)}, {}, r"model.kd_weight must stay in \[0, 1\], got 1.125 at step 3"),
        ({}, {"max_steps": -1, "max_epochs": -1}, "length of the run must be known .* Set trainer.max_steps"),
        (
            {"config": {"max_position_embeddings": 8}},
            {},
            "A block must fit into the student's context, got 16 positions for 8",
        ),
        ({"config": {"vocab_size": 200}}, {}, "must hold every id of the data, got 200 for 300 ids. Set model.student"),
        (
            {},
            {"accumulate_grad_batches": 2, "val_check_interval": 3, "limit_val_batches": 1, "max_steps": 4},
            "Validation must come between optimizer steps, got val_check_interval 3",
        ),
    ],
)
def test_mistakes_are_found_before_the_first_step(
    tiny: Any, truncated_store: Path, settings: dict, trainer_settings: dict, message: str
) -> None:
    config = {**tiny.config, **settings.pop("config", {})}
    module = DistillationModule(HFStudent(config=config), OfflineTeacher(), **settings)
    settings = {"max_steps": 5, **trainer_settings}
    with pytest.raises(ValueError, match=message):
        trainer(**settings).fit(module, TokenBlocks(str(truncated_store), batch_size=4))


def test_offline_teacher_on_plain_blocks_is_refused(student: HFStudent, blocks: Path) -> None:
    with pytest.raises(ValueError, match="got plain token blocks"):
        trainer().fit(DistillationModule(student, OfflineTeacher()), TokenBlocks(str(blocks)))


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true"])
def test_bfloat16_is_near_float32(student: HFStudent, truncated_store: Path, teacher_dir: Path, precision: str) -> None:
    def step(precision: str, teacher: Teacher) -> Watched:
        module = Watched(student, teacher, {"cut": TopPK(0.8, 10)}, kd_weight=Constant(0.5))
        return one_step(module, TokenBlocks(str(truncated_store), batch_size=4), precision=precision)

    for make in (OfflineTeacher, lambda: FrozenTeacher(str(teacher_dir))):
        exact, rounded = step("32-true", make()), step(precision, make())
        assert rounded.loss() == pytest.approx(exact.loss(), rel=1e-2)
        assert rounded.loss("grad_norm") == pytest.approx(exact.loss("grad_norm"), rel=5e-2)


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true"])
def test_stored_targets_keep_their_digits(student: HFStudent, truncated_store: Path, precision: str) -> None:
    class Seen(OfflineTeacher):
        def __call__(self, batch: Any) -> Any:
            self.batch = batch
            return super().__call__(batch)

    teacher, expected = Seen(), first_batch(truncated_store)
    one_step(Watched(student, teacher), TokenBlocks(str(truncated_store), batch_size=4), precision=precision)
    for name in ("teacher_logprobs", "teacher_log_tail"):
        assert torch.equal(teacher.batch[name], expected[name])
        assert not torch.equal(expected[name].bfloat16().float(), expected[name])


@pytest.mark.parametrize("transforms", [{}, {"cut": TopPK(0.8, 10)}], ids=["whole", "cut"])
def test_a_bfloat16_teacher_teaches_a_float32_student(
    student: HFStudent, blocks: Path, teacher_dir: Path, transforms: dict
) -> None:
    def step(**settings: Any) -> Watched:
        module = Watched(student, FrozenTeacher(str(teacher_dir), **settings), transforms, kd_weight=Constant(0.5))
        return one_step(module, TokenBlocks(str(blocks), batch_size=4))

    exact, narrow, placed = step(), step(dtype="bfloat16"), step(device="cpu")
    assert next(narrow.teacher.model.parameters()).dtype == torch.bfloat16  # type: ignore[attr-defined]
    assert all(gradient.dtype == torch.float32 for gradient in narrow.gradients.values())
    assert narrow.loss("lm_loss") == exact.loss("lm_loss")
    assert 0 < abs(narrow.loss("kd_loss") - exact.loss("kd_loss")) < 1e-2 * exact.loss("kd_loss")
    assert 0 < max_difference(exact, narrow) < 3e-2
    assert max_difference(exact, placed) == 0


def test_end_of_text_is_learnt_like_any_token(student: HFStudent, blocks: Path) -> None:
    """It pads too in many tokenizers, and transformers leaves the embedding of the padding id alone."""
    module = Watched(student, NoTeacher())
    one_step(module, TokenBlocks(str(blocks), batch_size=512))
    eos = read_manifest(blocks).tokenizer.eos_token_id
    assert float(module.gradients["student.model.model.embed_tokens.weight"][eos].abs().max()) > 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"precision": "16-true"}, "trainer.precision must not be float16"),
        (
            {"strategy": ModelParallelStrategy()},
            "must be one that knows the student, got ModelParallelStrategy. Set trainer.strategy to",
        ),
    ],
)
def test_what_would_go_wrong_without_a_word_is_refused(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_trainer(trainer(**settings))


def test_settings_without_effect_are_said(student: HFStudent, blocks: Path) -> None:
    with pytest.warns(UserWarning, match="have no effect with NoTeacher"):
        trainer().fit(DistillationModule(student, kd_weight=Constant(0.5)), TokenBlocks(str(blocks)))


def test_a_pretrained_student_is_trained_with_its_dropout(teacher_dir: Path, blocks: Path) -> None:
    module = one_step(Watched(HFStudent(model=str(teacher_dir))), TokenBlocks(str(blocks), batch_size=2))
    assert all(part.training for part in module.student.modules())  # type: ignore[union-attr]


def test_the_seed_is_the_environments() -> None:
    assert DistillationModule(Dropout()).seed == int(os.environ["PL_GLOBAL_SEED"])


def test_what_costs_something_is_computed_for_steps_that_are_logged(
    student: HFStudent, truncated_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bool] = []
    call = Objective.__call__

    def watched(self: Objective, *args: Any) -> Any:
        asked.append(args[-1])
        return call(self, *args)

    monkeypatch.setattr(Objective, "__call__", watched)
    module = Watched(student, OfflineTeacher(), chunk_size=7)
    data = TokenBlocks(str(truncated_store), batch_size=2)
    settings: dict[str, Any] = {"max_steps": 5, "accumulate_grad_batches": 2, "log_every_n_steps": 3}
    trainer(**settings).fit(module, data)
    # The third step, and the last.
    assert asked == [False] * 4 + [True] * 2 + [False] * 2 + [True] * 2
    assert module.objective.chunk_size == 7
    assert 0 < module.loss("student_kept_mass") < 1
    assert 0 <= module.loss("top1_accuracy") <= 1
    # A student that begins knows next to nothing.
    assert 4.5 < module.loss("student_entropy") < np.log(300)
