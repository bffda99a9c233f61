import os
import zipfile
from pathlib import Path

import pytest

from pd_lightning.cli.runs import newest_checkpoints, resolve_checkpoint


@pytest.mark.parametrize(
    ("files", "newest"),
    [
        ([], None),
        (["notes.txt"], None),
        (["step=900.ckpt", "epoch=2-step=1000.ckpt", "step=20.ckpt"], "epoch=2-step=1000.ckpt"),
        (["best.ckpt", "step=20.ckpt", "other.ckpt"], "step=20.ckpt"),
        (["best.ckpt", "other.ckpt"], "other.ckpt"),
        (["last.ckpt", "step=1000.ckpt"], "last.ckpt"),
        (["last.ckpt", "last-v1.ckpt"], "last-v1.ckpt"),
        (["last-v1.ckpt", "last.ckpt"], "last.ckpt"),
    ],
)
def test_the_newest_checkpoint_is_found(tmp_path: Path, files: list[str], newest: str | None) -> None:
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    for seconds, name in enumerate(files):
        touch(folder / name, seconds)
    expected = str(folder / newest) if newest else None
    assert newest_checkpoints(str(tmp_path), [str(folder)])[:1] == ([expected] if expected else [])
    assert resolve_checkpoint("auto", "fit", str(tmp_path), [str(folder)]) == expected


def test_a_requeued_job_goes_on_where_it_was_stopped(tmp_path: Path) -> None:
    last, requeued = tmp_path / "checkpoints" / "last.ckpt", tmp_path / "hpc_ckpt_1.ckpt"
    last.parent.mkdir()
    touch(last, 5)
    touch(requeued, 9)
    assert newest_checkpoints(str(tmp_path), [str(last.parent)])[0] == str(requeued)
    touch(last, 11)
    assert newest_checkpoints(str(tmp_path), [str(last.parent)])[0] == str(last)


def test_a_run_that_was_killed_in_its_first_checkpoint_starts_anew(tmp_path: Path) -> None:
    (tmp_path / ".tmp-step=2.ckpt").write_bytes(b"PK\3\4 and so on")
    (tmp_path / ".tmp-last.ckpt").mkdir()
    for ckpt_path in ("auto", None):
        assert resolve_checkpoint(ckpt_path, "fit", str(tmp_path), [str(tmp_path)]) is None
    with pytest.raises(FileNotFoundError, match="last must find a checkpoint"):
        resolve_checkpoint("last", "fit", str(tmp_path), [str(tmp_path)])


def test_one_that_was_out_of_the_way_when_its_successor_was_killed_counts(tmp_path: Path) -> None:
    former = tmp_path / ".tmp-former-last.ckpt"
    touch(former, 1)
    touch(tmp_path / ".tmp-last.ckpt", 2)
    assert newest_checkpoints(str(tmp_path), [str(tmp_path)]) == [str(former)]
    touch(tmp_path / "last.ckpt", 3)
    assert newest_checkpoints(str(tmp_path), [str(tmp_path)]) == [str(tmp_path / "last.ckpt")]


@pytest.mark.parametrize("ckpt_path", ["s3://bucket/a.ckpt", "registry:model", None])
def test_addresses_are_for_lightning(tmp_path: Path, ckpt_path: str | None) -> None:
    assert resolve_checkpoint(ckpt_path, "validate", str(tmp_path), [str(tmp_path)]) == ckpt_path


def touch(path: Path, seconds: int) -> None:
    zipfile.ZipFile(path, "w").close()
    os.utime(path, (1_000_000 + seconds,) * 2)
