"""A module of somebody's, distilled by the callback on two processes, run by test_distill.py."""

import faulthandler
import sys
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pd_lightning.callbacks import Distill
from pd_lightning.data import TokenBlocks
from pd_lightning.teachers import FrozenTeacher

V = 300


class Bigram(nn.Module):
    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.embedding = nn.Embedding(V, 8)
        self.lm_head = nn.Linear(8, V)

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.lm_head(self.embedding(input_ids))


class Plain(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.model = Bigram(1)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        return F.cross_entropy(self.model(batch["input_ids"]).flatten(0, 1), batch["labels"].flatten())

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        self.training_step(batch, batch_idx)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=2.0)


def fit(blocks: str, kd_weight: float | None, devices: int = 2) -> tuple[Tensor, float]:
    module = Plain()
    distill = [] if kd_weight is None else [Distill(FrozenTeacher(Bigram(2)), "model.lm_head", kd_weight=kd_weight)]
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=devices,
        strategy="ddp" if devices > 1 else "auto",
        max_steps=16,
        val_check_interval=16,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        use_distributed_sampler=False,
        callbacks=distill,
    )
    trainer.fit(module, TokenBlocks(blocks, batch_size=4 // devices, max_train_blocks=64, max_val_blocks=8))
    trained = torch.cat([parameter.detach().flatten() for parameter in module.parameters()])
    return trained, float(trainer.callback_metrics.get("val/kd_loss", torch.tensor(float("nan"))))


if __name__ == "__main__":
    faulthandler.dump_traceback_later(240, exit=True)
    torch.set_num_threads(1)
    runs = {kd_weight: fit(sys.argv[1], kd_weight) for kd_weight in (None, 0.0, 0.9)}
    if torch.distributed.get_rank() == 0:
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()
        alone = fit(sys.argv[1], 0.9, devices=1)
        print("same", torch.equal(runs[None][0], runs[0.0][0]))
        # Blocks are of one length: the mean over ranks is that over the batch.
        print("near", torch.allclose(runs[0.9][0], alone[0], atol=1e-5))
        print("kd", runs[0.0][1], runs[0.9][1])
    else:
        torch.distributed.barrier()
