"""Checkpoints with a flipped bit or a missing end, wherever it is: each is found, and passed over."""

import random
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from pd_lightning.checkpoints import files, load_checkpoint, save_checkpoint
from pd_lightning.checkpoints.sealing import damage
from pd_lightning.cli.runs import resolve_checkpoint

CONTENT = {"pytorch-lightning_version": "2.6", "state_dict": {"weight": torch.arange(1000.0)}, "global_step": 3}
PLACES = ("local header", "padding", "data", "central directory", "end record", "comment")


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    save_checkpoint(CONTENT, tmp_path / "whole.ckpt")
    return tmp_path / "whole.ckpt"


def places(file: Path) -> dict[str, tuple[int, int]]:
    """Where the parts of an archive begin and end: of its largest member, and of its end."""
    size = file.stat().st_size
    with zipfile.ZipFile(file) as archive:
        member = max(archive.infolist(), key=lambda info: info.file_size)
        end = size - len(archive.comment) - 22
        directory = archive.start_dir
    header = file.read_bytes()[member.header_offset :][:30]
    names = member.header_offset + 30 + int.from_bytes(header[26:28], "little")
    data = names + int.from_bytes(header[28:30], "little")
    return {
        "local header": (member.header_offset, names),
        "padding": (names, data),
        "data": (data, data + member.file_size),
        "central directory": (directory, end),
        "end record": (end, end + 22),
        "comment": (end + 22, size),
    }


def damaged(file: Path) -> Iterator[tuple[str, bytes]]:
    """Twenty ways in which a file may be damaged: three bits in each place but one, and cuts."""
    content, draws = file.read_bytes(), random.Random(5)
    for place, (first, end) in places(file).items():
        for _ in range(2 if place == "padding" else 3):
            flipped = bytearray(content)
            flipped[position := draws.randrange(first, end)] ^= 1 << draws.randrange(8)
            yield f"{place}, byte {position}", bytes(flipped)
    for length in (0, draws.randrange(len(content)), len(content) - 1):
        yield f"cut after {length}", content[:length]


def test_each_is_found(whole: Path, tmp_path: Path) -> None:
    assert tuple(places(whole)) == PLACES
    cases, torn = list(damaged(whole)), tmp_path / "torn.ckpt"
    assert len(cases) == 20
    for what, content in cases:
        torn.write_bytes(content)
        with pytest.raises(ValueError, match=r"--ckpt_path must be a whole checkpoint, got .*torn\.ckpt of "):
            load_checkpoint(torn, "--ckpt_path")
        (tmp_path / "last.ckpt").write_bytes(content)
        with pytest.warns(UserWarning, match=r"Passed over .*last\.ckpt.*whole\.ckpt takes its place"):
            assert resolve_checkpoint("auto", "fit", "none", [str(tmp_path)]) == str(whole), what
        torn.unlink()


def test_a_whole_one_is_an_ordinary_file(whole: Path) -> None:
    assert damage(whole) is None
    with zipfile.ZipFile(whole) as archive:
        assert archive.comment.startswith(b"pd-lightning sha256 ")
    for loaded in (
        torch.load(whole, weights_only=True),
        torch.load(whole, weights_only=True, mmap=True),
        TorchCheckpointIO().load_checkpoint(whole),
        load_checkpoint(whole, "--ckpt_path"),
    ):
        assert torch.equal(loaded["state_dict"]["weight"], CONTENT["state_dict"]["weight"])  # type: ignore[index]


def test_an_older_one_has_no_digest(tmp_path: Path) -> None:
    old = tmp_path / "old.ckpt"
    torch.save(CONTENT, old)
    assert load_checkpoint(old, "--ckpt_path")["global_step"] == 3
    content = bytearray(old.read_bytes())
    content[len(content) // 2] ^= 1  # amid its tensor, the largest part
    old.write_bytes(content)
    with pytest.raises(ValueError, match="which is damaged"):
        load_checkpoint(old, "--ckpt_path")


def test_it_is_read_once_on_each_start(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = []
    monkeypatch.delenv("PD_LIGHTNING_WHOLE_CHECKPOINT", raising=False)
    monkeypatch.setattr(files, "damage", lambda path: read.append(path))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = resolve_checkpoint("last", "fit", "none", [str(whole.rename(whole.with_name("last.ckpt")).parent)])
    assert found is not None
    load_checkpoint(found, "--ckpt_path")
    assert len(read) == 1
    save_checkpoint(CONTENT, found)
    load_checkpoint(found, "--ckpt_path")
    assert len(read) == 2


class Ends:
    """A file of whose writing something makes an end."""

    def __init__(self, how: BaseException) -> None:
        self.how = how

    def write(self, data: bytes) -> int:
        raise self.how

    def flush(self) -> None: ...


@pytest.mark.parametrize(
    "how", [RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. "), KeyboardInterrupt()]
)
def test_what_ends_the_writing_is_told_as_it_is(
    whole: Path, how: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = whole.read_bytes()
    monkeypatch.setattr(files, "SealedFile", lambda file: Ends(how))
    try:
        raise ValueError("what the run failed of, before it saves")
    except ValueError:
        with pytest.raises(type(how)) as raised:
            save_checkpoint(CONTENT, whole)
    assert raised.value is how
    assert [path.name for path in whole.parent.iterdir()] == ["whole.ckpt"]
    assert whole.read_bytes() == before


def test_an_unfinished_folder_is_passed_over(tmp_path: Path) -> None:
    """Of a checkpoint that several ranks write; tests/checkpoints/test_sharded.py has damaged ones."""
    (tmp_path / "last.ckpt").mkdir()
    with pytest.raises(ValueError, match=r"last.ckpt, which is none, or not finished: it has no checksums\.json"):
        resolve_checkpoint("auto", "fit", "none", [str(tmp_path)])
