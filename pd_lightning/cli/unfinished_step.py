"""What a step still had to do when its checkpoint was written: its row in the logs, and its validation.

A checkpoint from the end of a batch comes before both, and the run that goes on from it begins with the next step. So
the checkpoint holds the row and says whether validation is due, and the run that goes on does both first.
"""

from __future__ import annotations

from copy import deepcopy
from typing import Any

from lightning.fabric.utilities.apply_func import convert_tensors_to_scalars
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer

from pd_lightning.loggers import MetricsCSV

_STATE = "unfinished_step"


class UnfinishedStep(Callback):
    """Takes the CSV files back to the checkpoint when training starts, and finishes the checkpoint's step."""

    def __init__(self) -> None:
        self._step: dict[str, Any] | None = None
        self._validating_again = False

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Remember what is to be finished, and where Lightning's counters stood."""
        step = checkpoint.get(_STATE)
        self._step = None if step is None else {**step, "loops": deepcopy(checkpoint["loops"]["fit_loop"])}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Drop the rows that will be written again, then write the first of them, and validate."""
        step = self._step
        for logger in trainer.loggers:
            if isinstance(logger, MetricsCSV):
                logger.rewind(trainer.global_step if step is None else step["number"])
        if step is not None:
            _log(trainer, step)
            if step["validate"]:
                self._validate(trainer, step)
        self._step = None

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Put right what Lightning counts wrongly after the checkpoint of an end: rows, and epochs that have begun."""
        trainer.fit_loop.epoch_loop._batches_that_stepped = trainer.global_step
        epochs: Any = trainer.fit_loop.epoch_progress
        if epochs.current.started == epochs.current.processed:
            # Where it stopped at the last batch of one epoch, the next one begins uncounted; stopped at the last batch
            # of that, it would be trained twice.
            epochs.increment_ready()
            epochs.increment_started()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Remember where the step stands, if validation comes next: it may be interrupted."""
        self._step = _unfinished(trainer) if _validation_follows(trainer) else None

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Nothing is left."""
        self._step = None

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Say what is left to do; a checkpoint from amid a validation is one from before it."""
        for logger in trainer.loggers:
            if isinstance(logger, MetricsCSV):
                logger.sync()
        step = _unfinished(trainer) if _is_at_batch_end(trainer) else self._step if _is_validating(trainer) else None
        if step is not None:
            checkpoint[_STATE] = {name: value for name, value in step.items() if name != "loops"}
        elif self._validating_again:
            step = self._step  # done but for what Lightning itself does at the end of the batch
        if step is not None:
            checkpoint["loops"]["fit_loop"] = deepcopy(step["loops"])

    def finish_training(self, trainer: Trainer, model: LightningModule, datamodule: LightningDataModule | None) -> None:
        """Finish the last step, where nothing else was left to do, so that no training has started.

        Args:
            trainer: The Trainer, whose `fit` is over.
            model: What it was called with.
            datamodule: What it was called with.
        """
        step, self._step = self._step, None
        if step is None:
            return
        for logger in trainer.loggers:
            if isinstance(logger, MetricsCSV):
                logger.rewind(step["number"])
        _log(trainer, step)
        if step["validate"]:
            trainer.fit_loop.epoch_loop._batches_that_stepped = step["number"]
            trainer.validate(model, datamodule=datamodule, verbose=False)

    def _validate(self, trainer: Trainer, step: dict[str, Any]) -> None:
        """Validate as at the end of the step's batch, as to the numbers that are logged with it."""
        loop, epochs = trainer.fit_loop.epoch_loop, trainer.fit_loop.epoch_progress.current
        epoch, epochs.completed, loop._batches_that_stepped = epochs.completed, step["epoch"], step["number"]
        loop.val_loop.restarting = False  # from its first batch
        self._validating_again, trainer.validating = True, True
        try:
            loop.val_loop.run()
        finally:
            self._validating_again, trainer.training = False, True
            epochs.completed = epoch


def _unfinished(trainer: Trainer) -> dict[str, Any] | None:
    """What is left to do at the end of a batch, None amid an accumulation: its batches will be trained on again."""
    if trainer.fit_loop._should_accumulate():
        return None
    connector = trainer._logger_connector
    row = convert_tensors_to_scalars(connector.metrics["log"]) if connector.should_update_logs else None
    return {
        "number": trainer.global_step - 1,
        "epoch": trainer.current_epoch,
        "row": row,
        "validate": _validation_follows(trainer),
        "loops": trainer.fit_loop.state_dict(),
    }


def _log(trainer: Trainer, step: dict[str, Any]) -> None:
    if step["row"]:
        for logger in trainer.loggers:
            logger.log_metrics({**step["row"], "epoch": step["epoch"]}, step=step["number"])


def _is_at_batch_end(trainer: Trainer) -> bool:
    batches: Any = trainer.fit_loop.epoch_loop.batch_progress.current
    return trainer.training and batches.processed == batches.completed + 1


def _is_validating(trainer: Trainer) -> bool:
    """Whether a validation has begun and has not ended."""
    batches: Any = trainer.fit_loop.epoch_loop.val_loop.batch_progress.current
    return trainer.validating and batches.processed == batches.completed + 1


def _validation_follows(trainer: Trainer) -> bool:
    fetcher = trainer.fit_loop._data_fetcher
    return fetcher is not None and trainer.fit_loop.epoch_loop._should_check_val_fx(fetcher)
