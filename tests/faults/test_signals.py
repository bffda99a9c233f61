"""SIGTERM, Ctrl+C and SLURM's pre-emption: a clear end, and a run that goes on as if nothing had happened."""

import os
import signal
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from outcomes import logs, training
from processes import Forked, differences

from pd_lightning.cli import main

Run = Callable[..., int]
CODES = {"SIGTERM": 143, "SIGINT": 130, "SIGUSR1": 138}


def test_a_signal_at_any_moment(fit: Run, expected: Any, capsys: pytest.CaptureFixture) -> None:
    """Amid an accumulation, a validation, an optimizer step, at an epoch's end, and after the very last step."""
    for strike, stopped in (
        ("on_after_backward 1 SIGTERM", 2),
        ("on_validation_batch_start 2 SIGINT", 2),
        ("on_validation_start 2 SIGTERM", 2),
        ("on_before_optimizer_step 3 SIGTERM", 4),
        ("on_validation_batch_start 4 SIGTERM", 4),
        ("on_train_batch_end 4 SIGTERM", 5),
        ("on_train_batch_start 5 SIGINT", 6),
        ("on_validation_end 7 SIGTERM", 8),
        ("on_before_optimizer_step 9 SIGTERM", 10),
    ):
        name = strike.split()[2]
        assert fit(strike) == CODES[name], strike
        told = capsys.readouterr().err
        assert f"pd-lightning: stopped by {name} after step {stopped}: run/checkpoints/last.ckpt holds it." in told
        assert "Go on with the same command and --ckpt_path auto.\n" in told
        assert "Traceback" not in told
    assert fit() == 0
    assert not differences(training(Path("run")), expected)


def test_the_last_validation_is_cut_off(fit: Run) -> None:
    """Then no step is left to train, and yet a row and a validation are."""
    assert fit("", "--trainer.max_steps=4") == 0
    whole = logs(Path("run"))
    Path("run").rename("whole")
    assert fit("on_validation_batch_start 4 SIGTERM", "--trainer.max_steps=4") == 143
    assert ("3", "val/lm_loss") not in logs(Path("run"))
    assert fit("", "--trainer.max_steps=4") == 0
    assert not differences(logs(Path("run")), whole)


def test_every_epoch_is_cut_off_at_its_last_batch(fit: Run) -> None:
    epochs = ("--trainer.max_steps=-1", "--trainer.max_epochs=4")
    assert fit("", *epochs) == 0
    whole = training(Path("run"))
    Path("run").rename("whole")
    for step in (4, 9, 14):
        assert fit(f"on_before_optimizer_step {step} SIGTERM", *epochs) == 143
    assert fit("", *epochs) == 0
    assert not differences(training(Path("run")), whole)


def test_slurm_takes_the_machine_away(
    fit: Run, expected: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """Amid an accumulation: the step is done, its checkpoint written durably, the job queued again, and goes on."""
    job = {"NTASKS": "1", "NTASKS_PER_NODE": "1", "JOB_ID": "42", "JOB_NAME": "x", "PROCID": "0", "LOCALID": "0"}
    for name, value in {**job, "NODEID": "0", "NNODES": "1", "JOB_NUM_NODES": "1", "NODELIST": "here"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    scontrol = tmp_path / "bin" / "scontrol"
    scontrol.parent.mkdir()
    scontrol.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/requeued\n')
    scontrol.chmod(0o700)
    monkeypatch.setenv("PATH", f"{scontrol.parent}:{os.environ['PATH']}")
    assert fit("on_after_backward 3 SIGUSR1") == 138
    assert "stopped by SIGUSR1 after step 4: run/hpc_ckpt_1.ckpt holds it. Go on" in capsys.readouterr().err
    assert (tmp_path / "requeued").read_text() == "requeue 42\n"
    with zipfile.ZipFile("run/hpc_ckpt_1.ckpt") as archive:
        assert archive.comment.startswith(b"pd-lightning sha256 ")  # so it was written as our checkpoints are
    assert fit("on_validation_batch_start 7 SIGUSR1") == 138
    assert Path("run/hpc_ckpt_2.ckpt").exists()
    assert fit() == 0
    assert not differences(training(Path("run")), expected)


def test_ctrl_c_twice_does_not_wait(fit: Run, expected: Any, capsys: pytest.CaptureFixture) -> None:
    assert fit("on_train_batch_start 4 SIGINT,SIGINT") == 130
    assert "pd-lightning: interrupted\n" in capsys.readouterr().err
    assert fit() == 0
    assert not differences(training(Path("run")), expected)


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_the_workers_outlive_what_reaches_all_processes(
    arguments: list[str], expected: Any, tmp_path: Path, number: signal.Signals
) -> None:
    command = Forked(arguments, tmp_path)
    assert command.wait_until(lambda: (tmp_path / "run" / "logs" / "metrics.csv").exists())
    command.signal(number, group=True)
    assert command.wait() == 128 + number, command.log()
    assert f"stopped by {number.name} after step" in command.log()
    assert "worker" not in command.log()
    again = Forked(arguments, tmp_path)
    assert again.wait() == 0, again.log()
    assert not differences(training(tmp_path / "run"), expected)


def test_no_checkpoints_are_wanted(fit: Run, capsys: pytest.CaptureFixture) -> None:
    assert fit("on_train_batch_start 1 SIGTERM", "--trainer.enable_checkpointing=false") == 143
    assert "nothing was saved, since trainer.enable_checkpointing is false." in capsys.readouterr().err
    assert not Path("run/checkpoints").exists()


def test_before_the_first_step(fit: Run, capsys: pytest.CaptureFixture) -> None:
    """Lightning notes it, amid the two batches that it validates to see whether that works."""
    assert fit("on_sanity_check_start 0 SIGTERM") == 143
    assert "pd-lightning: stopped by SIGTERM\n" in capsys.readouterr().err


def test_what_trains_nothing_ends_at_once(fit: Run, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert fit("", "--trainer.max_steps=2") == 0
    os.environ["STRIKE"] = "on_validation_batch_start 0 SIGTERM"
    file = str(tmp_path / "settings.yaml")
    assert main(["validate", "--config", file, "--ckpt_path", "last"]) == 143
    assert "pd-lightning: stopped by SIGTERM\n" in capsys.readouterr().err
