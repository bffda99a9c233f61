"""A small training with Throughput on any number of ranks, by a clock of a second a step; run by test_throughput.py."""

import faulthandler
import sys
from types import SimpleNamespace
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor, nn
from torch.nn import functional as F

from pd_lightning.callbacks import Throughput, throughput
from pd_lightning.data import TokenBlocks


class Plain(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Embedding(300, 8), nn.Linear(8, 300)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        return F.cross_entropy(self.head(self.body(batch["input_ids"])).flatten(0, 1), batch["labels"].flatten())

    def configure_model(self) -> None:
        """ModelParallelStrategy asks for it; all ranks have all weights."""

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Clock(pl.Callback):
    now = 0.0

    def on_train_batch_start(self, *_: Any) -> None:
        self.now += 1.0

    def on_train_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        if trainer.is_global_zero:
            for name, value in trainer.callback_metrics.items():
                print("logged", name.removeprefix("throughput/"), float(value))


def main(blocks: str, devices: int, strategy: str) -> None:
    clock = Clock()
    throughput.time = SimpleNamespace(perf_counter=lambda: clock.now)  # type: ignore[attr-defined, assignment]
    pl.Trainer(
        accelerator="cpu",
        devices=devices,
        strategy=ModelParallelStrategy(1, devices) if strategy == "tensor_parallel" else strategy,
        max_steps=4,
        log_every_n_steps=2,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        use_distributed_sampler=False,
        limit_val_batches=0,
        callbacks=[clock, Throughput()],
    ).fit(Plain(), TokenBlocks(blocks, batch_size=4))


if __name__ == "__main__":
    faulthandler.dump_traceback_later(100, exit=True)
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3])
