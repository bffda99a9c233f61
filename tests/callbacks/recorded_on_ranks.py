"""A small training on several ranks with a LogitsRecorder, run by test_logits_recorder.py; stopped, then resumed."""

import sys
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pd_lightning.callbacks import LogitsRecorder
from pd_lightning.data import TokenBlocks
from pd_lightning.selection import Selection


class Bigram(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(300, 300)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        logits = self.table(batch["input_ids"])
        return F.cross_entropy(logits.flatten(0, 1), batch["labels"].flatten())

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Stop(pl.Callback):
    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step == 3:
            trainer.save_checkpoint(Path(sys.argv[2]).with_name("3.ckpt"))


def main(blocks: str, store: str, devices: int, resumed: bool) -> None:
    torch.manual_seed(1)
    recorder = LogitsRecorder(store, "table", selection=Selection(1.0, 5), blocks_per_chunk=4)
    if not resumed:
        recorder.on_fit_end = lambda *_: None  # type: ignore[method-assign] - as if it had been killed
    pl.Trainer(
        accelerator="cpu",
        devices=devices,
        strategy="ddp",
        max_steps=8 if resumed else 6,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        use_distributed_sampler=False,
        limit_val_batches=0,
        callbacks=[recorder, Stop()],
    ).fit(
        Bigram(),
        TokenBlocks(blocks, batch_size=2, max_train_blocks=13),
        ckpt_path=Path(store).with_name("3.ckpt") if resumed else None,
        weights_only=True,
    )


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4] == "1")
