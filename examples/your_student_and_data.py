"""Our LightningModule with a student of your own, any nn.Module from token ids to logits, and a DataModule of yours."""

import lightning.pytorch as pl
from project import GPT
from teacher import trained_teacher
from texts import Texts

from pd_lightning.losses import SkewedForwardKL
from pd_lightning.module import DistillationModule
from pd_lightning.schedules import WSD
from pd_lightning.teachers import FrozenTeacher


def main(max_steps: int = 100) -> None:
    pl.seed_everything(1)
    module = DistillationModule(
        student=GPT(),
        teacher=FrozenTeacher(trained_teacher()),
        loss=SkewedForwardKL(),
        kd_weight=0.9,
        lr=WSD(3e-3),
    )
    trainer = pl.Trainer(max_steps=max_steps, val_check_interval=max_steps, enable_progress_bar=False)
    trainer.fit(module, Texts())
    print({name: round(float(value), 3) for name, value in trainer.callback_metrics.items() if "val" in name})


if __name__ == "__main__":
    main()
