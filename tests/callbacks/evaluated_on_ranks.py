"""A short training on some ranks that is evaluated and exported, or not; run by test_on_ranks.py.

python evaluated_on_ranks.py SETTINGS, a JSON object.
"""

import faulthandler
import json
import sys
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.loggers import CSVLogger
from torch.distributed.tensor import DTensor

from pd_lightning.callbacks import Evaluation, ExportHF, LMEval
from pd_lightning.data import TokenBlocks
from pd_lightning.module import DistillationModule
from pd_lightning.schedules import Constant
from pd_lightning.strategies import FSDP2Strategy
from pd_lightning.students import HFStudent
from pd_lightning.teachers import FrozenTeacher


def main(teacher: str, blocks: str, tasks: str, folder: str, devices: int, strategy: str, evaluated: bool) -> None:
    module = DistillationModule(HFStudent(model=teacher), FrozenTeacher(teacher), lr=Constant(1e-3))
    # 7 blocks in batches of 2: another number of batches on each rank.
    domains: dict[str, Any] = {"code": blocks, "texts": f"{tasks}/texts"}
    evaluation = Evaluation(domains, batch_size=2, limit=7, prompts=["def"], max_new_tokens=4)
    harness = LMEval(["choices", "texts"], tasks, every_n_steps=2, batch_size=2, limit=7)
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=devices,
        strategy=FSDP2Strategy() if strategy == "fsdp2" else strategy,
        max_steps=4,
        val_check_interval=2,
        limit_val_batches=1,
        use_distributed_sampler=False,
        callbacks=[evaluation, harness, ExportHF(every_n_steps=2, keep=1)] if evaluated else [],
        logger=CSVLogger(folder),
        log_every_n_steps=1,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
    )
    trainer.fit(module, TokenBlocks(blocks, batch_size=8 // devices, max_train_blocks=72))
    named = {name: p.detach() for name, p in module.named_parameters()}
    weights = {name: p.full_tensor() if isinstance(p, DTensor) else p for name, p in named.items()}
    if trainer.is_global_zero:
        figures = {name: float(value) for name, value in trainer.callback_metrics.items()}
        torch.save({"figures": figures, "weights": weights}, Path(folder) / "end.pt")


if __name__ == "__main__":
    faulthandler.dump_traceback_later(200, exit=True)  # a rank that waits for one that has ended says where
    main(**json.loads(sys.argv[1]))
