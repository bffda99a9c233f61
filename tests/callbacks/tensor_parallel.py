"""An evaluation on some ranks of tensor parallelism, which all see the same data; run by test_on_ranks.py.

python tensor_parallel.py SETTINGS, a JSON object.
"""

import faulthandler
import json
import sys
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor, nn

from pd_lightning.callbacks import Evaluation
from pd_lightning.data import TokenBlocks


class Plain(pl.LightningModule):
    """Other people's module; whole on each rank, for what is split does not matter here."""

    def configure_model(self) -> None:
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Embedding(300, 8), nn.Linear(8, 300))

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.net(input_ids)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        pass


def main(blocks: str, texts: str, folder: str, devices: int) -> None:
    strategy: Any = "auto" if devices == 1 else ModelParallelStrategy(1, tensor_parallel_size=devices)
    # An odd number of batches.
    domains: dict[str, Any] = {"code": blocks, "texts": texts}
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=devices,
        strategy=strategy,
        limit_val_batches=1,
        use_distributed_sampler=False,
        callbacks=[Evaluation(domains, batch_size=2, limit=5, context_length=16)],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    (found,) = trainer.validate(Plain(), TokenBlocks(blocks), verbose=False)
    if trainer.is_global_zero:
        torch.save(dict(found), Path(folder) / f"{devices}.pt")


if __name__ == "__main__":
    faulthandler.dump_traceback_later(100, exit=True)  # a rank that waits for one that has ended says where
    main(**json.loads(sys.argv[1]))
