"""What a trial leaves when it ends."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pd_lightning.study import prepare as preparing
from pd_lightning.study import trial
from pd_lightning.study.points import DesignSpace
from pd_lightning.study.roster import Roster
from pd_lightning.study.settings import Step, StudySettings
from pd_lightning.study.trial import Lock, TrialError, last_words, run_trial

Ask = Callable[..., StudySettings]


def test_an_error_of_an_earlier_start_is_not_told_again(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    study = ask()
    space = DesignSpace(study)
    run = Roster(study, space).runs([space.point({})], lambda _: None)[0]
    log = Path("out", run.folder, "fit.log")
    log.parent.mkdir(parents=True)
    log.write_text("pd-lightning: error: of yesterday\n")

    def killed(arguments: list[str], log: Path, *_: Any) -> int:
        with log.open("a") as output:
            output.write("step 12\n")
        return -9

    monkeypatch.setattr(trial, "command", killed)
    with pytest.raises(TrialError, match=r"^killed by signal 9, after\nstep 12$"):
        run_trial(Path("out"), run, Lock(log.parent / ".lock"), None)


def test_last_words_are_the_error_or_the_last_lines(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"0%\r50%\r\npd-lightning: error: \x1b[31mno\x1b[0m room.\nMake some.\n")
    assert last_words(log, 0, 1) == "no room.\nMake some."
    log.write_bytes(b"\xff\n" + b"line\n" * 20)
    assert last_words(log, 0, 3).splitlines() == ["exit code 3, after"] + ["line"] * 12


def test_a_command_before_the_trials_outlives_its_worker_with_the_lock(
    ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a second worker would run it beside the first one's, in the same folders."""
    held: list[bool] = []
    start = subprocess.Popen

    def popen(_: list[str], **options: Any) -> Any:
        (descriptor,) = options["pass_fds"]
        child = start([sys.executable, "-c", "import time; time.sleep(60)"], pass_fds=(descriptor,))
        os.close(descriptor)  # as if the worker were killed
        held.append(not Lock(Path("out/prepare/.lock")).take(wait=False))
        child.kill()
        raise TrialError(f"killed: {child.wait()}")

    monkeypatch.setattr(trial.subprocess, "Popen", popen)
    with pytest.raises((TrialError, OSError)):
        preparing.prepare(ask(prepare={"blocks": Step("tokenize", [])}), lambda _: None)
    assert held == [True]


def test_a_system_without_file_locks_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fcntl", None)
    monkeypatch.setattr(sys, "platform", "win32")
    with pytest.raises(ModuleNotFoundError, match="study must run where files can be locked by flock, got win32"):
        Lock(tmp_path / ".lock")
