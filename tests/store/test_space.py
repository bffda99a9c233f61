import errno
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from pd_lightning.store import space
from pd_lightning.store.space import check_estimate, check_room, free_bytes, stored_bytes


def disk(monkeypatch: pytest.MonkeyPatch, free: float, total: float = 1e12) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=free, total=total))


def test_a_path_that_does_not_exist_yet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Path] = []
    monkeypatch.setattr("shutil.disk_usage", lambda path: asked.append(path) or SimpleNamespace(free=7, total=9))
    assert free_bytes(tmp_path / "a" / "b" / "c.ckpt") == 7
    monkeypatch.chdir(tmp_path)
    free_bytes("a/b")
    assert asked == [tmp_path, tmp_path]


def test_a_file_system_that_does_not_say(monkeypatch: pytest.MonkeyPatch) -> None:
    disk(monkeypatch, free=0, total=0)
    check_room(".", 1e15)


def test_room(monkeypatch: pytest.MonkeyPatch) -> None:
    disk(monkeypatch, 2e9)
    check_room(".", 2e9)
    with pytest.raises(OSError, match=r"No space left on device \(2.5 GB needed, 2.0 GB free\)") as error:
        check_room(".", 2.5e9)
    assert error.value.errno == errno.ENOSPC


def test_an_estimate(monkeypatch: pytest.MonkeyPatch) -> None:
    arguments: Any = ("out", 1e9, 3e9, "the store", "Set output_dir.")
    disk(monkeypatch, 3e9)
    check_estimate(*arguments)
    disk(monkeypatch, 2e9)
    with pytest.warns(UserWarning, match=r"disk of out must have room for the store, got 2.0 GB free for about 3.0 GB"):
        check_estimate(*arguments)
    disk(monkeypatch, 0.05e9)
    with pytest.raises(ValueError, match=r"got 50.0 MB free for at least 1.0 GB. Set output_dir."):
        check_estimate(*arguments)


def test_bytes_of_a_checkpoint_are_those_of_its_file(tmp_path: Path) -> None:
    whole = torch.zeros(1000, 100)
    content = {
        "state_dict": {"head": whole, "tied": whole, "part": whole[:10]},
        "optimizer_states": [{"state": {0: {"exp_avg": torch.zeros(50_000, dtype=torch.bfloat16), "step": 3}}}],
        "name": "x",
    }
    torch.save(content, tmp_path / "x")
    assert stored_bytes(content) == 400_000 + 100_000
    assert 0 <= (tmp_path / "x").stat().st_size - stored_bytes(content) < 10_000


def test_sizes_in_words() -> None:
    assert [space.gigabytes(size) for size in (0, 1.5e6, 2.54e9)] == ["0.0 MB", "1.5 MB", "2.5 GB"]
