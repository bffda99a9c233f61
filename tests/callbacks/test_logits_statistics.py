"""Statistics at the logits: what is logged, of whom, when; and that the training does not notice."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from pd_lightning.callbacks import Distill, LogitsStatistics
from pd_lightning.callbacks.logits_sample import POSITION, Sample, columns
from pd_lightning.callbacks.statistics_summary import samples, scalars
from pd_lightning.context import Progress
from pd_lightning.data import TokenBlocks
from pd_lightning.distiller import Distiller
from pd_lightning.language_model import build_causal_lm
from pd_lightning.loggers import MetricsCSV
from pd_lightning.losses import ReverseKL
from pd_lightning.module import DistillationModule
from pd_lightning.objective import Objective
from pd_lightning.objective.logits_figures import UNKNOWN, Asked
from pd_lightning.schedules import Constant
from pd_lightning.students import HFStudent
from pd_lightning.teachers import FrozenTeacher, NoTeacher, OfflineTeacher
from pd_lightning.transforms import SampleTokens, Temperature, TopPK

PAGE = (Path(__file__).parents[2] / "docs" / "statistics.md").read_text(encoding="utf-8")
BATCH, T = 4, 16


class Plain(pl.LightningModule):
    """Other people's module, of the simplest kind."""

    def __init__(self, vocab_size: int, slices: int = 1) -> None:
        super().__init__()
        self.inner = nn.ModuleDict({"body": nn.Embedding(vocab_size, 8), "head": nn.Linear(8, vocab_size)})
        self.slices = slices

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        ids, labels = (batch["input_ids"], batch["labels"]) if isinstance(batch, dict) else batch
        hidden = self.inner["body"](ids)
        logits = torch.cat([self.inner["head"](part) for part in hidden.flatten(0, 1).chunk(self.slices)])
        return F.cross_entropy(logits, labels.flatten())

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.training_step(batch, batch_idx)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.5)


class Tokens(Plain):
    """Of token ids alone."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return super().training_step((batch, batch), batch_idx)


class Noisy(nn.Module):
    """A teacher that draws from the random numbers that dropout draws from."""

    def __init__(self, vocab_size: int) -> None:
        super().__init__()
        self.table = nn.Embedding(vocab_size, vocab_size)

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.table(input_ids) + torch.rand(1)


def fit(module: pl.LightningModule, data: Any, *callbacks: pl.Callback, steps: int = 6, **kwargs: Any) -> pl.Trainer:
    settings = {"limit_val_batches": 0, "logger": False, **kwargs}
    trainer = pl.Trainer(
        accelerator="cpu",
        max_steps=steps,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        num_sanity_val_steps=0,
        callbacks=list(callbacks),
        **settings,
    )
    trainer.fit(module, data)
    return trainer


def of(folder: Path, **settings: Any) -> TokenBlocks:
    return TokenBlocks(str(folder), **{"batch_size": BATCH, "max_val_blocks": 40, **settings})


def distillation(tiny: Any, teacher: Any = None, **settings: Any) -> DistillationModule:
    torch.manual_seed(4)
    student = HFStudent(config={**tiny.config, "attention_dropout": 0.1})
    return DistillationModule(student, teacher, lr=Constant(1e-2), **settings)


def logged(folder: Path) -> list[dict[str, float]]:
    """The rows of statistics, histograms' quantiles left out."""
    rows = [{name: float(value) for name, value in row.items() if value} for row in MetricsCSV(str(folder)).rows()]
    return [row for row in rows if any("_statistics/" in name for name in row)]


VALIDATING = {
    "val_check_interval": 3,
    "check_val_every_n_epoch": None,
    "limit_val_batches": 1.0,
    "log_every_n_steps": 1,
}


@pytest.mark.parametrize(
    ("settings", "distilled"),
    [
        ({"precision": "32-true"}, {"transforms": {"draw": SampleTokens(9)}}),
        # A loss of all logits, which the head makes under autocast.
        ({"precision": "bf16-mixed"}, {"transforms": {"warm": Temperature(2.0)}, "loss": ReverseKL()}),
        ({"accumulate_grad_batches": 2, "val_check_interval": 4}, {"transforms": {"cut": TopPK(0.9, 20)}}),
    ],
)
def test_training_is_the_same_to_the_bit(
    tmp_path: Path, tiny: Any, blocks: Path, teacher_dir: Path, settings: dict[str, Any], distilled: Any
) -> None:
    runs = [distillation(tiny, FrozenTeacher(str(teacher_dir)), **distilled) for _ in range(2)]
    fit(runs[0], of(blocks), **{**VALIDATING, **settings})
    logger = MetricsCSV(str(tmp_path))
    fit(runs[1], of(blocks), LogitsStatistics(every_n_steps=2), **{**VALIDATING, "logger": logger, **settings})
    for (name, one), (_, other) in zip(*(run.state_dict().items() for run in runs), strict=True):
        assert torch.equal(one, other), name
    assert sum("train_statistics/kl" in row for row in logged(tmp_path)) == 3


def test_other_peoples_training_is_the_same_too(tiny: Any, blocks: Path) -> None:
    """Whose random numbers are seeded once, at the start."""

    class Dropping(Plain):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return super().training_step(batch, batch_idx) * F.dropout(torch.ones(1), 0.5)

    teacher = FrozenTeacher(Noisy(tiny.vocab_size))
    runs = []
    for statistics in ([], [LogitsStatistics("inner.head", teacher, every_n_steps=1)]):
        torch.manual_seed(3)
        runs.append(Dropping(tiny.vocab_size))
        fit(runs[-1], of(blocks), *statistics, precision="bf16-mixed", **VALIDATING)
    assert all(torch.equal(*pair) for pair in zip(*(run.parameters() for run in runs), strict=True))


def documented(kind: str) -> set[str]:
    """The names of docs/statistics.md."""
    (table,) = re.findall(rf"<!-- {kind} -->\n(.*?)\n\n", PAGE, flags=re.DOTALL)
    return {name for row in table.splitlines()[2:] for name in re.findall(r"`([^`]+)`", row.split("|")[1])}


def test_event_files_hold_every_name_of_the_page(tmp_path: Path, tiny: Any, blocks: Path, teacher_dir: Path) -> None:
    teacher = FrozenTeacher(str(teacher_dir))
    module = distillation(tiny, teacher, transforms={"cut": TopPK(0.95, 50), "warm": Temperature(2.0)})
    logger = TensorBoardLogger(str(tmp_path), name="", version="")
    fit(module, of(blocks), LogitsStatistics(every_n_steps=2), logger=logger, **VALIDATING)
    events = EventAccumulator(str(tmp_path), size_guidance={"histograms": 0, "scalars": 0}).Reload()
    tags = events.Tags()
    scalars_of, histograms_of = documented("scalars"), documented("histograms")
    assert len(scalars_of) > 30
    training, always = {"lm_gradient_norm", "kd_gradient_norm", "gradient_cosine"}, {"kd_loss_gap"}
    for stage, without in (("train", always), ("val", training)):
        found = {tag.split("_statistics/")[1] for tag in tags["scalars"] if tag.startswith(f"{stage}_statistics/")}
        # Of the buckets those that there are: this teacher is never sure, and blocks have 16 positions.
        buckets = {name for name in found if name.startswith("kl_by_")}
        assert {"kl_by_position/0_to_16", "kl_by_entropy/from_4", "kl_by_entropy/2_to_4"} <= buckets <= scalars_of
        assert found - buckets == {name for name in scalars_of if not name.startswith("kl_by_")} - without, stage
        shown = {tag.split("_histograms/")[1] for tag in tags["histograms"] if tag.startswith(f"{stage}_histograms/")}
        assert shown == histograms_of, stage
    values = events.Scalars("train_statistics/kl")
    assert [event.step for event in values] == [0, 2, 4]
    assert all(np.isfinite(event.value) and event.value > 0 for event in values)
    assert [event.step for event in events.Scalars("val_statistics/kl")] == [2, 5]
    (first, *_) = events.Histograms("train_histograms/kl")
    assert first.histogram_value.num == BATCH * T
    assert first.histogram_value.sum == pytest.approx(values[0].value * BATCH * T, rel=1e-5)
    kept = events.Histograms("train_histograms/kept_ids")[0].histogram_value
    assert (kept.min, kept.max) == (50.0, 50.0) or kept.max <= 50


def test_every_bucket_has_a_name_of_the_page() -> None:
    entropies, positions = torch.tensor([0.2, 0.7, 1.0, 3.0, 9.0, 1.5]), torch.tensor([0, 20, 100, 500, 2000, 9000.0])
    kl = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, 7.0])
    found = scalars({"kl": kl, "teacher_entropy": entropies, POSITION: positions})
    buckets = {name: value for name, value in found.items() if name.startswith("kl_by_")}
    assert buckets == {
        "kl_by_entropy/0_to_0.5": 1.0,
        "kl_by_entropy/0.5_to_1": 2.0,
        "kl_by_entropy/1_to_2": 5.0,
        "kl_by_entropy/2_to_4": 4.0,
        "kl_by_entropy/from_4": 5.0,
        "kl_by_position/0_to_16": 1.0,
        "kl_by_position/16_to_64": 2.0,
        "kl_by_position/64_to_256": 3.0,
        "kl_by_position/256_to_1024": 4.0,
        "kl_by_position/1024_to_4096": 5.0,
        "kl_by_position/from_4096": 7.0,
    }
    assert {name for name in documented("scalars") if name.startswith("kl_by_")} == buckets.keys()


def test_summaries_are_those_of_the_formulas() -> None:
    lm, kd = np.array([[3.0, 4.0], [0.0, 1.0], [1.0, 0.0]]), np.array([[1.0, 0.0], [2.0, 2.0], [9.0, 9.0]])
    product = (lm * kd).sum(-1)
    figures = {
        "lm_gradient": (lm**2).sum(-1),
        "kd_gradient": np.where([True, True, False], (kd**2).sum(-1), UNKNOWN),
        "gradient_product": np.where([True, True, False], product, UNKNOWN),
        "teacher_label_rank": np.array([1.0, np.inf, 2.0]),
        "student_label_rank": np.array([1.0, 9.0, 2.0]),
        "student_entropy": np.array([1.0, np.nan, 2.0]),
        "kl": np.array([UNKNOWN, 1.0, 2.0]),
    }
    found = scalars({name: torch.from_numpy(values) for name, values in figures.items()})
    assert found["lm_gradient_norm"] == pytest.approx(np.sqrt((25 + 1 + 1) / 3))
    assert found["kd_gradient_norm"] == pytest.approx(np.sqrt((1 + 8) / 2))
    assert found["gradient_cosine"] == pytest.approx((3 + 2) / np.sqrt(26 * 9))
    assert (found["teacher_label_rank_median"], found["student_label_rank_median"]) == (2.0, 2.0)
    assert found["student_label_rank"] == 4.0
    assert "teacher_label_rank" not in found, "a mean of what is partly not known"
    assert np.isnan(found["student_entropy"]), "a training that diverged is shown"
    assert found["kl"] == 1.5
    drawn = samples({name: torch.from_numpy(values) for name, values in figures.items()})
    assert {name: values.tolist() for name, values in drawn.items()} == {
        "student_entropy": [1.0, 2.0],
        "student_label_rank": [1.0, 9.0, 2.0],
        "teacher_label_rank": [1.0, 2.0],
        "kl": [1.0, 2.0],
    }


def test_a_store_tells_what_it_knows(tmp_path: Path, tiny: Any, truncated_store: Path) -> None:
    module = distillation(tiny, OfflineTeacher())
    fit(module, of(truncated_store), LogitsStatistics(), logger=MetricsCSV(str(tmp_path)), **VALIDATING)
    first = logged(tmp_path)[0]
    names = {name.removeprefix("train_statistics/") for name in first}
    of_teacher = {name for name in names if name.startswith("teacher")}
    known = {"entropy", "effective_support", "max_probability", "logit_mean", "logit_std"}
    assert known <= {name.removeprefix("teacher_") for name in of_teacher} <= {*known, "label_rank_median"}
    assert {"kl", "tail_mass", "kept_ids", "kd_gradient_norm", "gradient_cosine"} <= names
    assert 0.0 < first["train_statistics/tail_mass"] < 1.0
    assert 1.0 <= first["train_statistics/kept_ids"] <= 20.0


def test_without_a_teacher_there_is_the_student(tmp_path: Path, tiny: Any, blocks: Path) -> None:
    fit(distillation(tiny, NoTeacher()), of(blocks), LogitsStatistics(), logger=MetricsCSV(str(tmp_path)), **VALIDATING)
    for row in logged(tmp_path):
        names = {name.split("_statistics/")[1] for name in row if "_statistics/" in name}
        assert {"student_entropy", "student_mass_at_10"} <= names
        assert all(name.startswith("student") or name == "lm_gradient_norm" for name in names)


@pytest.mark.parametrize("slices", [1, 3])
def test_other_peoples_module_with_a_teacher(
    tmp_path: Path, tiny: Any, blocks: Path, teacher_dir: Path, slices: int
) -> None:
    """The first sample is of all positions of the first batch: its figures are those of logits made by hand."""
    torch.manual_seed(3)
    module = Plain(tiny.vocab_size, slices)
    start = {name: value.clone() for name, value in module.state_dict().items()}
    seen: list[Any] = []

    class See(pl.Callback):
        def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
            seen.append(batch)

    statistics = LogitsStatistics("inner.head", FrozenTeacher(str(teacher_dir)))
    fit(module, of(blocks), See(), statistics, logger=MetricsCSV(str(tmp_path)), **VALIDATING)
    module.load_state_dict(start)
    with torch.no_grad():
        logits = module.inner["head"](module.inner["body"](seen[0]["input_ids"])).double().flatten(0, 1)
        said = FrozenTeacher(str(teacher_dir))
        from transformers import AutoModelForCausalLM

        teacher: Any = AutoModelForCausalLM.from_pretrained(said.name)
        log_p = teacher(seen[0]["input_ids"]).logits.double().log_softmax(-1).flatten(0, 1)
    q, p, labels = logits.softmax(-1), log_p.exp(), seen[0]["labels"].flatten()
    lm, kd = q - F.one_hot(labels, tiny.vocab_size), q - p
    first = {name.split("/", 1)[1]: value for name, value in logged(tmp_path)[0].items() if "/" in name}
    expected = {
        "student_entropy": -(q * q.log()).sum(-1).mean(),
        "teacher_entropy": -(p * log_p).sum(-1).mean(),
        "kl": (p * (log_p - q.log())).sum(-1).mean(),
        "student_label_rank": 1.0 + (q > q.gather(-1, labels[:, None])).sum(-1).double().mean(),
        "lm_gradient_norm": lm.square().sum(-1).mean().sqrt(),
        "kd_gradient_norm": kd.square().sum(-1).mean().sqrt(),
        "gradient_cosine": (lm * kd).sum() / (lm.norm() * kd.norm()),
    }
    for name, value in expected.items():
        assert first[name] == pytest.approx(float(value), rel=2e-4, abs=1e-6), name
    assert any("val_statistics/kl" in row for row in logged(tmp_path))
    assert not any(key.startswith("teacher") for key in module.state_dict())


def test_what_distills_is_found(tmp_path: Path, tiny: Any, blocks: Path, teacher_dir: Path) -> None:
    """A callback, with the submodule that it sees; or an object of the module's own, to which `module` is added."""
    teacher, transforms = FrozenTeacher(str(teacher_dir)), {"cut": TopPK(0.95, 30)}

    class Own(Plain):
        def setup(self, stage: str) -> None:
            self.distiller = Distiller(teacher, transforms, kd_weight=0.5)
            self.distiller.setup(self)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            said = self.distiller(batch, self.inner["head"](self.inner["body"](batch["input_ids"])))
            self.log_dict(said.metrics("train/"))
            return said.loss

    ways: dict[str, tuple[Any, list[pl.Callback]]] = {
        "callback": (
            Plain,
            [LogitsStatistics(), Distill(teacher, "inner.head", transforms=transforms, kd_weight=0.5)],
        ),
        "own": (Own, [LogitsStatistics("inner.head")]),
    }
    rows = []
    for name, (kind, callbacks) in ways.items():
        torch.manual_seed(3)
        logger = MetricsCSV(str(tmp_path / name))
        fit(kind(tiny.vocab_size), of(blocks), *callbacks, logger=logger, **VALIDATING)
        rows.append(logged(tmp_path / name)[0])
    assert rows[0] == rows[1]
    assert {"train_statistics/kept_ids", "train_statistics/gradient_cosine"} <= rows[0].keys()
    assert "val_statistics/kd_loss_gap" in {name for row in logged(tmp_path / "callback") for name in row}


def test_a_student_may_leave_out_the_last_position(tmp_path: Path, tiny: Any, blocks: Path) -> None:
    class Shorter(Plain):
        more, flat = 0, False

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            ids = batch["input_ids"]
            hidden = self.inner["body"](ids[:, : T + self.more])
            logits = self.inner["head"](hidden.flatten(0, 1) if self.flat else hidden)
            return F.cross_entropy(logits.view(-1, logits.shape[-1]), ids[:, 1 : T + 1 + self.more].flatten())

    rows = torch.randint(tiny.vocab_size, (8, T + 1), generator=torch.Generator().manual_seed(1))
    found = []
    for name, more, flat in (("same", 0, False), ("shorter", -1, False), ("flat", -1, True)):
        torch.manual_seed(3)
        module = Shorter(tiny.vocab_size)
        module.more, module.flat = more, flat
        data = torch.utils.data.DataLoader([{"input_ids": row} for row in rows], batch_size=BATCH)
        cut = LogitsStatistics("inner.head", batch_map=lambda batch: {"input_ids": batch["input_ids"][:, :T]})
        fit(module, data, cut, steps=1, logger=MetricsCSV(str(tmp_path / name)))
        found.append(logged(tmp_path / name)[0])
    assert found[0] == pytest.approx(found[1])
    assert found[1] == pytest.approx(found[2])


def test_a_slice_that_looks_like_a_shorter_batch_is_found_out(tiny: Any) -> None:
    logits = torch.randn(BATCH * T, tiny.vocab_size)
    sample = Sample(torch.zeros(BATCH, T, dtype=torch.long), None, Asked(Objective()), 8, Progress())
    sample.take(logits[: BATCH * (T - 1)])
    sample.take(logits[: BATCH * (T - 1)])  # computed again in the backward pass, say
    assert len(sample.table()) == 8
    sample.take(logits[BATCH * (T - 1) :])
    with pytest.raises(ValueError, match="logits of each of the batch's 64 positions, got 68"):
        sample.table()


@pytest.mark.parametrize("kd_weight", [0.5, 0.0])
def test_padding_of_the_vocabulary_that_a_distiller_finds_out_later(
    tmp_path: Path, tiny: Any, blocks: Path, kd_weight: float
) -> None:
    """It learns the student's width after the logits were made; with a weight of 0 never."""
    torch.manual_seed(1)
    wider = build_causal_lm({**tiny.config, "vocab_size": 304, "initializer_range": 0.3})
    ways = {"given": [FrozenTeacher(wider)], "found": []}
    rows, runs = [], []
    for name, teacher in ways.items():
        torch.manual_seed(3)
        runs.append(Plain(tiny.vocab_size))
        callbacks = [
            LogitsStatistics("inner.head", *teacher, every_n_steps=1),
            Distill(FrozenTeacher(wider), "inner.head", kd_weight=kd_weight),
        ]
        fit(runs[-1], of(blocks), *callbacks, logger=MetricsCSV(str(tmp_path / name)), steps=2)
        rows.append(logged(tmp_path / name))
    assert len(rows[0]) == 2
    assert rows[0] == rows[1]
    torch.manual_seed(3)
    alone = Plain(tiny.vocab_size)
    fit(alone, of(blocks), Distill(FrozenTeacher(wider), "inner.head", kd_weight=kd_weight), steps=2)
    for run in runs:
        assert all(torch.equal(*pair) for pair in zip(run.parameters(), alone.parameters(), strict=True))


def test_a_teacher_of_another_tokenizer_is_refused(tmp_path: Path, tiny: Any, blocks: Path, teacher_dir: Path) -> None:
    """Its logits are as wide as the student's."""
    shutil.copytree(teacher_dir, tmp_path / "other")
    file = tmp_path / "other" / "tokenizer.json"
    tokenizer = json.loads(file.read_text())
    ids = tokenizer["model"]["vocab"]
    ids["a"], ids["b"] = ids["b"], ids["a"]
    file.write_text(json.dumps(tokenizer))
    statistics = LogitsStatistics("inner.head", FrozenTeacher(str(tmp_path / "other")))
    with pytest.raises(ValueError, match="must use the same tokenizer, got 2 of 300 tokens with another id"):
        fit(Plain(tiny.vocab_size), of(blocks), statistics, steps=1)


def test_a_long_training_without_validation_keeps_no_more_than_a_short_one(
    tiny: Any, blocks: Path, teacher_dir: Path
) -> None:
    def kept(steps: int) -> int:
        statistics = LogitsStatistics(every_n_steps=1000)
        module = distillation(tiny, FrozenTeacher(str(teacher_dir)))
        fit(module, of(blocks), statistics, steps=steps, log_every_n_steps=1)
        values = vars(statistics).values()
        return sum(len(value) if isinstance(value, list) else isinstance(value, Tensor) for value in values)

    assert kept(2) == kept(6) > 0


def test_padding_of_a_teachers_vocabulary_is_left_out(tmp_path: Path, tiny: Any, blocks: Path) -> None:
    """Our data know that the tokenizer has no more than 300 ids."""
    torch.manual_seed(1)
    teacher = FrozenTeacher(build_causal_lm({**tiny.config, "vocab_size": 320, "initializer_range": 0.3}))
    statistics = LogitsStatistics("inner.head", teacher)
    fit(Plain(tiny.vocab_size), of(blocks), statistics, logger=MetricsCSV(str(tmp_path)), steps=1)
    assert np.isfinite(logged(tmp_path)[0]["train_statistics/gradient_cosine"])


def test_a_sample_is_bounded_and_of_labelled_positions(tiny: Any) -> None:
    labels = torch.randint(tiny.vocab_size, (40, T))
    labels[:, ::2] = -100
    logits = torch.randn(40, T, tiny.vocab_size)
    for size, rows in ((5, 5), (200, 200), (1000, 1000)):
        sample = Sample(labels, None, Asked(Objective()), size, Progress())
        for part in logits.chunk(3):
            sample.take(part)
        table = sample.table()
        assert len(table) == rows
        found = columns(table)
        assert found[POSITION].max() < T
        known = found["student_entropy"] != UNKNOWN
        assert known.sum() <= (size + 1) // 2
        assert (found[POSITION][known] % 2 == 1).all()
    assert known.sum() == 40 * T / 2, "all there are"


def test_no_more_than_a_run_of_logits_is_made(tiny: Any) -> None:
    from pd_lightning.targets.heads import Head

    seen: list[int] = []

    def project(hidden: Tensor) -> Tensor:
        seen.append(len(hidden))
        return hidden @ torch.ones(8, 50)

    sample = Sample(torch.zeros(64, T, dtype=torch.long), None, Asked(Objective()), 512, Progress())
    sample.take(torch.randn(64, T, 8), Head(project))
    assert (max(seen), sum(seen)) == (128, 512)


def test_once_per_optimizer_step(tmp_path: Path, tiny: Any, blocks: Path) -> None:
    """Of the first of its micro-batches; the steps are those of the loggers."""
    taken: list[int] = []

    class Counting(LogitsStatistics):
        def _take(self, output: Any, *head: Any) -> None:
            taken.append(self._sample is not None)
            super()._take(output, *head)

    logger = MetricsCSV(str(tmp_path))
    statistics = Counting("inner.head", every_n_steps=2)
    fit(Plain(tiny.vocab_size), of(blocks), statistics, logger=logger, accumulate_grad_batches=3, log_every_n_steps=50)
    assert taken == [1, 0, 0, 0, 0, 0] * 3
    assert [row["step"] for row in logged(tmp_path)] == [0, 2, 4]


def test_validation_takes_a_few_batches_of_the_first_split(tmp_path: Path, tiny: Any, blocks: Path) -> None:
    taken: list[int] = []

    class Counting(LogitsStatistics):
        def on_validation_batch_end(
            self, trainer: Any, module: Any, outputs: Any, batch: Any, idx: int, at: int = 0
        ) -> None:
            if self._sample is not None:
                taken.append(idx)
            super().on_validation_batch_end(trainer, module, outputs, batch, idx, at)

    data = of(blocks, max_val_blocks=100)
    fit(
        Plain(tiny.vocab_size),
        data,
        Counting("inner.head", positions=128),
        logger=MetricsCSV(str(tmp_path)),
        **VALIDATING,
    )
    assert taken == [0, 3, 6, 9, 12, 15, 18, 21] * 2
    row = next(row for row in logged(tmp_path) if "val_statistics/student_entropy" in row)
    assert row["step"] == 2


def test_the_gap_is_between_training_since_the_last_validation_and_validation(
    tmp_path: Path, tiny: Any, blocks: Path, teacher_dir: Path
) -> None:
    module = distillation(tiny, FrozenTeacher(str(teacher_dir)))
    fit(module, of(blocks), LogitsStatistics(), logger=MetricsCSV(str(tmp_path)), **VALIDATING)
    rows = MetricsCSV(str(tmp_path)).rows()
    trained = [float(row["train/kd_loss"]) for row in rows if row["train/kd_loss"]]
    validated = [float(row["val/kd_loss"]) for row in rows if row["val/kd_loss"]]
    gaps = [row["val_statistics/kd_loss_gap"] for row in logged(tmp_path) if "val_statistics/kd_loss_gap" in row]
    assert len(trained) == 6
    expected = [loss - np.mean(trained[i : i + 3]) for loss, i in zip(validated, (0, 3), strict=True)]
    assert gaps == pytest.approx(expected, rel=1e-4)


def test_validate_alone_has_statistics(tmp_path: Path, tiny: Any, blocks: Path, teacher_dir: Path) -> None:
    logger = MetricsCSV(str(tmp_path))
    trainer = pl.Trainer(
        accelerator="cpu", logger=logger, enable_progress_bar=False, callbacks=[LogitsStatistics()], devices=1
    )
    trainer.validate(distillation(tiny, FrozenTeacher(str(teacher_dir))), of(blocks), verbose=False)
    (row,) = logged(tmp_path)
    assert row["val_statistics/kl"] > 0


def test_validation_is_compared_with_its_own_teacher(
    tmp_path: Path, tiny: Any, truncated_store: Path, teacher_dir: Path
) -> None:
    module = distillation(tiny, OfflineTeacher(), val_teacher=FrozenTeacher(str(teacher_dir)))
    fit(module, of(truncated_store), LogitsStatistics(), logger=MetricsCSV(str(tmp_path)), **VALIDATING)
    train, val = (
        next(row for row in logged(tmp_path) if f"{stage}_statistics/kl" in row) for stage in ("train", "val")
    )
    assert "train_statistics/teacher_mass_at_10" not in train
    assert "val_statistics/teacher_mass_at_10" in val


@pytest.mark.parametrize("labels", ["next", "same", "pair", "mapped"])
def test_batches_of_other_peoples_data(tmp_path: Path, tiny: Any, labels: str) -> None:
    """Labels shifted by the model, by the data, or none of our names: the same figures."""
    torch.manual_seed(1)
    ids = torch.randint(tiny.vocab_size, (8, T + 1))
    before, after = ids[:, :-1], ids[:, 1:].clone()
    after[:, -1] = -100
    rows: Any = {
        "next": [{"input_ids": x, "labels": y} for x, y in zip(before, after, strict=True)],
        "same": [{"input_ids": x, "labels": x} for x in before],
        "pair": list(zip(before, after, strict=True)),
        "mapped": [{"input_ids": x, "labels": y, "tokens": 1} for x, y in zip(before, after, strict=True)],
    }[labels]
    module = Plain(tiny.vocab_size)
    with torch.no_grad():
        logits = module.inner["head"](module.inner["body"](before[:4]))[:, :-1]
        rank = (logits > logits.gather(-1, after[:4, :-1, None])).sum(-1).float().mean() + 1
    mapped = (lambda batch: {"input_ids": batch["input_ids"]}) if labels == "mapped" else None
    statistics = LogitsStatistics("inner.head", batch_map=mapped)
    data = torch.utils.data.DataLoader(rows, batch_size=4)
    fit(module, data, statistics, logger=MetricsCSV(str(tmp_path)), steps=1)
    assert logged(tmp_path)[0]["train_statistics/student_label_rank"] == pytest.approx(float(rank))


def test_other_loggers_have_quantiles(tmp_path: Path, tiny: Any, blocks: Path) -> None:
    fit(Plain(tiny.vocab_size), of(blocks), LogitsStatistics("inner.head"), logger=MetricsCSV(str(tmp_path)))
    rows = [row for row in MetricsCSV(str(tmp_path)).rows() if row.get("train_histograms/student_entropy/q50")]
    low, middle, high = (float(rows[0][f"train_histograms/student_entropy/{q}"]) for q in ("q10", "q50", "q90"))
    assert low < middle < high
    assert "train_histograms/student_logits/q90" in rows[0]


@pytest.mark.slow
def test_weights_and_biases_has_histograms(tmp_path: Path, tiny: Any, blocks: Path) -> None:
    pytest.importorskip("wandb")
    logger = WandbLogger(save_dir=str(tmp_path), offline=True)
    fit(Plain(tiny.vocab_size), of(blocks), LogitsStatistics("inner.head"), logger=logger, steps=1)
    summary = dict(logger.experiment.summary)
    assert summary["train_histograms/student_entropy"]["_type"] == "histogram"
    assert summary["train_statistics/student_entropy"] > 0
    logger.experiment.finish()


class Waits(TorchDispatchMode):
    """Counts what would make a GPU's host wait."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        aten = torch.ops.aten
        if func.overloadpacket in (aten._local_scalar_dense, aten.is_nonzero, aten.item, aten.equal, aten.nonzero):
            Waits.count += 1
        return func(*args, **(kwargs or {}))


def test_steps_between_samples_wait_for_nothing(tmp_path: Path, tiny: Any, blocks: Path, teacher_dir: Path) -> None:
    counts: list[int] = []

    class Watched(LogitsStatistics):
        def on_train_batch_start(self, *args: Any) -> None:
            Waits.count = 0
            with Waits():
                super().on_train_batch_start(*args)

        def _take(self, *args: Any) -> None:
            with Waits():
                super()._take(*args)

        def on_train_batch_end(self, *args: Any) -> None:
            with Waits():
                super().on_train_batch_end(*args)
            counts.append(Waits.count)

    module = distillation(tiny, FrozenTeacher(str(teacher_dir)))
    settings = {"logger": MetricsCSV(str(tmp_path)), "log_every_n_steps": 50}
    fit(module, of(blocks), Watched(every_n_steps=4), steps=6, **settings)
    assert [count > 0 for count in counts] == [True, False, False, False, True, False]


def test_the_teachers_time_counts_as_trainings_alone(tiny: Any, blocks: Path, teacher_dir: Path) -> None:
    seconds: list[float] = []

    class See(LogitsStatistics):
        def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
            before = pl_module.teacher.forward_seconds
            super().on_train_batch_start(trainer, pl_module, batch, batch_idx)
            seconds.append(pl_module.teacher.forward_seconds - before)

        def _take(self, *args: Any) -> None:
            before = module.teacher.forward_seconds
            super()._take(*args)
            seconds.append(module.teacher.forward_seconds - before)

    module = distillation(tiny, FrozenTeacher(str(teacher_dir)))
    fit(module, of(blocks), See(every_n_steps=1), steps=2)
    assert seconds == [0.0] * 4
    assert module.teacher.forward_seconds > 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"module": "inner.hat"}, r"must name a submodule of Plain, got 'inner.hat'\. There are inner.head, inner"),
        ({}, r"must know where the logits of Plain are, got no module\. Set its module to the dotted name"),
        ({"module": "inner.body"}, r"must be of the whole vocabulary, got 8 of each position for a label \d+\. Set"),
        ({"module": "inner"}, r"logits of each of the batch's 64 positions, got 0\. Set module of LogitsStatistics"),
    ],
)
def test_logits_that_are_not_there(tiny: Any, blocks: Path, settings: dict[str, Any], message: str) -> None:
    module = Plain(tiny.vocab_size)
    with pytest.raises(ValueError, match=message):
        fit(module, of(blocks), LogitsStatistics(**settings))
    assert module.global_step <= 1
    assert not any(part._forward_hooks for part in module.modules()), "the module is left as it was"


def test_a_teacher_of_another_vocabulary_is_refused(tiny: Any, blocks: Path) -> None:
    other = FrozenTeacher(build_causal_lm({**tiny.config, "vocab_size": 100}))
    with pytest.raises(ValueError, match=r"must share a vocabulary, got a token id \d+ and a teacher of 100 ids\. Set"):
        fit(Plain(tiny.vocab_size), of(blocks), LogitsStatistics("inner.head", other))
    wider = FrozenTeacher(build_causal_lm({**tiny.config, "vocab_size": 320}))
    data = torch.utils.data.DataLoader([torch.randint(300, (T,)) for _ in range(4)])
    with pytest.raises(ValueError, match="must share a vocabulary, got 320 and 300 ids, and no number of tokens that"):
        fit(Tokens(tiny.vocab_size), data, LogitsStatistics("inner.head", wider))


@pytest.mark.parametrize("name", ["every_n_steps", "positions"])
def test_settings_out_of_range(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} of LogitsStatistics must be at least 1, got 0. Raise it."):
        LogitsStatistics(**{name: 0})  # type: ignore[arg-type]


@pytest.mark.slow
def test_ranks_share_the_sample(tmp_path: Path, blocks: Path, teacher_dir: Path) -> None:
    """All positions of one batch, on one process, and dealt to two under DDP and FSDP2: the same figures."""
    script = Path(__file__).with_name("statistics_on_ranks.py")
    for name, devices in (("auto", 1), ("ddp", 2), ("fsdp2", 2)):
        command = [sys.executable, str(script), str(blocks), str(teacher_dir), str(tmp_path / name), name, str(devices)]
        subprocess.run(command, check=True, timeout=300, env={**os.environ, "OMP_NUM_THREADS": "1"})
    one, *others = (logged(tmp_path / name) for name in ("auto", "ddp", "fsdp2"))
    assert [row["step"] for row in one] == [0, 1, 2, 2]
    for rows in others:
        for expected, row in zip(one, rows, strict=True):
            statistics = {name for name in expected if "_statistics/" in name}
            assert statistics == {name for name in row if "_statistics/" in name}
            for name in statistics:
                assert row[name] == pytest.approx(expected[name], rel=2e-3, abs=2e-4), name


def test_a_module_that_is_compiled_as_a_whole(tmp_path: Path, tiny: Any, blocks: Path) -> None:
    """The figures, and the graphs of the module's own forward alone: before the hook and after it, and its loss."""
    torch._dynamo.reset()
    counter, rows = CompileCounter(), []
    for name in ("eager", "compiled"):
        torch.manual_seed(3)
        module: Any = Plain(tiny.vocab_size)
        module = torch.compile(module, backend=counter) if name == "compiled" else module
        fit(
            module, of(blocks), LogitsStatistics("inner.head", every_n_steps=2), logger=MetricsCSV(str(tmp_path / name))
        )
        rows.append(logged(tmp_path / name))
    assert rows[0] == rows[1]
    assert 0 < counter.frame_count <= 3


@pytest.mark.slow
def test_ranks_may_validate_other_numbers_of_batches(tmp_path: Path) -> None:
    """Of 3 and 2: nobody waits for ever."""
    script = Path(__file__).with_name("statistics_of_uneven_ranks.py")
    command = [sys.executable, str(script), str(tmp_path)]
    subprocess.run(command, check=True, timeout=300, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert [row["step"] for row in logged(tmp_path) if "val_statistics/student_entropy" in row] == [1, 3]


@pytest.mark.slow
def test_a_compiled_student_is_seen_as_it_is(
    tmp_path: Path, tiny: Any, blocks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch._dynamo.reset()
    counter, original = CompileCounter(), nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", lambda self, **options: original(self, backend=counter, **options))
    rows = []
    for name in ("eager", "compiled"):
        module = DistillationModule(HFStudent(config=tiny.config, compile=name == "compiled"), lr=Constant(1e-2))
        module.seed = 3
        fit(module, of(blocks), LogitsStatistics(every_n_steps=2), logger=MetricsCSV(str(tmp_path / name)))
        rows.append(logged(tmp_path / name))
    assert rows[0] == rows[1]
    assert counter.frame_count == 1, "the callback is left out"
