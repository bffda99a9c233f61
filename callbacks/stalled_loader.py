"""A watch on the data loader: it says when training waits for a batch that does not come."""

import faulthandler
import os
import sys
import threading
import time
import traceback
import warnings
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.profilers import Profiler

# What Lightning's loop tells the profiler of around each fetch of a training batch, and of nothing else: validation,
# checkpoints and computation are no waiting for data.
FETCH = "[_TrainingEpochLoop].train_dataloader_next"
_INNERMOST = 3


class StalledLoader(pl.Callback):
    """Warns when the next training batch has not come for `timeout` seconds, and may end the process.

    Logged as `train/data_wait_fraction`: the share of time, validation left out, that the training process has waited
    for batches since the last logged step. On a GPU some of it may be hidden behind computation. It costs two readings
    of a clock a batch, and a thread that sleeps.

    Args:
        timeout: Seconds without a batch after which it warns, and warns again after as many more. The start of workers
            and the first batch of an epoch count, too.
        stop: Whether to end the process then, with code 1 and the stacks of all threads: what it waits in cannot be
            interrupted in general. Launchers end the other ranks.

    Raises:
        ValueError: If `timeout` is not positive.
    """

    def __init__(self, timeout: float = 300.0, stop: bool = False) -> None:
        if timeout <= 0:
            raise ValueError(f"timeout must be above 0 seconds, got {timeout}. Raise timeout of StalledLoader.")
        self.timeout, self.stop = timeout, stop
        self._waiting_since: float | None = None
        self._waited = self._mark = self._validation_since = 0.0
        self._step = 0
        self._ended = threading.Event()
        self._fetches: _Fetches | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin to watch."""
        self._waited, self._mark, self._step = 0.0, time.monotonic(), trainer.global_step
        self._waiting_since, self._ended = None, threading.Event()
        profiler: Any = trainer.profiler  # type: ignore[attr-defined]
        self._fetches = trainer.profiler = _Fetches(profiler, self)  # type: ignore[attr-defined]
        arguments = (trainer, self._ended, threading.get_ident())
        threading.Thread(target=self._watch, args=arguments, name="stalled-loader", daemon=True).start()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log the share; start it anew after a logged step."""
        now = time.monotonic()
        # On the CPU: copying it to the device would wait for that.
        pl_module.log("train/data_wait_fraction", torch.tensor(self._waited / max(now - self._mark, 1e-9)))
        every = trainer.log_every_n_steps or 50  # type: ignore[attr-defined]
        if trainer.global_step > self._step and trainer.global_step % every == 0:
            self._waited, self._mark = 0.0, now
        self._step = trainer.global_step

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop the clock of the share."""
        self._validation_since = time.monotonic()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Let it go on."""
        self._mark += time.monotonic() - self._validation_since

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Watch no more."""
        self._end(trainer)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Watch no more."""
        self._end(trainer)

    def fetch_begins(self) -> None:
        """Training begins to wait."""
        self._waiting_since = time.monotonic()

    def fetch_ends(self) -> None:
        """The batch is there, or the epoch has ended."""
        if self._waiting_since is not None:
            self._waited += time.monotonic() - self._waiting_since
            self._waiting_since = None

    def _end(self, trainer: pl.Trainer) -> None:
        self._ended.set()
        self._waiting_since = None
        if self._fetches is not None:
            trainer.profiler, self._fetches = self._fetches.inner, None  # type: ignore[attr-defined]

    def _watch(self, trainer: pl.Trainer, ended: threading.Event, waiting_thread: int) -> None:
        told = (0.0, 0)
        while not ended.wait(min(1.0, self.timeout / 10)):
            since = self._waiting_since
            if since is None:
                continue
            times = int((time.monotonic() - since) / self.timeout)
            if times and (since, times) != told:
                told = (since, times)
                self._tell(trainer, time.monotonic() - since, waiting_thread)

    def _tell(self, trainer: pl.Trainer, seconds: float, waiting_thread: int) -> None:
        message = (
            f"StalledLoader: on rank {trainer.global_rank} the batch of step {trainer.global_step} has not come for "
            f"{seconds:.1f} s. Training waits for {_described(trainer.train_dataloader)} in {_place(waiting_thread)}."
        )
        if not self.stop:
            warnings.warn(message, stacklevel=2)
            return
        faulthandler.dump_traceback(sys.stderr, all_threads=True)
        print(f"pd-lightning: error: {message} The process ends: stop of StalledLoader is true.", file=sys.stderr)
        sys.stderr.flush()
        os._exit(1)


class _Fetches(Profiler):
    """The Trainer's profiler, which also tells a watch of the fetches."""

    def __init__(self, inner: Profiler, watch: StalledLoader) -> None:
        super().__init__()
        self.inner, self._watch = inner, watch

    def start(self, action_name: str) -> None:
        if action_name == FETCH:
            self._watch.fetch_begins()
        self.inner.start(action_name)

    def stop(self, action_name: str) -> None:
        self.inner.stop(action_name)
        if action_name == FETCH:
            self._watch.fetch_ends()


def _described(loader: Any) -> str:
    workers = getattr(loader, "num_workers", None)
    return type(loader).__name__ + ("" if workers is None else f" with num_workers {workers}")


def _place(thread: int) -> str:
    """The innermost calls of a thread, the last first."""
    frame = sys._current_frames().get(thread)
    calls = traceback.extract_stack(frame)[-_INNERMOST:] if frame is not None else []
    return ", called from ".join(f"{call.filename}:{call.lineno} {call.name}" for call in reversed(calls))
