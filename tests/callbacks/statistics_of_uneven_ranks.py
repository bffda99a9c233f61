"""Two ranks that validate 3 and 2 batches, with LogitsStatistics; run by test_logits_statistics.py."""

import faulthandler
import os
import sys
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pd_lightning.callbacks import LogitsStatistics
from pd_lightning.loggers import MetricsCSV


class Bigram(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(50, 50)

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        return F.cross_entropy(self.table(batch)[:, :-1].flatten(0, 1), batch[:, 1:].flatten())

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        self.training_step(batch, batch_idx)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def loader(batches: int) -> Any:
    return torch.utils.data.DataLoader([torch.randint(50, (16,)) for _ in range(2 * batches)], batch_size=2)


class Uneven(pl.LightningDataModule):
    def train_dataloader(self) -> Any:
        return loader(4)

    def val_dataloader(self) -> Any:
        return loader(3 - int(os.environ.get("LOCAL_RANK", "0")))


def main(folder: str) -> None:
    pl.Trainer(
        accelerator="cpu",
        devices=2,
        strategy="ddp",
        max_steps=4,
        val_check_interval=2,
        num_sanity_val_steps=0,
        logger=MetricsCSV(folder),
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        use_distributed_sampler=False,
        callbacks=[LogitsStatistics("table", every_n_steps=2)],
    ).fit(Bigram(), Uneven())


if __name__ == "__main__":
    faulthandler.dump_traceback_later(120, exit=True)
    main(sys.argv[1])
