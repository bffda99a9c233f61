"""Callbacks that act after each so many optimizer steps, and at the end."""

from abc import ABC, abstractmethod
from typing import Any

import lightning.pytorch as pl


class AtSteps(pl.Callback, ABC):
    """Acts once at each step that it is due at.

    Args:
        every_n_steps: Act after each so many optimizer steps; None for at the end alone.
        at_end: Act when training ends.

    Raises:
        ValueError: If `every_n_steps` is below 1.
    """

    def __init__(self, every_n_steps: int | None, at_end: bool) -> None:
        if every_n_steps is not None and every_n_steps < 1:
            raise ValueError(
                f"every_n_steps of {type(self).__name__} must be at least 1, got {every_n_steps}. Raise it."
            )
        self.every_n_steps = every_n_steps
        self.at_end = at_end
        self._done_at: int | None = None

    @abstractmethod
    def act(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Do what the callback is for; on all ranks.

        Args:
            trainer: Its `global_step` is the step.
            pl_module: The module in training.
        """

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin to count; a run that goes on has done the step it goes on from."""
        self._done_at = trainer.global_step

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Act after each so many steps."""
        if self.every_n_steps and trainer.global_step % self.every_n_steps == 0:
            self._once(trainer, pl_module)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Act at the end."""
        if self.at_end:
            self._once(trainer, pl_module)

    def _once(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.global_step != self._done_at:
            self._done_at = trainer.global_step
            self.act(trainer, pl_module)
