"""One trial: an ordinary `pd-lightning fit` in its run folder, in a process of its own."""

from __future__ import annotations

import math
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path
from typing import Any

from pd_lightning.composition.yaml_files import as_yaml
from pd_lightning.store.durable import write_durably
from pd_lightning.store.json_files import read_json
from pd_lightning.study.roster import Run, with_folder

SUMMARY = "summary.json"
TRIAL = "trial.yaml"
LOG = "fit.log"
_LAST_LINES = 12
_STOPPED = {128 + number: number for number in (signal.SIGINT, signal.SIGTERM)}
_ERROR = "pd-lightning: error: "
_ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class TrialError(Exception):
    """A trial ended without a result; the message says why."""


class MissingFigureError(TrialError):
    """A trial has no such figure as the study compares."""


class TrialStoppedError(ValueError):
    """A signal stopped a training between two steps: it goes on when it is started again."""


class Lock:
    """A lock on a file, held by this process and the children it is passed to, until the last of them ends.

    Args:
        path: The file; it is made, and stays.

    Raises:
        ModuleNotFoundError: This system has no flock.
    """

    def __init__(self, path: Path) -> None:
        _file_locks()
        path.parent.mkdir(parents=True, exist_ok=True)
        self.descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)

    def take(self, *, wait: bool) -> bool:
        """Lock the file.

        Args:
            wait: Until it is free; otherwise give up at once.

        Returns:
            Whether it is locked now.
        """
        fcntl = _file_locks()
        try:
            fcntl.flock(self.descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            return False
        return True

    def release(self) -> None:
        """Let others have it."""
        os.close(self.descriptor)

    def __enter__(self) -> Lock:
        self.take(wait=True)
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def _file_locks() -> Any:
    try:
        return import_module("fcntl")
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"study must run where files can be locked by flock, got {sys.platform}. Run it on Linux, macOS or WSL."
        ) from error


def run_trial(study_folder: Path, run: Run, lock: Lock, threads: int | None) -> dict[str, Any]:
    """Train what a run asks for, or go on where it stopped.

    Args:
        study_folder: The study's folder.
        run: The run.
        lock: The lock of its folder, held. The training holds it too: it may outlive a worker that is killed.
        threads: CPU threads of the training; None leaves them to torch.

    Returns:
        Its `summary.json`.

    Raises:
        TrialError: The training ended with an error, or with a loss that is not finite.
        TrialStoppedError: A signal stopped it.
    """
    folder = study_folder / run.folder
    settings = with_folder(run.settings, str(folder))
    write_durably(folder / TRIAL, as_yaml(settings).encode())
    if not (folder / SUMMARY).exists():
        before = size_of(folder / LOG)
        code = command(["fit", "--config", str(folder / TRIAL), "--ckpt_path", "auto"], folder / LOG, threads, lock)
        if code in _STOPPED:
            raise TrialStoppedError(
                f"The training of {run.name}, seed {run.seed}, must run to its end, got {_STOPPED[code].name}. Give "
                "the same command again: it goes on from there."
            )
        if code != 0 or not (folder / SUMMARY).exists():
            raise TrialError(last_words(folder / LOG, before, code))
    summary: dict[str, Any] = read_json(folder / SUMMARY)
    if summary["validated_step"] != summary["steps"]:
        raise TrialError(
            f"The run must end with a validation, got {summary['steps']} steps and a last validation at "
            f"{summary['validated_step']}. Make trainer.max_steps a multiple of trainer.val_check_interval."
        )
    return summary


def metric(summary: dict[str, Any], name: str) -> float:
    """The figure that a study compares.

    Args:
        summary: Of a run.
        name: The figure.

    Raises:
        MissingFigureError: There is none.
        TrialError: It is not finite.
    """
    value = summary["metrics"].get(name, "missing")
    if value == "missing":
        raise MissingFigureError(missing(name, summary["metrics"]))
    if value is None or not math.isfinite(value):
        raise TrialError(f"{name} is not finite at the end: the training diverged.")
    return float(value)


def missing(name: str, figures: Iterable[str]) -> str:
    """Say that there is no such figure.

    Args:
        name: Of the figure.
        figures: Those that there are.
    """
    return (
        f"metric must be one of the validation figures {', '.join(figures)}, got {name}. Mend it in the study's YAML."
    )


def command(arguments: list[str], log: Path, threads: int | None, lock: Lock | None = None) -> int:
    """Run a command of pd-lightning in a process of its own.

    Args:
        arguments: The command and its arguments.
        log: Its output is added to this file.
        threads: CPU threads; None leaves them to torch.
        lock: A lock that it holds as well.

    Returns:
        Its exit code.
    """
    environment = dict(os.environ)
    if threads is not None:
        environment["OMP_NUM_THREADS"] = str(threads)
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "pd_lightning", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            pass_fds=() if lock is None else (lock.descriptor,),
        )
        try:
            return process.wait()
        except KeyboardInterrupt:
            process.wait()  # Ctrl+C reached it too: a training ends between two steps, with a checkpoint
            raise


def size_of(log: Path) -> int:
    """Bytes of a log before a command adds to it."""
    return log.stat().st_size if log.exists() else 0


def last_words(log: Path, before: int, code: int) -> str:
    """How a command ended: its error, or its exit code with the last lines of what it wrote.

    Args:
        log: The file.
        before: Its size when the command started: what stands there is of others.
        code: The exit code.
    """
    text = log.read_bytes()[before:].decode(errors="replace")
    lines = _ANSI.sub("", text).replace("\r", "\n").splitlines()
    written = [line.rstrip() for line in lines if line.strip()]
    starts = [i for i, line in enumerate(written) if line.startswith(_ERROR)]
    if starts:
        return "\n".join(written[starts[-1] :]).removeprefix(_ERROR)
    ended = f"killed by signal {-code}" if code < 0 else f"exit code {code}"
    return "\n".join([f"{ended}, after", *written[-_LAST_LINES:]])
