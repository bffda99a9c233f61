"""A small training with LogitsStatistics on any number of ranks, run by test_logits_statistics.py."""

import faulthandler
import sys

import lightning.pytorch as pl

import pd_lightning.strategies  # noqa: F401 - registers fsdp2
from pd_lightning.callbacks import LogitsStatistics
from pd_lightning.data import TokenBlocks
from pd_lightning.loggers import MetricsCSV
from pd_lightning.module import DistillationModule
from pd_lightning.schedules import Constant
from pd_lightning.students import HFStudent
from pd_lightning.teachers import FrozenTeacher
from pd_lightning.transforms import Temperature, TopPK

TINY = {
    "model_type": "llama",
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 32,
}


def main(blocks: str, teacher: str, folder: str, strategy: str, devices: int) -> None:
    module = DistillationModule(
        HFStudent(config=TINY),
        FrozenTeacher(teacher),
        {"cut": TopPK(0.95, 50), "warm": Temperature(2.0)},
        lr=Constant(1e-3),
        kd_weight=0.5,
    )
    pl.Trainer(
        accelerator="cpu",
        devices=devices,
        strategy=strategy,
        max_steps=3,
        val_check_interval=3,
        check_val_every_n_epoch=None,
        log_every_n_steps=1,
        num_sanity_val_steps=0,
        logger=MetricsCSV(folder),
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        use_distributed_sampler=False,
        callbacks=[LogitsStatistics(every_n_steps=1)],
    ).fit(module, TokenBlocks(blocks, batch_size=8 // devices, max_val_blocks=32))


if __name__ == "__main__":
    faulthandler.dump_traceback_later(200, exit=True)
    main(*sys.argv[1:5], int(sys.argv[5]))
