"""One step over eight blocks with unequal masks, on some ranks and in some micro-batches; saves its gradients.

Run by tests/test_distributed.py: python gradients_of_a_step.py TEACHER DEVICES MICRO_BATCHES OUTPUT STRATEGY
"""

import json
import sys
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.plugins.precision import DoublePrecision
from torch.distributed.tensor import DTensor

from pd_lightning.module import DistillationModule
from pd_lightning.schedules import Constant
from pd_lightning.strategies import FSDP2Strategy
from pd_lightning.students import HFStudent
from pd_lightning.teachers import FrozenTeacher
from pd_lightning.transforms import Temperature, TopPK
from pd_lightning.weightings import MaskFirstTokens, StudentEntropy, TeacherEntropy

BLOCKS, T, V = 8, 16, 300
LABELLED = [16, 3, 9, 0, 1, 12, 16, 5]
STUDENT = {
    "model_type": "llama",
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "vocab_size": V,
    "initializer_range": 0.2,
}


class Uneven(pl.LightningDataModule):
    """Blocks of which 0 to 16 positions have labels."""

    def __init__(self, batch_size: int) -> None:
        super().__init__()
        self.batch_size = batch_size

    def train_dataloader(self) -> Any:
        ids = torch.randint(0, V, (BLOCKS, T + 1), generator=torch.Generator().manual_seed(5))
        labels = ids[:, 1:].clone()
        for row, count in enumerate(LABELLED):
            labels[row, count:] = -100
        items = [{"input_ids": ids[row, :-1], "labels": labels[row]} for row in range(BLOCKS)]
        return torch.utils.data.DataLoader(items, batch_size=self.batch_size)


class Saved(DistillationModule):
    """Saves gradients and losses as the optimizer meets them."""

    output = ""

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        super().on_before_optimizer_step(optimizer)
        found = {name: p.grad for name, p in self.named_parameters()}
        gradients = {name: g.full_tensor() if isinstance(g, DTensor) else g for name, g in found.items()}
        if self.global_rank == 0:
            logged = {name: value.cpu() for name, value in self.trainer.logged_metrics.items()}
            torch.save({"gradients": gradients, "logged": logged}, self.output)


def strategy_of(name: str) -> Any:
    """The settings of FSDP2 as a JSON object, or the name of another strategy."""
    return FSDP2Strategy(**json.loads(name)) if name.startswith("{") else name


def main(teacher: str, devices: int, micro_batches: int, output: str, strategy: str) -> None:
    module = Saved(
        HFStudent(config=STUDENT),
        FrozenTeacher(teacher),
        transforms={"truncate": TopPK(0.9, 20), "temperature": Temperature(2.0)},
        weighting={"surest": TeacherEntropy(0.25), "unsure": StudentEntropy(0.5), "first": MaskFirstTokens(1)},
        kd_weight=Constant(0.6),
    )
    module.output = output
    pl.Trainer(
        accelerator="cpu",
        devices=devices,
        strategy=strategy_of(strategy),
        accumulate_grad_batches=micro_batches,
        max_steps=1,
        plugins=[DoublePrecision()],  # Lightning refuses 64-true by name with FSDP2
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    ).fit(module, Uneven(BLOCKS // devices // micro_batches))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4], sys.argv[5])
