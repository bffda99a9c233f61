"""Checkpoints that are folders, written and read by one rank; tests/test_distributed.py has several."""

import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch
from torch import distributed
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

from pd_lightning.checkpoints.files import flaw, load_checkpoint, remove_unfinished, save_checkpoint
from pd_lightning.checkpoints.sharded import write_shards
from pd_lightning.cli.runs import resolve_checkpoint


@pytest.fixture(autouse=True)
def ranks() -> Iterator[None]:
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


def checkpoint(step: int = 1) -> dict[str, Any]:
    mesh = init_device_mesh("cpu", (1,))
    weight = distribute_tensor(torch.randn(6, 4), mesh, [Shard(0)])
    state = {"step": torch.tensor(float(step)), "exp_avg": weight * 2, "kind": "a word"}
    return {
        "pytorch-lightning_version": "2.6",
        "global_step": step,
        "state_dict": {"student.in": weight, "student.out": weight, "student.norm": torch.ones(3)},
        "optimizer_states": [{"state": {0: state, 7: {**state}}, "param_groups": [{"lr": 0.1, "params": [0, 7]}]}],
    }


def plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: plain(entry) for name, entry in value.items()}
    if isinstance(value, list):
        return [plain(entry) for entry in value]
    value = value.full_tensor() if hasattr(value, "full_tensor") else value
    return value.tolist() if isinstance(value, torch.Tensor) else value


def test_what_is_read_is_what_was_written(tmp_path: Path) -> None:
    """Tied weights, states that are no tensors, and a folder in place of another and of a file."""
    path = tmp_path / "last.ckpt"
    path.write_text("a file of a run before")
    for step in (1, 2):
        written = checkpoint(step)
        write_shards(written, path)
        assert plain(load_checkpoint(path, "--ckpt_path")) == plain(written)
    assert [entry.name for entry in tmp_path.iterdir()] == ["last.ckpt"]


@pytest.mark.parametrize("moment", ["rename", "replace"])
def test_one_is_there_whenever_it_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str) -> None:
    """Before the old folder is out of the way, and before the new one has its name."""
    path = tmp_path / "last.ckpt"
    write_shards(checkpoint(1), path)

    def killed(*_: Any) -> NoReturn:
        raise KeyboardInterrupt

    for _ in range(2):
        with monkeypatch.context() as patch:
            patch.setattr(Path, moment, killed)
            with pytest.raises(KeyboardInterrupt):
                write_shards(checkpoint(2), path)
        found = resolve_checkpoint("auto", "fit", str(tmp_path), [str(tmp_path)])
        assert found is not None
        assert load_checkpoint(found, "--ckpt_path")["global_step"] == 1
        remove_unfinished(tmp_path)
        assert [str(entry) for entry in tmp_path.iterdir()] == [found]
    write_shards(checkpoint(3), path)
    assert load_checkpoint(path, "--ckpt_path")["global_step"] == 3
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_takes_the_place_of_a_folder(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    write_shards(checkpoint(1), path)
    (tmp_path / ".tmp-last.ckpt").mkdir()
    save_checkpoint({"pytorch-lightning_version": "2.6", "global_step": 2}, path)
    assert load_checkpoint(path, "--ckpt_path")["global_step"] == 2
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["shard-00001-model-00001-of-00001.safetensors", "rest.ckpt", "checksums.json"])
@pytest.mark.parametrize("harm", ["cut", "flip", "gone"])
def test_a_damaged_one_is_refused(tmp_path: Path, name: str, harm: str) -> None:
    path = tmp_path / "last.ckpt"
    write_shards(checkpoint(), path)
    file = path / name
    content = bytearray(file.read_bytes())
    for position in (0, len(content) // 3, len(content) // 2, len(content) - 20) if harm == "flip" else (0,):
        changed = content[:-20] if harm == "cut" else bytearray(content)
        changed[position] ^= 0x10
        file.write_bytes(changed)
        if harm == "gone":
            file.unlink()
        with pytest.raises(ValueError, match=r"be a whole checkpoint, got .*last.ckpt, which is (damaged|none)"):
            load_checkpoint(path, "--ckpt_path")
        assert flaw(path) is not None
        write_shards(checkpoint(), path.with_name("earlier.ckpt"))
        with pytest.warns(UserWarning, match=r"Passed over .*last.ckpt, which is .*earlier.ckpt takes its place"):
            assert resolve_checkpoint("auto", "fit", str(tmp_path), [str(tmp_path)]) == str(tmp_path / "earlier.ckpt")


@pytest.mark.parametrize("place", ["shards", "rest", "sums"])
def test_a_full_disk_leaves_the_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    path = tmp_path / "last.ckpt"
    write_shards(checkpoint(1), path)

    def full(*_: Any, **__: Any) -> NoReturn:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    target = {
        "shards": "safetensors.torch.save",
        "rest": "pd_lightning.checkpoints.files._write",
        "sums": "pd_lightning.checkpoints.sharded.write_durably",
    }[place]
    with monkeypatch.context() as patch:
        patch.setattr(target, full)
        with pytest.raises(OSError, match="No space left") as error:
            write_shards(checkpoint(2), path)
    assert error.value.errno == errno.ENOSPC
    assert load_checkpoint(path, "--ckpt_path")["global_step"] == 1
    write_shards(checkpoint(3), path)
    assert load_checkpoint(path, "--ckpt_path")["global_step"] == 3
