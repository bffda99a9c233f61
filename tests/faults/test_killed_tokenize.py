"""Tokenizing that is killed again and again makes the same blocks, byte for byte."""

import sysconfig
from collections.abc import Callable
from itertools import chain, cycle, repeat
from pathlib import Path
from typing import Any

import pytest
from outcomes import data
from processes import Command, Forked, Subject

from pd_lightning.cli import main

Settings = dict[str, Any]
Write = Callable[[Settings], Path]


def tokenize(settings: Path) -> Subject:
    arguments = ["tokenize", "--config", str(settings)]
    return Subject(arguments, "blocks", lambda folder: data(folder / "blocks"), "*/.tmp-*")


@pytest.fixture
def settings(write: Write) -> Path:
    library = Path(sysconfig.get_paths()["stdlib"])
    texts = {"paths": [str(library / name / "*.py") for name in ("asyncio", "email")], "split_bytes": 4000}
    return write(
        {
            "source": {"class_path": "pd_lightning.data.TextFiles", "init_args": texts},
            "output_dir": "blocks",
            "vocab_size": 400,
            "block_size": 16,
            "val_fraction": 0.2,
            "blocks_per_chunk": 64,
        }
    )


def test_a_few_kills(tmp_path: Path, settings: Path) -> None:
    tokenize(settings).campaign(tmp_path, 2, 8, repeat(Forked), times=3)


def test_a_kill_when_all_but_the_mark_is_done(tmp_path: Path, settings: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(folder: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.chdir(tmp_path)
    arguments = ["tokenize", "--config", str(settings)]
    with monkeypatch.context() as patch:
        patch.setattr("pd_lightning.data.tokenize.remove_mark", killed)
        assert main(arguments) == 130
    assert Path("blocks/.tmp-unfinished").exists()
    assert main(arguments) == 0
    assert not list(Path("blocks").glob(".tmp-*"))


@pytest.mark.slow
def test_the_campaign(tmp_path: Path, settings: Path) -> None:
    tokenize(settings).campaign(tmp_path, 10, 9, chain([Command], cycle([Forked, Forked, Forked, Command])))
