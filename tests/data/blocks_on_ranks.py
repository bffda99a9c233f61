"""Two epochs on several ranks, run by test_mix.py; each rank writes down the blocks that it saw."""

import json
import sys
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch

from pd_lightning.data import MixedIn, TokenBlocks


class Seeing(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.seen: list[int] = []

    def training_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> torch.Tensor:
        real = batch["labels"][:, 0] != -100
        self.seen += batch["input_ids"][real, 0].tolist()
        return self.weight.sum()

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def main(store: str, plain: str, batch_size: str, workers: str, output: str) -> None:
    module = Seeing()
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=2,
        strategy="ddp",
        max_epochs=2,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        use_distributed_sampler=False,
        limit_val_batches=0,
    )
    mix = {"plain": MixedIn(plain, weight=0.5)}
    trainer.fit(module, TokenBlocks(store, batch_size=int(batch_size), num_workers=int(workers), mix=mix))
    (Path(output) / f"{trainer.global_rank}.json").write_text(json.dumps(module.seen))


if __name__ == "__main__":
    main(*sys.argv[1:])
