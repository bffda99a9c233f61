"""A full disk, a folder that must not be written, data that vanish, a worker that dies: the run goes on afterwards."""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest
from outcomes import training
from processes import Forked, differences

from pd_lightning.checkpoints import files

Run = Callable[..., int]


def test_the_disk_is_full(
    fit: Run, expected: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """Where the last checkpoint is written, for a device that is always full; amid a run, with some saved before."""
    write = files._write

    def write_full(checkpoint: dict[str, Any], path: Path) -> None:
        write(checkpoint, Path("/dev/full") if path.name.endswith("last.ckpt") else path)

    assert fit("on_validation_batch_start 4 SIGTERM") == 143
    before = Path("run/checkpoints/last.ckpt").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(files, "_write", write_full)
        assert fit() == 1
    told = capsys.readouterr().err
    assert "disk full while writing the checkpoint run/checkpoints/last.ckpt: No space left on device." in told
    assert "Traceback" not in told
    assert Path("run/checkpoints/last.ckpt").read_bytes() == before
    assert fit() == 0
    assert not differences(training(Path("run")), expected)


def test_the_folder_must_not_be_written(
    fit: Run, expected: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """As where a disk is mounted anew, read-only: for root, permissions alone change nothing."""

    def refuse(written: Path, final: Path) -> NoReturn:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(final))

    assert fit("on_train_batch_start 2 SIGTERM") == 143
    with monkeypatch.context() as patch:
        patch.setattr("pd_lightning.checkpoints.files.publish", refuse)
        assert fit() == 1
    told = capsys.readouterr().err
    assert "pd-lightning: error: Read-only file system: run/checkpoints/step=4.ckpt. Choose another folder" in told
    assert fit() == 0
    assert not differences(training(Path("run")), expected)


@pytest.mark.parametrize("workers", [0, 2])
def test_the_data_vanish(fit: Run, expected: Any, workers: int, capsys: pytest.CaptureFixture) -> None:
    """Before the first validation reads its part of them: no checkpoint but those of steps is there."""
    often = "--trainer.callbacks+=lightning.pytorch.callbacks.ModelCheckpoint"
    settings = ["every_n_train_steps=1", "save_last=true", "filename='{step}'", "save_top_k=0"]
    saving = [often, *(f"--trainer.callbacks.init_args.{setting}" for setting in settings)]
    arguments = [f"--data.init_args.num_workers={workers}", "--trainer.num_sanity_val_steps=0", *saving]
    assert fit("on_train_batch_start 1 data-vanish", *arguments) == 1
    told = capsys.readouterr().err
    message = told.partition("pd-lightning: error: ")[2]
    assert message.startswith("data/val must stay where it is while it is read, got no such folder any more. Put it ")
    assert message.count("\n") == 1
    Path("elsewhere").rename("data")
    assert fit("", *arguments) == 0
    found = training(Path("run"))
    assert not differences(found["logs"], expected["logs"])
    assert not differences(found["last"], expected["last"])


def test_a_worker_dies(arguments: list[str], expected: Any, tmp_path: Path) -> None:
    command = Forked(arguments, tmp_path, STRIKE="on_train_batch_start 3 worker-dies")
    assert command.wait() == 1, command.log()
    assert "worker" in command.log()
    again = Forked(arguments, tmp_path)
    assert again.wait() == 0, again.log()
    assert not differences(training(tmp_path / "run"), expected)
