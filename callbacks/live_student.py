"""The student of a training, to be evaluated amid it and left as it was."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.strategies import FSDPStrategy
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor

from pd_lightning.callbacks.submodules import submodule
from pd_lightning.language_model import LanguageModel


def live_student(trainer: pl.Trainer, pl_module: pl.LightningModule, module: str | None, who: str) -> LanguageModel:
    """Find what maps token ids to logits.

    Args:
        trainer: Its strategy must leave the module callable.
        pl_module: The module in training.
        module: Dotted name of the submodule that does. By default the student of a DistillationModule, or the
            LightningModule itself, called on token ids.
        who: The callback that asks, for messages.

    Returns:
        The student; its weights are those in training.

    Raises:
        ValueError: If there is no such submodule, or it does not give logits.
    """
    if isinstance(trainer.strategy, FSDPStrategy):
        raise ValueError(
            f"{who} must be able to call the module outside of its steps, got the strategy FSDPStrategy. Set "
            "trainer.strategy to fsdp2, or to ddp."
        )
    student = getattr(pl_module, "student", None)
    if module is None and isinstance(student, LanguageModel):
        return student
    with evaluating(trainer, pl_module):
        found = LanguageModel(pl_module if module is None else submodule(pl_module, module, f"module of {who}"))
        _check_logits(found, pl_module, module, who)
    return found


@contextmanager
def evaluating(trainer: pl.Trainer, pl_module: pl.LightningModule) -> Iterator[None]:
    """In evaluation mode, without gradients, in the Trainer's precision; modes and random states stay as they were."""
    modes = [(module, module.training) for module in pl_module.modules()]
    try:
        with isolate_rng(), torch.no_grad(), trainer.precision_plugin.forward_context():
            pl_module.eval()
            yield
    finally:
        for module, training in modes:
            module.training = training


def logged_step(trainer: pl.Trainer) -> int:
    """The step that Lightning's own figures are logged at."""
    epoch_loop: Any = trainer.fit_loop.epoch_loop
    return int(epoch_loop._batches_that_stepped)


def _check_logits(student: LanguageModel, pl_module: pl.LightningModule, module: str | None, who: str) -> None:
    """Try the student on two tokens."""
    ids = torch.zeros(1, 2, dtype=torch.long, device=pl_module.device)
    try:
        logits: Any = student(ids)
        got = f"a {type(logits).__name__} of shape {list(getattr(logits, 'shape', []))}"
    except (AttributeError, NotImplementedError, RuntimeError, TypeError) as error:
        logits, got = None, f"{type(error).__name__}: {error}"
    if not isinstance(logits, Tensor) or logits.dim() != 3 or logits.shape[:2] != ids.shape:
        what = f"{type(pl_module).__name__}.forward" if module is None else f"The submodule {module!r}"
        raise ValueError(
            f"{what} must give logits [B, T, V] for token ids [B, T], or an output that has them as .logits, got {got}."
            f" Set module of {who} to the submodule that does, model say."
        )
