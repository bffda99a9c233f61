"""What a training distils with, wherever it is held."""

from collections.abc import Iterable
from typing import Any, Protocol

import lightning.pytorch as pl
from torch import nn

from pd_lightning.objective import Objective
from pd_lightning.schedules import Schedule
from pd_lightning.teachers import Teacher


class Distilling(Protocol):
    """Holds teacher and objective: a DistillationModule, or a Distiller."""

    teacher: Teacher
    objective: Objective
    kd_weight: Schedule


def distilling(trainer: pl.Trainer, pl_module: pl.LightningModule) -> Distilling | None:
    """Find what a training distils with.

    Args:
        trainer: Its callbacks may have it: Distill.
        pl_module: May be it, a DistillationModule, or have it as an attribute, a Distiller.

    Returns:
        The first of these, or None where the training does not distil.
    """
    callbacks: Iterable[Any] = trainer.callbacks  # type: ignore[attr-defined]
    held = [value for one in (pl_module, *callbacks) for value in vars(one).values()]
    return next((one for one in (pl_module, *held) if _distils(one)), None)


def live_models(teacher: Teacher | None) -> list[nn.Module]:
    """Give the models that a live teacher runs: those of an ensemble, or its own.

    Args:
        teacher: Any teacher, or none.
    """
    members = [*getattr(teacher, "teachers", {}).values(), teacher]
    models = (getattr(member, "model", None) for member in members)
    return [model for model in models if isinstance(model, nn.Module)]


def _distils(one: Any) -> bool:
    return isinstance(getattr(one, "teacher", None), Teacher) and isinstance(getattr(one, "objective", None), Objective)
