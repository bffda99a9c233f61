"""Steps whose loss or gradient is not finite are left out, so that weights and optimizer never see them."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor
from torch.optim import Optimizer

from pd_lightning.guards.saved_batch import save_batch
from pd_lightning.module.draws import batches_processed
from pd_lightning.store.durable import write_durably

FOLDER = "non_finite"
WEIGHTS = "weights.ckpt"


class SkipNonFinite(pl.Callback):
    """Skips optimizer steps whose loss or gradient is NaN or infinite, counts them, and stops when there are too many.

    A skipped step leaves weights, moments and weight decay as they were; the schedules go on. All ranks skip the same
    steps. What the forward pass itself changes, statistics of batch norm say, is not taken back. It costs one pass over
    the gradients and one wait for the device a step, and keeps the micro-batches of a step until the step is done.

    Logged as `train/skipped_steps`: how many steps were skipped so far.

    Args:
        patience: Steps in a row that may be skipped. With the last of them the run ends, and what it takes to see why
            is written to `<trainer.default_root_dir>/non_finite/step=N/`: the micro-batches of the step on each rank,
            for `pd_lightning.guards.saved_batch.load_batch`; facts of it as JSON; and the weights.
        enabled: False lets everything through, and waits for nothing.

    Raises:
        ValueError: If `patience` is less than 1; and in training, after `patience` steps in a row.
    """

    def __init__(self, patience: int = 10, enabled: bool = True) -> None:
        if patience < 1:
            raise ValueError(
                f"patience must be at least 1, got {patience}. Raise patience of SkipNonFinite, or set its enabled to "
                "false."
            )
        self.patience = patience
        self.enabled = enabled
        self.skipped = 0
        self.in_a_row = 0
        self._batches: list[tuple[int, int, Any]] = []
        self._losses: list[Tensor] = []
        self._found: list[str] = []
        self._stepped = False

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Forget an earlier training that ended amid a step."""
        self._batches, self._losses, self._stepped, self.in_a_row = [], [], False, 0

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Keep the micro-batch."""
        if self.enabled:
            self._batches.append((batches_processed(trainer), batch_idx, batch))

    def on_before_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: Tensor) -> None:
        """Keep the loss."""
        if self.enabled:
            self._losses.append(loss.detach().float())

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Optimizer
    ) -> None:
        """Take the gradients away, so that the optimizer does nothing, where they or the loss are not finite."""
        if not self.enabled:
            return
        self._stepped = True
        self._found = self._look(trainer, pl_module, optimizer)
        self.in_a_row = self.in_a_row + 1 if self._found else 0
        if self._found:
            self.skipped += 1
            for parameter in _parameters(optimizer):
                parameter.grad = None
            rank_zero_warn(
                f"step {trainer.global_step} is skipped, as its {' and '.join(self._found)} is not finite: "
                f"{self.in_a_row} in a row of at most {self.patience}, {self.skipped} in all"
            )
        # On the CPU: copying it to the device would wait for that once more.
        pl_module.log("train/skipped_steps", torch.tensor(float(self.skipped)))

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Forget the micro-batches of a finished step, or write them and stop."""
        if not self._stepped:
            return
        if self.in_a_row >= self.patience:
            self._stop(trainer, pl_module)
        self._batches, self._losses, self._stepped = [], [], False

    def state_dict(self) -> dict[str, Any]:
        """Give the count for a checkpoint."""
        return {"skipped": self.skipped}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on counting; a new start has all of its patience."""
        self.skipped = state_dict["skipped"]

    def _look(self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Optimizer) -> list[str]:
        """Name what is not finite on any rank."""
        gradients = [_local(parameter.grad) for parameter in _parameters(optimizer) if parameter.grad is not None]
        # The largest element, which unlike the Euclidean norm of finite numbers is always finite.
        norm = torch.nn.utils.get_total_norm(gradients, float("inf")).to(pl_module.device)
        losses = torch.stack(self._losses) if self._losses else torch.zeros_like(norm)
        found = torch.stack([(~values.isfinite()).any() for values in (losses, norm)]).float()
        found = trainer.strategy.reduce(found, reduce_op="max")
        return [name for name, is_found in zip(("loss", "gradient"), found.tolist(), strict=True) if is_found]

    def _stop(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        step = trainer.global_step - 1
        folder = Path(trainer.strategy.broadcast(trainer.default_root_dir)) / FOLDER / f"step={step}"
        rank = trainer.global_rank
        for i, (_, _, batch) in enumerate(self._batches):
            save_batch(batch, folder / f"rank={rank}-batch={i}.safetensors")
        facts = json.dumps(self._facts(trainer, pl_module, step), indent=1)
        write_durably(folder / f"rank={rank}.json", facts.encode())
        trainer.save_checkpoint(folder / WEIGHTS, weights_only=True)
        raise ValueError(
            f"training must have finite losses and gradients, got {self.in_a_row} steps in a row without: the "
            f"{' and '.join(self._found)} of step {step}, the last of them, is not finite. Weights and optimizer are "
            f"as before. {folder} holds the step's batches and the weights, to replay it (docs/guards.md). Go on with "
            "--ckpt_path auto and a lower model.lr, trainer.gradient_clip_val or trainer.precision bf16-mixed, or "
            "raise patience of SkipNonFinite in trainer.callbacks."
        )

    def _facts(self, trainer: pl.Trainer, pl_module: pl.LightningModule, step: int) -> dict[str, Any]:
        return {
            "step": step,
            "epoch": trainer.current_epoch,
            "rank": trainer.global_rank,
            "world_size": trainer.world_size,
            "not_finite": self._found,
            "in_a_row": self.in_a_row,
            "skipped": self.skipped,
            "seed": getattr(pl_module, "seed", os.environ.get("PL_GLOBAL_SEED")),
            "precision": trainer.precision,
            "kd_weight": _kd_weight(trainer, pl_module, step),
            "batches": [
                {"number": number, "number_in_epoch": batch_idx, "loss": float(loss)}
                for (number, batch_idx, _), loss in zip(self._batches, self._losses, strict=False)
            ],
            "metrics": {name: float(value) for name, value in trainer.callback_metrics.items()},
        }


def _parameters(optimizer: Optimizer) -> Iterator[Tensor]:
    for group in optimizer.param_groups:
        yield from group["params"]


def _local(gradient: Tensor) -> Tensor:
    """The part of a sharded gradient that this rank holds; its values where it is sparse."""
    if hasattr(gradient, "to_local"):
        gradient = gradient.to_local()
    return gradient._values() if gradient.is_sparse else gradient


def _kd_weight(trainer: pl.Trainer, pl_module: pl.LightningModule, step: int) -> float | None:
    """The share of the KD loss in a step, of a module that has a schedule of it."""
    schedule = getattr(pl_module, "kd_weight", None)
    return float(schedule(step, int(trainer.estimated_stepping_batches))) if callable(schedule) else None
