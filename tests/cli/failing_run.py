"""What goes wrong in a run: callbacks for YAML, importable by class_path as ``failing_run.X``; and, as a script, a run
whose data worker is killed, and the same command again."""

import faulthandler
import multiprocessing
import os
import signal
import sys
import time
from typing import Any

import lightning.pytorch as pl

from pd_lightning.cli import main


class RankFails(pl.Callback):
    """At step 3 a rank raises or is killed, while others go on or hang.

    Args:
        rank: The rank that fails.
        how: `raise` or `kill`.
        others: `go on` or `hang`.
    """

    def __init__(self, rank: int, how: str, others: str = "go on") -> None:
        faulthandler.dump_traceback_later(150, exit=True)
        self.rank, self.how, self.others = rank, how, others

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step == 0:
            print(f"pid {os.getpid()} parent {os.getppid()}", flush=True)
        if trainer.global_step == 3 and trainer.global_rank == self.rank:
            if self.how == "raise":
                raise RuntimeError("this rank fails")
            os.kill(os.getpid(), signal.SIGKILL)
        if trainer.global_step == 3 and self.others == "hang":
            time.sleep(1000)


class WorkerIsKilled(pl.Callback):
    """At step 3 of a first start a data worker is killed, as the system does where memory runs out."""

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step == 3 and trainer.ckpt_path is None:
            for worker in multiprocessing.active_children():
                os.kill(worker.pid or 0, signal.SIGKILL)


if __name__ == "__main__":
    faulthandler.dump_traceback_later(100, exit=True)
    first = main(["fit", *sys.argv[1:]])
    second = main(["fit", *sys.argv[1:], "--ckpt_path=auto"])
    print("codes", first, second)
