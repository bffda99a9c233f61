"""A recording that is killed again and again makes the same store, byte for byte."""

import signal
from collections.abc import Callable
from itertools import chain, cycle, repeat
from pathlib import Path
from typing import Any

import pytest
from outcomes import data
from processes import Command, Forked, Subject

Settings = dict[str, Any]
Write = Callable[[Settings], Path]


def record(settings: Path) -> Subject:
    arguments = ["record", "--config", str(settings)]
    return Subject(arguments, "store", lambda folder: data(folder / "store"), "*/.tmp-*")


@pytest.fixture
def settings(blocks: Path, teacher_dir: Path, write: Write) -> Path:
    teacher = {"class_path": "pd_lightning.teachers.FrozenTeacher", "init_args": {"model": str(teacher_dir)}}
    some = {"path": str(blocks), "batch_size": 4, "max_train_blocks": 240, "max_val_blocks": 40}
    return write(
        {
            "model": {"teacher": teacher, "output_dir": "store", "blocks_per_chunk": 16},
            "data": {"class_path": "pd_lightning.data.TokenBlocks", "init_args": some},
            "trainer": {"accelerator": "cpu", "enable_progress_bar": False, "default_root_dir": "run"},
        }
    )


def test_a_few_kills(tmp_path: Path, settings: Path) -> None:
    record(settings).campaign(tmp_path, 2, 5, repeat(Forked), times=3)


def test_sigterm_does_not_wait_for_the_end(tmp_path: Path, settings: Path) -> None:
    command = Forked(["record", "--config", str(settings)], tmp_path)
    assert command.wait_until(lambda: any(tmp_path.glob("store/train/*.bin")))
    command.signal(signal.SIGTERM)
    assert command.wait() == 143, command.log()
    assert command.log().endswith("pd-lightning: stopped by SIGTERM\n")
    assert not (tmp_path / "store" / "manifest.json").exists()


@pytest.mark.slow
def test_the_campaign(tmp_path: Path, settings: Path) -> None:
    settings.write_text(settings.read_text().replace("240", "1200"))
    record(settings).campaign(tmp_path, 12, 6, chain([Command], cycle([Forked, Forked, Forked, Command])))
