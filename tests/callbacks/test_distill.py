"""Distillation of modules that know nothing of it."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.cli import LightningCLI
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter
from torch.nn import functional as F

from pd_lightning.callbacks import Distill
from pd_lightning.data import MixedIn, TokenBlocks
from pd_lightning.data.layout import as_hugging_face, as_next_tokens
from pd_lightning.language_model import build_causal_lm
from pd_lightning.module import DistillationModule
from pd_lightning.schedules import Constant, Linear, Part, Piecewise
from pd_lightning.teachers import FrozenTeacher, NoTeacher, OfflineTeacher
from pd_lightning.transforms import TopK

V = 300


class Bigram(nn.Module):
    def __init__(self, seed: int, dropout: float = 0.0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.embedding = nn.Embedding(V, 8)
        self.dropout = nn.Dropout(dropout)
        self.lm_head = nn.Linear(8, V)

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.lm_head(self.dropout(self.embedding(input_ids)))


class Plain(pl.LightningModule):
    """Somebody's module, whose step gives nothing but a loss, with dropout, so that a random number too many shows."""

    def __init__(self) -> None:
        super().__init__()
        self.model = Bigram(1, dropout=0.1)
        self.losses: list[float] = []

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        input_ids, labels = (batch["input_ids"], batch["labels"]) if isinstance(batch, dict) else batch
        return F.cross_entropy(self.model(input_ids).flatten(0, 1), labels.flatten())

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", self.training_step(batch, batch_idx))

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), lr=0.05)


class Returns(Plain):
    """Returns a dictionary, and looks at the loss that it is given back."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return {"loss": super().training_step(batch, batch_idx), "more": 1}

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        pass

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        assert outputs["more"] == 1
        self.losses.append(float(outputs["loss"]))


def fit(module: Any, data: Any, *callbacks: pl.Callback, steps: int = 8, **settings: Any) -> pl.Trainer:
    torch.manual_seed(5)  # of the dropout
    trainer = pl.Trainer(
        accelerator="cpu",
        max_steps=steps,
        val_check_interval=settings.pop("val_check_interval", None),
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        use_distributed_sampler=False,
        callbacks=list(callbacks),
        **settings,
    )
    trainer.fit(module, data, ckpt_path=settings.pop("ckpt", None))
    return trainer


def blocks_of(folder: Path, **settings: Any) -> TokenBlocks:
    return TokenBlocks(str(folder), batch_size=4, max_train_blocks=64, max_val_blocks=8, **settings)


def weights(module: nn.Module) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in module.parameters()]


def teacher() -> FrozenTeacher:
    return FrozenTeacher(Bigram(2))


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("compiled", [False, True])
def test_a_weight_of_zero_changes_no_bit_and_more_brings_student_and_teacher_together(
    blocks: Path, compiled: bool, accumulate: int
) -> None:
    trained, held_out = {}, {}
    for kd_weight in (None, 0.0, 0.9):
        module = Plain()
        callbacks = [] if kd_weight is None else [Distill(teacher(), "model.lm_head", kd_weight=kd_weight)]
        counter = CompileCounter()
        if compiled:
            torch._dynamo.reset()
        given = torch.compile(module, backend=counter) if compiled else module
        trainer = fit(
            given, blocks_of(blocks), *callbacks, val_check_interval=8 * accumulate, accumulate_grad_batches=accumulate
        )
        assert (counter.frame_count > 0) == compiled
        trained[kd_weight] = weights(module)
        held_out[kd_weight] = {name: float(value) for name, value in trainer.callback_metrics.items()}
    assert all(map(torch.equal, trained[None], trained[0.0]))
    assert held_out[None]["val_loss"] == held_out[0.0]["val_loss"]
    assert not torch.equal(trained[0.0][0], trained[0.9][0])
    assert held_out[0.9]["val/kd_loss"] < 0.8 * held_out[0.0]["val/kd_loss"]
    assert held_out[0.9]["train/kd_weight"] == pytest.approx(0.9)


def test_the_loss_is_the_modules_own_and_the_divergence(blocks: Path) -> None:
    module = Returns()
    module.model.dropout.p = 0.0
    data = blocks_of(blocks)
    fit(module, data, Distill(teacher(), "model.lm_head", kd_weight=Constant(0.25)), steps=1, limit_val_batches=0)
    # To the float64 formula, over the first batch of the same data.
    batch = next(iter(fresh_loader(blocks)))
    log_q, log_p = (Bigram(seed)(batch["input_ids"]).double().log_softmax(-1) for seed in (1, 2))
    kd = (log_p.exp() * (log_p - log_q)).sum(-1).mean()
    lm = F.nll_loss(log_q.flatten(0, 1), batch["labels"].flatten())
    assert module.losses == [pytest.approx((0.75 * lm + 0.25 * kd).item(), rel=1e-6)]


def fresh_loader(blocks: Path) -> Any:
    data = blocks_of(blocks)
    data.setup("fit")
    return data.train_dataloader()


@pytest.mark.parametrize("batch_map", [as_next_tokens, as_hugging_face])
def test_from_a_store_in_the_projects_own_layout(truncated_store: Path, batch_map: Any) -> None:
    class HuggingFace(Plain):
        """As transformers computes its loss: it shifts the labels, and logits are an attribute."""

        def __init__(self) -> None:
            super().__init__()
            bigram = self.model
            self.model = nn.ModuleDict({"whole": Wrapped(bigram)})

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            logits = self.model["whole"](batch["input_ids"]).logits
            return F.cross_entropy(logits[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten())

    class Wrapped(nn.Module):
        def __init__(self, bigram: nn.Module) -> None:
            super().__init__()
            self.bigram = bigram

        def forward(self, input_ids: Tensor) -> Any:
            return SimpleNamespace(logits=self.bigram(input_ids))

    pairs = batch_map is as_next_tokens
    distilled = {}
    for mapped in (True, False):
        module = Plain() if pairs else HuggingFace()
        data = TokenBlocks(str(truncated_store), batch_size=4, batch_map=batch_map if mapped or not pairs else None)
        distill = Distill(OfflineTeacher(), "model.lm_head" if pairs else "model.whole", {"top": TopK(10)})
        trainer = fit(module, data, distill, val_check_interval=4)
        distilled[mapped] = [*weights(module), trainer.callback_metrics["val/kd_loss"]]
    assert all(map(torch.equal, distilled[True], distilled[False]))
    plain = Plain()
    fit(plain, TokenBlocks(str(truncated_store), batch_size=4), val_check_interval=4)
    assert not torch.equal(weights(plain)[0], distilled[True][0])


def test_a_hugging_face_model_that_makes_its_own_loss(
    blocks: Path, truncated_store: Path, teacher_dir: Path, tiny: SimpleNamespace
) -> None:
    class Causal(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(1)
            self.model = build_causal_lm({**tiny.config, "vocab_size": V})

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return self.model(**batch).loss

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.model(**batch)

        def configure_optimizers(self) -> Any:
            return torch.optim.AdamW(self.parameters(), lr=0.01)

    for teacher, folder in ((FrozenTeacher(str(teacher_dir)), blocks), (OfflineTeacher(), truncated_store)):
        found = {}
        for kd_weight in (0.0, 0.9):
            data = TokenBlocks(str(folder), batch_size=4, max_train_blocks=32, batch_map=as_hugging_face)
            distill = Distill(teacher, "model.lm_head", kd_weight=kd_weight)
            trainer = fit(Causal(), data, distill, val_check_interval=8, limit_val_batches=2)
            found[kd_weight] = float(trainer.callback_metrics["val/kd_loss"])
        assert found[0.9] < 0.95 * found[0.0]


def test_as_a_callback_of_somebodys_yaml(blocks: Path, teacher_dir: Path, tmp_path: Path) -> None:
    init_args = {
        "teacher": {"class_path": "pd_lightning.teachers.FrozenTeacher", "init_args": {"model": str(teacher_dir)}},
        "logits_from": "model.lm_head",
        "loss": {"class_path": "pd_lightning.losses.ReverseKL"},
        "kd_weight": {"class_path": "pd_lightning.schedules.Linear", "init_args": {"start": 0.0, "end": 1.0}},
    }
    trainer = {
        "max_steps": 2,
        "accelerator": "cpu",
        "logger": False,
        "enable_progress_bar": False,
        "enable_checkpointing": False,
        "use_distributed_sampler": False,
        "limit_val_batches": 0,
        "callbacks": [{"class_path": "pd_lightning.callbacks.Distill", "init_args": init_args}],
    }
    data = {"path": str(blocks), "batch_size": 4, "batch_map": "pd_lightning.data.layout.as_next_tokens"}
    cli = LightningCLI(
        Plain,
        TokenBlocks,
        args=["fit", f"--trainer={json.dumps(trainer)}", f"--data={json.dumps(data)}"],
        save_config_callback=None,
    )
    assert cli.trainer.global_step == 2
    assert float(cli.trainer.callback_metrics["train/kd_weight"]) == 1.0


@pytest.mark.parametrize("layout", ["mapped", "same", "pair"])
def test_the_kd_loss_is_over_the_labelled_positions_whatever_the_layout(blocks: Path, layout: str) -> None:
    data = blocks_of(blocks)
    data.setup("fit")
    rows = torch.cat([batch["input_ids"] for batch in data.train_dataloader()])[:8]
    labels = rows.clone()
    labels[:, :6] = -100  # a prompt

    class Tokens(Plain):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            ids = batch["tokens"] if layout == "mapped" else batch["input_ids"] if layout == "same" else batch[0]
            return self.model(ids).logsumexp(-1).mean()

    items = {
        "mapped": [{"tokens": row, "prompt": 6} for row in rows],
        "same": [{"input_ids": row, "labels": label} for row, label in zip(rows, labels, strict=True)],
        "pair": [(row, F.pad(label[1:], (0, 1), value=-100)) for row, label in zip(rows, labels, strict=True)],
    }[layout]
    mapped: Any = None if layout != "mapped" else lambda batch: {"input_ids": batch["tokens"], "labels": labels}
    module = Tokens()
    module.model.dropout.p = 0.0
    loader = torch.utils.data.DataLoader(items, batch_size=8)
    trainer = fit(module, loader, Distill(teacher(), "model.lm_head", batch_map=mapped), steps=1, limit_val_batches=0)
    log_q, log_p = (Bigram(seed)(rows).double().log_softmax(-1) for seed in (1, 2))
    kd = (log_p.exp() * (log_p - log_q)).sum(-1)[:, 5:-1].mean()
    assert float(trainer.callback_metrics["train/kd_loss"]) == pytest.approx(kd.item(), rel=1e-5)


def test_a_validation_step_may_do_without_the_logits(blocks: Path) -> None:
    class Other(Plain):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.log("norm", self.model.lm_head.weight.norm())

    trainer = fit(Other(), blocks_of(blocks), Distill(teacher(), "model.lm_head"), val_check_interval=8)
    assert "val/kd_loss" not in trainer.callback_metrics
    assert "norm" in trainer.callback_metrics


def test_where_the_weight_falls_to_zero_figures_end(blocks: Path) -> None:
    seen: list[dict[str, float]] = []

    class Look(pl.Callback):
        def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
            seen.append({name: float(value) for name, value in trainer.callback_metrics.items()})

    falling = Piecewise({"taught": Part(0.9, 0.5), "alone": Part(0.0)})
    fit(Plain(), blocks_of(blocks), Distill(teacher(), "model.lm_head", kd_weight=falling), Look(), limit_val_batches=0)
    assert ["train/kd_loss" in figures for figures in seen] == [True] * 4 + [False] * 4
    seen.clear()
    ours = DistillationModule(Bigram(1), teacher(), kd_weight=falling, lr=0.1)
    fit(ours, blocks_of(blocks), Look(), limit_val_batches=0, log_every_n_steps=1)
    assert ["train/kd_loss" in figures for figures in seen] == [True] * 4 + [False] * 4
    assert all("train/lm_loss" in figures for figures in seen)


def test_blocks_without_targets_are_trained_on_the_modules_own_loss(blocks: Path, truncated_store: Path) -> None:
    mixed = TokenBlocks(str(truncated_store), batch_size=4, mix={"plain": MixedIn(str(blocks), weight=1.0)})
    trainer = fit(Plain(), mixed, Distill(OfflineTeacher(), "model.lm_head"), steps=12, limit_val_batches=0)
    assert trainer.callback_metrics["train/kd_loss"].isfinite()
    own = Plain()
    fit(own, blocks_of(blocks), Distill(NoTeacher(), "model.lm_head"), val_check_interval=8)
    plain = Plain()
    fit(plain, blocks_of(blocks), val_check_interval=8)
    assert all(map(torch.equal, weights(own), weights(plain)))


def test_the_module_is_left_as_it_was(blocks: Path) -> None:
    module = Plain()
    distill = Distill(teacher(), "model.lm_head")
    fit(module, blocks_of(blocks), distill, limit_val_batches=2, num_sanity_val_steps=1)
    assert not {"training_step", "validation_step", "test_step"} & set(vars(module))
    assert not module.model.lm_head._forward_hooks
    assert not any("teacher" in name for name in module.state_dict())

    class Breaks(Plain):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            raise RuntimeError("broken")

    broken = Breaks()
    with pytest.raises(RuntimeError, match="broken"):
        fit(broken, blocks_of(blocks), Distill(teacher(), "model.lm_head"), limit_val_batches=0)
    assert not {"training_step", "validation_step"} & set(vars(broken))
    # And the same callback serves another training.
    fit(Plain(), blocks_of(blocks), distill, steps=2, limit_val_batches=0)


def test_validation_alone(blocks: Path) -> None:
    module = Plain()
    trainer = pl.Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, callbacks=[Distill(teacher(), "model.lm_head")]
    )
    (metrics,) = trainer.validate(module, blocks_of(blocks), verbose=False)
    data = blocks_of(blocks)
    data.setup("validate")
    batches = list(data.val_dataloader())
    student, said = Bigram(1), Bigram(2)
    kd = [F.kl_div(student(b["input_ids"]).log_softmax(-1), said(b["input_ids"]).log_softmax(-1), log_target=True,
                   reduction="sum") / b["labels"].numel() for b in batches]  # fmt: skip
    assert metrics["val/kd_loss"] == pytest.approx(torch.stack(kd).mean().item(), rel=1e-5)


def test_a_resumed_training_goes_on(blocks: Path, tmp_path: Path) -> None:
    class Save(pl.Callback):
        def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
            if trainer.global_step == 3:
                trainer.save_checkpoint(tmp_path / "3.ckpt")

    def distill() -> Distill:
        return Distill(teacher(), "model.lm_head", kd_weight=Linear(0.0, 1.0))

    whole, resumed = Plain(), Plain()
    for module in (whole, resumed):
        module.model.dropout.p = 0.0
    fit(whole, blocks_of(blocks), distill(), Save(), steps=6, limit_val_batches=0)
    saved = torch.load(tmp_path / "3.ckpt", weights_only=True)["state_dict"]
    assert set(saved) == {"model.embedding.weight", "model.lm_head.weight", "model.lm_head.bias"}
    trainer = pl.Trainer(
        accelerator="cpu", max_steps=6, logger=False, enable_progress_bar=False, callbacks=[distill()],
        enable_checkpointing=False, limit_val_batches=0, use_distributed_sampler=False,
    )  # fmt: skip
    trainer.fit(resumed, blocks_of(blocks), ckpt_path=tmp_path / "3.ckpt", weights_only=True)
    assert all(map(torch.equal, weights(whole), weights(resumed)))


class Twice(Plain):
    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return super().training_step(batch, batch_idx) + super().training_step(batch, batch_idx)


class Alone(Plain):
    automatic_optimization = False


@pytest.mark.parametrize(
    ("module", "logits_from", "message"),
    [
        (Plain, "model.hat", r"must name a submodule of Plain, got 'model\.hat'\. There are model\.lm_head, model, "),
        (Plain, "model.embedding", r"over the whole vocabulary, got 8 of them for token id 2\d\d\. Give the Distiller"),
        (Twice, "model.lm_head", r"once in each step, got 2 outputs \(Tensor, Tensor\) of 'model\.lm_head'"),
        (Alone, "model.lm_head", r"Alone, which optimizes by itself\. Call a pd_lightning\.distiller\.Distiller"),
    ],
)
def test_modules_it_cannot_work_with(blocks: Path, module: type, logits_from: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fit(module(), blocks_of(blocks), Distill(teacher(), logits_from), limit_val_batches=0)


def test_a_submodule_that_is_not_called(blocks: Path) -> None:
    module = Plain()
    module.idle = nn.Linear(8, V)
    with pytest.raises(ValueError, match=r"once in each step, got no call of 'idle'\. Set logits_from"):
        fit(module, blocks_of(blocks), Distill(teacher(), "idle"), limit_val_batches=0)


def test_on_two_processes(blocks: Path) -> None:
    script = Path(__file__).with_name("distilled_on_ranks.py")
    done = subprocess.run([sys.executable, str(script), str(blocks)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    lines = dict(line.split(" ", 1) for line in done.stdout.splitlines() if line.startswith(("same", "kd", "near")))
    assert lines["same"] == "True"
    assert lines["near"] == "True"
    without, with_kd = map(float, lines["kd"].split())
    assert with_kd < 0.8 * without
