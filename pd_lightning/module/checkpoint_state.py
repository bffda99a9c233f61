"""What a checkpoint holds of a run beside the weights, in plain values: what resuming and exporting need."""

from typing import TYPE_CHECKING, Any

from pd_lightning.module.surroundings import tokenizer_dir
from pd_lightning.version import __version__

if TYPE_CHECKING:
    from pd_lightning.module.distillation_module import DistillationModule


def checkpoint_state(module: "DistillationModule") -> dict[str, Any]:
    """Give the state of a module that has a Trainer."""
    assert module.student is not None, "configure_model comes first"
    metrics = {name: float(value) for name, value in module.trainer.callback_metrics.items() if "/" in name}
    return {
        "version": __version__,
        "seed": module.seed,
        "num_tokens": module.num_tokens,
        "train_seconds": module.train_seconds,
        "teacher_seconds": module.teacher_seconds,
        "student_config": module.student.config(),
        "teacher": module.teacher.describe(),
        "targets": module.target_kind,
        "tokenizer": tokenizer_dir(module.trainer),
        "metrics": metrics,
        "validated_at": module.evaluation.step,
    }
