"""A callback that lets something happen amid a training."""

import multiprocessing
import os
import signal
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, Trainer


def strike(what: str) -> None:
    """Let signals come, the folder `data` vanish, or a worker die."""
    if what == "data-vanish":
        Path("data").rename("elsewhere")
    elif what == "worker-dies":
        os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)  # type: ignore[arg-type]
    else:
        for name in what.split(","):
            os.kill(os.getpid(), signal.Signals[name])


class Strike(Callback):
    """Strikes at the first call of one hook after so many steps, which the variable STRIKE tells: hook, steps, what."""

    def _at(self, hook: str, trainer: Trainer) -> None:
        due = os.environ.get("STRIKE")
        if due and due.split()[:2] == [hook, str(trainer.global_step)]:
            del os.environ["STRIKE"]
            strike(due.split()[2])

    def on_sanity_check_start(self, trainer: Trainer, *_: Any) -> None:
        self._at("on_sanity_check_start", trainer)

    def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
        self._at("on_train_batch_start", trainer)

    def on_after_backward(self, trainer: Trainer, *_: Any) -> None:
        self._at("on_after_backward", trainer)

    def on_before_optimizer_step(self, trainer: Trainer, *_: Any) -> None:
        self._at("on_before_optimizer_step", trainer)

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        self._at("on_train_batch_end", trainer)

    def on_validation_start(self, trainer: Trainer, *_: Any) -> None:
        self._at("on_validation_start", trainer)

    def on_validation_batch_start(self, trainer: Trainer, *_: Any) -> None:
        self._at("on_validation_batch_start", trainer)

    def on_validation_end(self, trainer: Trainer, *_: Any) -> None:
        self._at("on_validation_end", trainer)

    def on_predict_batch_start(self, trainer: Trainer, *_: Any) -> None:
        self._at("on_predict_batch_start", trainer)

    def on_train_epoch_start(self, trainer: Trainer, *_: Any) -> None:
        self._at("on_train_epoch_start", trainer)

    def on_train_epoch_end(self, trainer: Trainer, *_: Any) -> None:
        self._at("on_train_epoch_end", trainer)
