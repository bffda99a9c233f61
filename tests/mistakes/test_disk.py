"""A full disk and a folder that must not be written: what was there stays, and the same command goes on."""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import pytest
import torch

from pd_lightning.cli import main

Run = Callable[..., int]
Told = Callable[[], str]


def full(*_: Any, **__: Any) -> NoReturn:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def torn_save(checkpoint: Any, file: Any) -> NoReturn:
    """As torch fails on a full disk: half a file, and an error of its own in front of the system's."""
    file.write(b"PK half a checkpoint")
    try:
        full()
    except OSError:
        raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534")  # noqa: B904


def native(*_: Any, **__: Any) -> NoReturn:
    """As libraries in Rust fail on a full disk."""
    raise Exception("No space left on device (os error 28)")


@pytest.mark.parametrize(("base", "output"), [("tokenize", "blocks"), ("record", "store")])
@pytest.mark.parametrize("writes", [0, 3, 12])
def test_while_writing_blocks(
    run: Run, told: Told, monkeypatch: pytest.MonkeyPatch, base: str, output: str, writes: int
) -> None:
    # A disk that buffers tells at the latest when it has to keep what was written.
    sync, calls = os.fsync, iter(range(1000))
    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", lambda file: sync(file) if next(calls) < writes else full())
        assert run(base) == 1
    message = told()
    assert "No space left on device" in message
    assert "run the same command again" in message or "run the command again" in message
    assert not Path(output, "manifest.json").exists()
    assert run(base) == 0
    assert main(["inspect", output, "--verify"]) == 0


def test_while_saving_a_tokenizer(run: Run, told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("transformers.PreTrainedTokenizerFast.save_pretrained", native)
        assert run("tokenize") == 1
    assert told() == "No space left on device. Make room where the command writes and run the command again."
    assert run("tokenize") == 0


def test_while_saving_a_checkpoint(run: Run, told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run("fit") == 0
    last = Path("run/checkpoints/last.ckpt")
    before = {path: path.read_bytes() for path in last.parent.iterdir()}
    with monkeypatch.context() as patch:
        patch.setattr("torch.save", torn_save)
        assert run("fit", None, "--ckpt_path=auto", "--trainer.max_steps=2") == 1
    message = told()
    assert "disk full while writing the checkpoint run/checkpoints/" in message
    assert "No space left on device. Earlier checkpoints stay. Free some space" in message
    assert "--ckpt_path auto" in message
    assert {path: path.read_bytes() for path in last.parent.iterdir()} == before
    assert run("fit", None, "--ckpt_path=auto", "--trainer.max_steps=2") == 0
    assert torch.load(last, weights_only=True)["global_step"] == 2


def test_a_kill_while_saving_leaves_the_checkpoint_before(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run("fit") == 0

    def killed(written: Path, final: Path) -> NoReturn:
        # Nothing that follows in a process that is killed can tidy up.
        os.link(written, "half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("pd_lightning.checkpoints.files.publish", killed)
        assert run("fit", None, "--ckpt_path=auto", "--trainer.max_steps=2") == 130
    Path("half").rename("run/checkpoints/.tmp-last.ckpt")
    assert run("fit", None, "--ckpt_path=auto", "--trainer.max_steps=2") == 0
    assert {path.name for path in Path("run/checkpoints").iterdir()} == {"last.ckpt", "step=1.ckpt", "step=2.ckpt"}


def test_while_exporting(run: Run, told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run("fit") == 0
    command = ["export", "--ckpt_path", "run/checkpoints/last.ckpt", "--output_dir", "out"]
    assert main(command) == 0
    before = {path: path.read_bytes() for path in Path("out").iterdir()}
    with monkeypatch.context() as patch:
        patch.setattr("transformers.PreTrainedModel.save_pretrained", native)
        assert main([*command, "--overwrite"]) == 1
    assert "No space left on device." in told()
    assert {path: path.read_bytes() for path in Path("out").iterdir()} == before
    assert not list(Path().glob(".tmp*"))
    assert main([*command, "--overwrite"]) == 0


@pytest.mark.parametrize("base", ["fit", "tokenize", "record"])
def test_where_writing_is_not_allowed(run: Run, told: Told, folder: Path, base: str) -> None:
    for name in ("run", "blocks", "store"):
        (folder / name).mkdir(mode=0o500)
    if os.access(folder / "run", os.W_OK):
        pytest.skip("this user may write everywhere")
    assert run(base) == 1
    message = told()
    assert "Permission denied" in message
    assert "Choose another folder, or change its permissions." in message


def leave(monkeypatch: pytest.MonkeyPatch, free: float) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=free, total=1e12))


@pytest.mark.parametrize(
    ("base", "free", "fragments"),
    [
        # 2,000 bytes of text
        ("tokenize", 400, ["must have room for the blocks, got", "Set output_dir to another disk"]),
        ("record", 1000, ["disk of model.output_dir must have room for the store, got 0.0 MB free for about 0."]),
        # 300 × 32 embeddings in 4 bytes, and more
        ("fit", 30_000, ["disk of run/checkpoints must have room for a checkpoint", "at least 0.1 MB"]),
    ],
)
def test_before_anything_is_written(
    run: Run, told: Told, monkeypatch: pytest.MonkeyPatch, base: str, free: float, fragments: list[str]
) -> None:
    with monkeypatch.context() as patch:
        leave(patch, free)
        assert run(base) == 1
    message = told()
    assert [fragment for fragment in fragments if fragment not in message] == [], message
    assert not list(Path().rglob("*.bin"))
    assert not list(Path().rglob("*.ckpt"))
    assert run(base) == 0


def test_a_warning_before_weights_and_optimizer_do_not_fit(
    run: Run, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run("fit") == 0
    weights = sum(tensor.nbytes for tensor in torch.load("run/checkpoints/last.ckpt")["state_dict"].values())
    before = Path("run/checkpoints/last.ckpt").read_bytes()
    with monkeypatch.context() as patch:
        leave(patch, 2 * weights)
        with pytest.warns(UserWarning, match="must have room for a checkpoint, got .* free for about"):
            assert run("fit", None, "--ckpt_path=auto", "--trainer.max_steps=2") == 1
    message = told()
    assert "disk full while writing the checkpoint run/checkpoints/" in message
    assert "MB needed" in message
    assert "Earlier checkpoints stay" in message
    assert Path("run/checkpoints/last.ckpt").read_bytes() == before
    assert not list(Path("run/checkpoints").glob(".tmp*"))


def test_a_recording_that_goes_on_needs_room_for_the_rest_alone(
    run: Run, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        # For 40 training blocks in one chunk, and nothing more.
        free = lambda: 10 if Path("store/train/chunk-000000.bin").exists() else 1e9  # noqa: E731
        patch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=free(), total=1e12))
        assert run("record") == 1
    assert "disk full while writing chunk 0 of store/val" in told()
    train = Path("store/train/chunk-000000.bin").stat().st_size
    with monkeypatch.context() as patch:
        leave(patch, train / 10)
        assert run("record") == 1
        assert "disk of model.output_dir must have room for the store" in told()
        leave(patch, train / 2)  # for 12 validation blocks
        assert run("record") == 0
    assert main(["inspect", "store", "--verify"]) == 0


@pytest.mark.parametrize("base", ["tokenize", "record"])
def test_room_is_looked_at_before_each_chunk(run: Run, told: Told, monkeypatch: pytest.MonkeyPatch, base: str) -> None:
    output = {"tokenize": "blocks", "record": "store"}[base]
    with monkeypatch.context() as patch:
        # Others fill the disk once the command has begun.
        free = iter([1e9] * 2)
        patch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=next(free, 10), total=1e12))
        assert run(base) == 1
    message = told()
    assert f"disk full while writing chunk 0 of {output}/" in message
    assert "needed, 0.0 MB free" in message
    assert not list(Path(output).rglob("*.bin"))
    assert run(base) == 0
