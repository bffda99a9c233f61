"""The DataLoader of `TokenBlocks`."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from typing import Any

from torch.utils.data import DataLoader


class BlockLoader(DataLoader[Any]):
    """A DataLoader that starts at its first batch, not at `iter()`.

    Lightning calls `iter()` several times before it trains, partly before a checkpoint's counters are loaded:
    workers would be started in vain, and prefetch from a position that is not known yet.
    """

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        yield from super().__iter__()

    def state_dict(self) -> dict[str, Any]:
        """Nothing: the data module keeps the position. Being there, it tells Lightning that we can resume."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing to load."""


def leave_signals_to_the_trainer(worker: int) -> None:
    """Let a worker outlive signals: those that end a job, or Ctrl+C, reach all its processes.

    The training process needs its workers until the step is done. And they have its handlers, being copies of it: a
    worker must not act as if it were the training.

    Args:
        worker: Its number, which PyTorch gives.
    """
    if not hasattr(signal, "sigwaitinfo"):
        return  # macOS and Windows, where clusters are not
    for number in (signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    threading.Thread(target=_end_with_the_trainer, daemon=True).start()


def _end_with_the_trainer() -> None:
    """PyTorch ends workers by SIGTERM too: only the sender tells."""
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)
