"""A short run on some ranks, with a checkpoint on the way; saves what was logged and what was learnt.

Run by tests/test_distributed.py: python distributed_run.py SETTINGS, a JSON object.
"""

import faulthandler
import json
import sys
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from gradients_of_a_step import STUDENT, strategy_of
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins.precision import DoublePrecision
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from pd_lightning.callbacks import LogitsRecorder
from pd_lightning.cli.runs import RunCheckpoints
from pd_lightning.data import TokenBlocks
from pd_lightning.module import DistillationModule
from pd_lightning.muon import MuonWithAdamW
from pd_lightning.schedules import Constant
from pd_lightning.selection import Selection
from pd_lightning.students import HFStudent
from pd_lightning.teachers import FrozenTeacher


class Notes(pl.Callback):
    """Keeps the loss and the norm of the gradients of each step, and at the end what was held."""

    def __init__(self) -> None:
        self.steps: dict[str, list[float]] = {"loss": [], "grad_norm": []}

    def on_train_start(self, trainer: pl.Trainer, *_: Any) -> None:
        self.done = trainer.global_step

    def on_train_end(self, trainer: pl.Trainer, *_: Any) -> None:
        self.bytes = sizes(trainer)

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step > self.done:  # the last micro-batch of a step
            self.done = trainer.global_step
            for name, values in self.steps.items():
                values.append(float(trainer.callback_metrics[f"train/{name}"]))


def sizes(trainer: pl.Trainer) -> dict[str, int]:
    """Bytes, over all ranks, of what is trained, of optimizer states, and of what DDP sums."""
    states = [value for state in trainer.optimizers[0].state.values() for value in state.values()]
    wrapped: Any = trainer.strategy.model
    summed = wrapped._get_ddp_logging_data() if isinstance(wrapped, DistributedDataParallel) else {}
    return {
        "parameters": sum(p.numel() * p.itemsize for p in wrapped.parameters()),
        "states": sum(value.numel() * value.itemsize for value in states),
        "buckets": sum(int(size) for size in str(summed.get("bucket_sizes", "0")).split(",")),
    }


def main(
    teacher: str,
    blocks: str,
    folder: str,
    devices: int,
    strategy: str,
    ckpt_path: str | None = None,
    steps: int = 20,
    config: dict[str, Any] | None = None,
    micro_batches: int = 1,
    store: str | None = None,
    precision: str | None = None,
    muon: bool = False,
    **options: Any,
) -> None:
    Path(folder).mkdir(exist_ok=True)
    optimizer = MuonWithAdamW if muon else None
    student = HFStudent(config={**STUDENT, **(config or {})}, **options)
    notes, module = Notes(), DistillationModule(student, FrozenTeacher(teacher), lr=Constant(1e-2), optimizer=optimizer)
    recorders = [LogitsRecorder(store, selection=Selection(1.0, 5), blocks_per_chunk=4)] if store else []
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=devices,
        strategy=strategy_of(strategy),
        precision=precision,
        plugins=None if precision else [DoublePrecision()],  # Lightning refuses 64-true by name with FSDP2
        max_steps=steps,
        accumulate_grad_batches=micro_batches,
        log_every_n_steps=1,
        gradient_clip_val=0.5,
        limit_val_batches=0,
        use_distributed_sampler=False,
        callbacks=[notes, *recorders, ModelCheckpoint(folder, "{step}", every_n_train_steps=13, save_top_k=-1)],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
    )
    trainer.strategy.checkpoint_io = RunCheckpoints()
    trainer.fit(
        module,
        TokenBlocks(blocks, batch_size=8 // devices // micro_batches, max_train_blocks=72),
        ckpt_path=ckpt_path,
        weights_only=True,
    )
    named = {name: p.detach() for name, p in module.named_parameters()}
    weights = {name: p.full_tensor() if isinstance(p, DTensor) else p for name, p in named.items()}
    if trainer.is_global_zero:
        torch.save({"steps": notes.steps, "weights": weights, "bytes": notes.bytes}, Path(folder) / "end.pt")


if __name__ == "__main__":
    faulthandler.dump_traceback_later(100, exit=True)  # a rank that waits for one that has ended says where
    main(**json.loads(sys.argv[1]))
