"""A step that is not finite changes nothing: the run is the one without it, and what was in it can be replayed."""

import json
import os
import subprocess
import sys
from math import isinf, isnan
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from pd_lightning.callbacks import SkipNonFinite
from pd_lightning.checkpoints import load_checkpoint
from pd_lightning.data import TokenBlocks
from pd_lightning.guards.saved_batch import load_batch
from pd_lightning.module import DistillationModule
from pd_lightning.module.optimization import parameter_groups
from pd_lightning.muon import MuonWithAdamW
from pd_lightning.teachers import OfflineTeacher

BAD = float("nan")
SCRIPT = Path(__file__).with_name("non_finite_on_ranks.py")


class InfiniteGradient(torch.autograd.Function):
    """The identity; its gradient is infinite."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient * float("inf")


class Toy(pl.LightningModule):
    """A batch is a row of numbers; one that begins with NaN goes wrong as `how` says."""

    def __init__(self, optimizer: str = "adamw", how: str = "both") -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.optimizer, self.how = nn.Linear(3, 2), optimizer, how
        self.logged: list[dict[str, float]] = []

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        is_bad = bool(batch[0].isnan())
        if is_bad and self.how == "both":
            return self.layer(batch).square().mean()
        out = self.layer(batch.nan_to_num())
        if is_bad and self.how == "gradient":
            out = InfiniteGradient.apply(out)
        loss = out.square().mean()
        return loss + BAD if is_bad and self.how == "loss" else loss

    def on_train_batch_end(self, *_: Any) -> None:
        self.logged.append({name: float(value) for name, value in self.trainer.callback_metrics.items()})

    def configure_optimizers(self) -> torch.optim.Optimizer:
        if self.optimizer == "adamw":
            return torch.optim.AdamW(self.parameters(), lr=0.1, weight_decay=0.5)
        if self.optimizer == "sgd":
            return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9, weight_decay=0.5)
        groups = [{"params": [self.layer.weight], "hidden": True}, {"params": [self.layer.bias]}]
        return MuonWithAdamW(groups, lr=0.1, weight_decay=0.5)


def rows(*bad: int, count: int = 6) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    made = [torch.randn(3, generator=generator) for _ in range(count)]
    for i in bad:
        made[i][0] = BAD
    return made


def fit(module: pl.LightningModule, data: list[Tensor], *callbacks: pl.Callback, root: Path, **settings: Any) -> Any:
    ckpt_path = settings.pop("ckpt_path", None)
    trainer = pl.Trainer(
        accelerator="cpu",
        callbacks=list(callbacks),
        default_root_dir=root,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
        **{"max_epochs": 1, "gradient_clip_val": 1.0, **settings},
    )
    trainer.fit(module, DataLoader(data, batch_size=None) if isinstance(data, list) else data, ckpt_path=ckpt_path)
    return trainer


@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "muon"])
@pytest.mark.parametrize("how", ["both", "loss", "gradient"])
def test_a_run_with_bad_steps_is_the_run_without_them(tmp_path: Path, optimizer: str, how: str) -> None:
    module, guard = Toy(optimizer, how), SkipNonFinite()
    found = "loss and gradient" if how == "both" else how
    with pytest.warns(UserWarning, match=f"step 2 is skipped, as its {found} is not finite: 1 in a row"):
        trainer = fit(module, rows(2, 3), guard, root=tmp_path)
    without = Toy(optimizer)
    other = fit(without, [row for row in rows(2, 3) if not row.isnan().any()], root=tmp_path)
    assert (trainer.global_step, other.global_step, guard.skipped, guard.in_a_row) == (6, 4, 2, 0)
    for one, two in zip(module.parameters(), without.parameters(), strict=True):
        assert torch.equal(one, two)
    assert [logged["train/skipped_steps"] for logged in module.logged] == [0, 0, 1, 2, 2, 2]
    assert list(tmp_path.iterdir()) == []


def test_without_it_the_weights_are_lost(tmp_path: Path) -> None:
    module, guard = Toy(), SkipNonFinite(enabled=False)
    fit(module, rows(2), guard, root=tmp_path)
    assert module.layer.weight.isnan().all()
    assert guard.skipped == 0


def test_one_bad_micro_batch_is_enough(tmp_path: Path) -> None:
    module, without, guard = Toy(), Toy(), SkipNonFinite()
    with pytest.warns(UserWarning, match="step 1 is skipped"):
        fit(module, rows(2), guard, root=tmp_path, accumulate_grad_batches=2)
    fit(without, [*rows()[:2], *rows()[4:]], root=tmp_path, accumulate_grad_batches=2)
    assert guard.skipped == 1
    assert torch.equal(module.layer.weight, without.layer.weight)


@pytest.mark.filterwarnings("ignore:step . is skipped")
def test_the_count_goes_on_with_the_checkpoint(tmp_path: Path) -> None:
    fit(Toy(), rows(1, 3, 5), SkipNonFinite(), root=tmp_path).save_checkpoint(tmp_path / "x.ckpt")
    guard = SkipNonFinite()
    fit(Toy(), rows(1, 3, 5), guard, root=tmp_path, ckpt_path=tmp_path / "x.ckpt", max_epochs=2)
    assert guard.skipped == 6


@pytest.mark.filterwarnings("ignore:step . is skipped")
def test_it_stops_after_so_many_in_a_row(tmp_path: Path) -> None:
    module, guard = Toy(), SkipNonFinite(patience=2)
    with pytest.raises(ValueError, match=r"2 steps in a row without: the loss and gradient of step 3, the") as error:
        fit(module, rows(1, 5, 7, count=10), guard, root=tmp_path, accumulate_grad_batches=2)
    folder = tmp_path / "non_finite" / "step=3"
    assert f"{folder} holds the step's batches and the weights" in str(error.value)
    names = ["rank=0-batch=0.safetensors", "rank=0-batch=1.safetensors", "rank=0.json", "weights.ckpt"]
    assert sorted(path.name for path in folder.iterdir()) == names
    batches = [load_batch(folder / name) for name in names[:2]]
    for batch, row in zip(batches, rows(1, 5, 7, count=10)[6:8], strict=True):
        assert torch.equal(batch.nan_to_num(), row.nan_to_num())
    facts = json.loads((folder / "rank=0.json").read_text())
    assert (facts["step"], facts["rank"], facts["skipped"], facts["in_a_row"]) == (3, 0, 3, 2)
    assert facts["not_finite"] == ["loss", "gradient"]
    assert [batch["number"] for batch in facts["batches"]] == [6, 7]
    replayed = Toy()
    replayed.load_state_dict(load_checkpoint(folder / "weights.ckpt", "")["state_dict"])
    losses = [replayed.training_step(batch, 0).item() / 2 for batch in batches]
    assert losses == pytest.approx([batch["loss"] for batch in facts["batches"]], nan_ok=True)
    assert [isnan(loss) for loss in losses] == [False, True]


class Poison(pl.Callback):
    """Spoils the stored log-probabilities of a position from a step on."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_start(self, trainer: pl.Trainer, module: Any, batch: dict[str, Tensor], batch_idx: int) -> None:
        if trainer.global_step >= self.step:
            batch["teacher_logprobs"][0, 3] = float("inf")


class Bigram(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.table, self.head = nn.Embedding(300, 16), nn.Linear(16, 300)

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.head(self.table(input_ids))


@pytest.mark.filterwarnings("ignore:step . is skipped")
def test_a_distillation_is_replayed(tmp_path: Path, truncated_store: Path) -> None:
    module = DistillationModule(Bigram(), OfflineTeacher(), kd_weight=0.5)
    data: Any = TokenBlocks(str(truncated_store), batch_size=4)
    guards = (Poison(3), SkipNonFinite(patience=2))
    with pytest.raises(ValueError, match="of step 4, the last of them"):
        fit(module, data, *guards, root=tmp_path, max_steps=8, max_epochs=-1, limit_val_batches=0)
    folder = tmp_path / "non_finite" / "step=4"
    facts = json.loads((folder / "rank=0.json").read_text())
    assert facts["kd_weight"] == 0.5
    assert isinf(facts["metrics"]["train/loss"])
    assert facts["metrics"]["train/skipped_steps"] == 2
    weights = load_checkpoint(folder / "weights.ckpt", "")["state_dict"]
    assert all(tensor.isfinite().all() for tensor in weights.values())

    batch = load_batch(folder / "rank=0-batch=0.safetensors")
    again = DistillationModule(Bigram(), OfflineTeacher(), kd_weight=facts["kd_weight"])
    again.load_state_dict(weights)
    fit(again, [batch], root=tmp_path / "again", max_steps=1, max_epochs=-1)
    assert again.trainer.callback_metrics["train/loss"].isinf()
    assert again.trainer.callback_metrics["train/lm_loss"].isfinite()


def on_ranks(strategy: str, root: Path) -> None:
    """A run of two ranks, of which rank 1 alone has bad batches: of steps 1, 3 and 4."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(SCRIPT), strategy, str(root)]
    done = subprocess.run(command, env=environment, timeout=200, capture_output=True, text=True)
    assert done.returncode == 1
    assert "2 steps in a row without: the loss of step 4, the last of them, is not finite" in done.stderr


@pytest.mark.parametrize("strategy", ["ddp", pytest.param("fsdp", marks=pytest.mark.slow)])
def test_all_ranks_skip_the_same_steps_and_write_their_batches(tmp_path: Path, strategy: str) -> None:
    on_ranks(strategy, tmp_path)
    folder = tmp_path / "non_finite" / "step=4"
    for rank in (0, 1):
        facts = json.loads((folder / f"rank={rank}.json").read_text())
        assert (facts["skipped"], facts["world_size"], facts["not_finite"]) == (3, 2, ["loss"])
        assert isnan(facts["batches"][0]["loss"]) == (rank == 1)
        assert load_batch(folder / f"rank={rank}-batch=0.safetensors").isnan().any() == (rank == 1)
    assert (folder / "weights.ckpt").exists()
    # A rank that had stepped, or that had not, would be elsewhere.
    norms = [float((tmp_path / f"norm-{rank}").read_text()) for rank in (0, 1)]
    assert norms[0] == norms[1] > 0


def test_no_patience_is_refused() -> None:
    with pytest.raises(ValueError, match=r"patience must be at least 1, got 0. Raise patience of SkipNonFinite, or"):
        SkipNonFinite(patience=0)


def test_groups_of_a_student_are_its_parameters() -> None:
    optimizer = torch.optim.AdamW(parameter_groups(DistillationModule(Bigram())._student))
    assert sum(len(group["params"]) for group in optimizer.param_groups) == 3
