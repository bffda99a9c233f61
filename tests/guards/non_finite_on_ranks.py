"""Two ranks under a strategy: on rank 1 the loss of steps 1, 3 and 4 is NaN, while all gradients are finite."""

import faulthandler
import sys
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.utils.data import DataLoader

from pd_lightning.callbacks import SkipNonFinite

faulthandler.dump_traceback_later(100, exit=True)
STRATEGY, ROOT = sys.argv[1], Path(sys.argv[2])


class Toy(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(4, 2)

    def configure_model(self) -> None:
        if STRATEGY == "fsdp":
            fully_shard(self.layer, mesh=self.device_mesh["data_parallel"])

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        loss = self.layer(batch.nan_to_num()).square().mean()
        return loss + float("nan") if batch.isnan().any() else loss

    def on_train_batch_end(self, *_: Any) -> None:
        """The weights as they are after the first step, and the same after the bad ones."""
        weight: Any = self.layer.weight.detach()
        weight = weight.full_tensor() if STRATEGY == "fsdp" else weight
        if self.trainer.global_step == 4:
            (ROOT / f"norm-{self.global_rank}").write_text(str(float(weight.norm())))

    def train_dataloader(self) -> DataLoader:
        rows = torch.randn(8, 4, generator=torch.Generator().manual_seed(self.global_rank))
        if self.global_rank == 1:
            rows[[1, 3, 4], 0] = float("nan")
        return DataLoader(rows)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=0.1)


strategy: Any = ModelParallelStrategy(data_parallel_size=2, tensor_parallel_size=1) if STRATEGY == "fsdp" else "ddp"
pl.Trainer(
    accelerator="cpu",
    devices=2,
    strategy=strategy,
    callbacks=[SkipNonFinite(patience=2)],
    default_root_dir=ROOT,
    logger=False,
    enable_checkpointing=False,
    enable_progress_bar=False,
    use_distributed_sampler=False,
    max_epochs=1,
).fit(Toy())
