"""Students of any architecture that transformers knows, made from a few fields of its configuration."""

import lightning.pytorch as pl
from project import VOCAB_SIZE
from teacher import trained_teacher
from texts import Texts

from pd_lightning.module import DistillationModule
from pd_lightning.schedules import WSD
from pd_lightning.students import HFStudent
from pd_lightning.teachers import FrozenTeacher

SIZES = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 32,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
}


def main(max_steps: int = 100) -> None:
    for model_type in ("llama", "qwen3", "gemma3_text"):
        pl.seed_everything(1)
        student = HFStudent({"model_type": model_type, **SIZES})
        module = DistillationModule(student, FrozenTeacher(trained_teacher()), kd_weight=0.9, lr=WSD(3e-3))
        trainer = pl.Trainer(max_steps=max_steps, val_check_interval=max_steps, enable_progress_bar=False)
        trainer.fit(module, Texts())
        metrics = trainer.callback_metrics
        print(model_type, {name: round(float(metrics[name]), 3) for name in ("val/lm_loss", "val/kd_loss")})


if __name__ == "__main__":
    main()
