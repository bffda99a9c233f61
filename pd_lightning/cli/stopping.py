"""Ctrl+C, SIGTERM and the signal of a SLURM job that is about to be pre-empted: a training ends between two steps.

Lightning acts on a signal wherever it comes: amid an accumulation, a validation, even an optimizer's step, and on the
rank that heard of it alone. Here a signal is only noted, all ranks agree at the end of a step, save and leave.
"""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType
from typing import Any

import torch
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from pd_lightning.cli.errors import Stopped

_PATIENCE = b"\npd-lightning: interrupted, will stop after this step. Ctrl+C once more stops at once.\n"


class StopBetweenSteps(Callback):
    """Ends a training with a checkpoint when a signal asks for it; what trains nothing ends at once.

    Args:
        path: The checkpoint to write where no ``ModelCheckpoint`` keeps a last one; None to write none.
    """

    def __init__(self, path: str | None) -> None:
        self._path = path
        self._received = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the signals, also one that Lightning has noted since it started."""
        connector = trainer._signal_connector
        self._received, connector.received_sigterm = int(connector.received_sigterm and signal.SIGTERM), False
        interrupt = [signal.SIGINT] if signal.getsignal(signal.SIGINT) is signal.default_int_handler else []
        for number in [signal.SIGTERM, *interrupt, *_requeue_signals(trainer)]:
            _take(number, self._note)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Stop after an optimizer step, where all ranks know of a signal that one of them got."""
        stepped = not trainer.fit_loop._should_accumulate()
        if stepped and trainer.strategy.reduce_boolean_decision(self._received > 0, all=False):
            self._stop(trainer)

    def on_validation_batch_end(self, trainer: Trainer, *_: Any, **__: Any) -> None:
        """Stop amid a validation, which may be long. Several ranks may have different numbers of batches: they wait."""
        if self._received and trainer.world_size == 1 and not trainer.sanity_checking:
            self._stop(trainer)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """End a validation at once that is no part of a training."""
        if trainer.state.fn != "fit":
            _take(signal.SIGTERM, _leave)

    on_test_start = on_validation_start

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """End a recording at once: what it has written stays."""
        _take(signal.SIGTERM, _leave)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT:
            signal.signal(number, signal.default_int_handler)
            os.write(2, _PATIENCE)  # print may not be entered twice, and a handler can come amid a print
        self._received = self._received or number

    def _stop(self, trainer: Trainer) -> None:
        noted = torch.tensor(self._received, device=trainer.strategy.root_device)
        number = signal.Signals(int(trainer.strategy.all_gather(noted).max()))
        if number in _requeue_signals(trainer):
            saved: str | None = trainer._checkpoint_connector.hpc_save_path(trainer.default_root_dir)
            trainer._signal_connector._slurm_sigusr_handler_fn(number, None)  # type: ignore[arg-type]
        else:
            saved = _save_last(trainer, self._path)
        kept = "nothing was saved, since trainer.enable_checkpointing is false"
        if saved is not None:
            kept = f"{saved} holds it. Go on with the same command and --ckpt_path auto"
        message = f"stopped by {number.name} after step {trainer.global_step}: {kept}."
        raise Stopped(number, message if trainer.is_global_zero else None)


def _take(number: int, handler: Any) -> None:
    """Handle a signal; when a Trainer is done, Lightning puts all handlers back that it has found."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(number, handler)


def _leave(number: int, frame: FrameType | None) -> None:
    raise Stopped(number, f"stopped by {signal.Signals(number).name}")


def _requeue_signals(trainer: Trainer) -> list[signal.Signals]:
    """The signal after which a SLURM job is to be queued again, if it is."""
    environment = trainer._accelerator_connector.cluster_environment
    if not isinstance(environment, SLURMEnvironment) or not environment.auto_requeue:
        return []
    return [environment.requeue_signal or signal.SIGUSR1]


def _save_last(trainer: Trainer, path: str | None) -> str | None:
    """Write the checkpoint that a training goes on from; give its path."""
    if trainer.fast_dev_run:  # type: ignore[attr-defined]
        return None
    for callback in trainer.checkpoint_callbacks:
        if isinstance(callback, ModelCheckpoint) and callback.save_last and not callback.save_weights_only:
            names = callback._monitor_candidates(trainer)
            path = callback.last_model_path or callback.format_checkpoint_name(names, callback.CHECKPOINT_NAME_LAST)
            callback.last_model_path = path
            break
    if path is not None:
        trainer.save_checkpoint(path, weights_only=False)
    return path
