"""Your own training step: teacher, transforms, loss and schedule are one object that it calls."""

import lightning.pytorch as pl
from project import LitGPT
from teacher import trained_teacher
from texts import Texts
from torch import Tensor

from pd_lightning.distiller import Distiller
from pd_lightning.losses import ForwardKL
from pd_lightning.schedules import WSD
from pd_lightning.teachers import FrozenTeacher
from pd_lightning.transforms import Temperature, TopPK


class DistilledGPT(LitGPT):
    def __init__(self, distiller: Distiller) -> None:
        super().__init__()
        self.distiller = distiller  # no nn.Module: its teacher is in no checkpoint and no optimizer

    def setup(self, stage: str) -> None:
        self.distiller.setup(self)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        distilled = self.distiller(batch, self.model(batch[0]))
        self.log_dict(distilled.metrics("train/"))
        return distilled.loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self.log_dict(self.distiller(batch, self.model(batch[0])).metrics("val/"))


def main(max_steps: int = 100) -> None:
    transforms = {"truncate": TopPK(p=0.95, k=50), "temperature": Temperature(2.0)}
    distiller = Distiller(FrozenTeacher(trained_teacher()), transforms, ForwardKL(), kd_weight=WSD(0.9))
    module = DistilledGPT(distiller)
    trainer = pl.Trainer(max_steps=max_steps, val_check_interval=max_steps, enable_progress_bar=False)
    trainer.fit(module, Texts())
    print({name: round(float(value), 3) for name, value in trainer.callback_metrics.items()})
    print("in the checkpoint:", ", ".join(sorted({name.split(".")[1] for name in module.state_dict()})))


if __name__ == "__main__":
    main()
