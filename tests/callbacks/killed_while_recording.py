"""A small training with a LogitsRecorder that is killed, or goes on; run by test_logits_recorder.py."""

import os
import signal
import sys
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from pd_lightning.callbacks import LogitsRecorder
from pd_lightning.data import TokenBlocks
from pd_lightning.module import DistillationModule
from pd_lightning.schedules import Constant
from pd_lightning.selection import Selection
from pd_lightning.students import HFStudent


class Kill(pl.Callback):
    def on_after_backward(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step == 7:
            os.kill(os.getpid(), signal.SIGKILL)


def main(blocks: str, folder: str, *kill: str) -> None:
    torch.manual_seed(1)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2}
    last = Path(folder) / "last.ckpt"
    pl.Trainer(
        accelerator="cpu",
        max_steps=12,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        callbacks=[
            LogitsRecorder(f"{folder}/store", selection=Selection(1.0, 5), blocks_per_chunk=5),
            ModelCheckpoint(folder, save_last=True, every_n_train_steps=3),
            *([Kill()] if kill else []),
        ],
    ).fit(
        DistillationModule(HFStudent(config={"model_type": "llama", **sizes}), lr=Constant(1e-2)),
        TokenBlocks(blocks, batch_size=4, max_train_blocks=30),
        ckpt_path=last if last.exists() else None,
        weights_only=True,
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
