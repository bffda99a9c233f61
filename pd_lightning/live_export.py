"""A student in training as the checkpoint that `export` would read."""

from typing import Any

import lightning.pytorch as pl
from torch.distributed.tensor import DTensor

from pd_lightning.checkpoint_state import checkpoint_state
from pd_lightning.export import PREFIX
from pd_lightning.language_model import LanguageModel
from pd_lightning.module import DistillationModule
from pd_lightning.sharded_checkpoints import whole
from pd_lightning.version import __version__

_COMPILED = "_orig_mod."


def live_checkpoint(
    trainer: pl.Trainer,
    pl_module: pl.LightningModule,
    student: LanguageModel,
    module: str | None,
    teacher: dict[str, object] | None,
) -> dict[str, Any] | None:
    """Give what an export needs of a module in training; all ranks must take part.

    Args:
        trainer: Of the training.
        pl_module: The module.
        student: The student in it.
        module: Dotted name of the submodule that it is; None for the student of a DistillationModule.
        teacher: What it is distilled from, where that is known.

    Returns:
        On the first rank the checkpoint, weights on the CPU where they were spread over ranks; None on others.
    """
    state: dict[str, Any] = pl_module.state_dict()
    if any(isinstance(tensor, DTensor) for tensor in state.values()):
        state = whole(state)
    if not trainer.is_global_zero:
        return None
    if module is None and isinstance(pl_module, DistillationModule):
        known = checkpoint_state(pl_module)
    else:
        state = _renamed(state, f"{module}." if module else "")
        known = _known(trainer, student, teacher)
    return {"state_dict": state, "global_step": trainer.global_step, "pd_lightning": known}


def _renamed(state: dict[str, Any], prefix: str) -> dict[str, Any]:
    """Give the weights of a submodule the names of a student's."""
    plain = {
        name.removeprefix(prefix).replace(_COMPILED, ""): tensor
        for name, tensor in state.items()
        if name.startswith(prefix)
    }
    return {PREFIX + name: tensor for name, tensor in plain.items()}


def _known(trainer: pl.Trainer, student: LanguageModel, teacher: dict[str, object] | None) -> dict[str, Any]:
    """What there is to say of other people's training, by the names of `checkpoint_state`."""
    return {
        "version": __version__,
        "seed": None,
        "num_tokens": None,
        "student_config": student.config(),
        "teacher": teacher,
        "tokenizer": None,
        "metrics": {name: float(value) for name, value in trainer.callback_metrics.items()},
    }
