"""A litgpt GPT as student: any nn.Module that gives logits will do. Needs `pip install litgpt`."""

import lightning.pytorch as pl
from litgpt.config import Config
from litgpt.model import GPT
from project import BLOCK_SIZE, VOCAB_SIZE
from teacher import trained_teacher
from texts import Texts

from pd_lightning.module import DistillationModule
from pd_lightning.schedules import WSD
from pd_lightning.teachers import FrozenTeacher


def main(max_steps: int = 100) -> None:
    pl.seed_everything(1)
    config = Config(n_layer=2, n_head=4, n_embd=32, block_size=BLOCK_SIZE, padded_vocab_size=VOCAB_SIZE)
    module = DistillationModule(GPT(config), FrozenTeacher(trained_teacher()), kd_weight=0.9, lr=WSD(3e-3))
    trainer = pl.Trainer(max_steps=max_steps, val_check_interval=max_steps, enable_progress_bar=False)
    trainer.fit(module, Texts())
    print({name: round(float(value), 3) for name, value in trainer.callback_metrics.items() if "val" in name})


if __name__ == "__main__":
    main()
