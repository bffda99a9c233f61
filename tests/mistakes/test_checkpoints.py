"""Checkpoints that are missing, torn, another student's, or no checkpoints at all."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pd_lightning.cli import main

Run = Callable[..., int]
Told = Callable[[], str]


@pytest.fixture
def trained(run: Run) -> Path:
    """The checkpoint of a training."""
    assert run("fit") == 0
    return Path("run/checkpoints/last.ckpt")


def export(checkpoint: Path | str) -> int:
    return main(["export", "--ckpt_path", str(checkpoint), "--output_dir", "out"])


def test_there_is_none(run: Run, told: Told) -> None:
    assert run("fit", None, "--ckpt_path", "last") == 1
    assert "--ckpt_path last must find a checkpoint in run/checkpoints, got none. Use --ckpt_path auto" in told()
    assert run("fit", None, "--ckpt_path", "x.ckpt") == 1
    assert "got x.ckpt, which does not exist" in told()
    assert export("x.ckpt") == 1
    assert "--ckpt_path must be a checkpoint file, got x.ckpt" in told()
    assert run("fit") == 0


def test_the_run_folder_is_in_use(run: Run, told: Told, trained: Path) -> None:
    assert run("fit") == 1
    assert f"which holds {trained}. Go on with --ckpt_path auto, choose another trainer.default_root_dir" in told()


@pytest.mark.parametrize("kept", [0.5, 0.0])
def test_it_is_torn(run: Run, told: Told, trained: Path, kept: float) -> None:
    content = trained.read_bytes()
    trained.write_bytes(content[: int(kept * len(content))])
    assert export(trained) == 1
    with pytest.warns(UserWarning, match=r"Passed over run/checkpoints/last\.ckpt, which is cut off.*/step=1\.ckpt"):
        assert run("fit", None, "--ckpt_path", "auto", "--trainer.max_steps=2") == 0
    assert export(trained) == 0  # written anew


def test_all_are_torn(run: Run, told: Told, trained: Path) -> None:
    files = sorted(trained.parent.iterdir())
    for path in files:
        path.write_bytes(path.read_bytes()[:100])
    assert run("fit", None, "--ckpt_path", "auto") == 1
    message = told()
    assert "A checkpoint to start from must be whole, got run/checkpoints/last.ckpt, which is cut off" in message
    assert all(str(path) in message for path in files)
    assert "Restore one of them from a copy, or remove the run folder" in message


@pytest.mark.parametrize("command", ["fit", "validate", "export"])
def test_a_torn_one_is_named(run: Run, told: Told, command: str) -> None:
    Path("x.ckpt").write_bytes(b"PK torn")
    code = export("x.ckpt") if command == "export" else run(command, None, "--ckpt_path", "x.ckpt")
    assert code == 1
    message = told()
    assert "--ckpt_path must be a whole checkpoint, got x.ckpt of 7 bytes" in message
    assert "Set --ckpt_path to another checkpoint of the run, or remove the file." in message


@pytest.mark.parametrize(
    ("fields", "found"),
    [
        ({"hidden_size": 64}, "with shape [300, 32] in place of [300, 64]"),
        ({"num_hidden_layers": 3}, "model.layers.2.self_attn.q_proj.weight with shape none in place of [32, 32]"),
        ({"num_hidden_layers": 1}, "in place of none"),
    ],
)
def test_it_is_another_students(run: Run, told: Told, trained: Path, fields: dict[str, int], found: str) -> None:
    settings = {"model": {"student": {"init_args": {"config": fields}}}}
    assert run("fit", settings, "--ckpt_path", str(trained)) == 1
    message = told()
    assert "The checkpoint must be of the same student, got student.model.model." in message
    assert found in message
    assert "Set model.student" in message
    assert run("fit", None, "--ckpt_path", "last", "--trainer.max_steps=2") == 0


@pytest.mark.parametrize("saved", [[1], {"state_dict": {}}])
def test_it_is_something_else(run: Run, told: Told, saved: Any) -> None:
    torch.save(saved, "x.ckpt")
    assert run("fit", None, "--ckpt_path", "x.ckpt") == 1
    assert "--ckpt_path must be a checkpoint of a Trainer, got x.ckpt, which is none." in told()
    assert export("x.ckpt") == 1
    assert "--ckpt_path must be a checkpoint of a Trainer" in told()


def test_it_needs_pickle(run: Run, told: Told) -> None:
    torch.save({"state_dict": torch.nn.Linear(1, 1)}, "x.ckpt")
    for code in (run("fit", None, "--ckpt_path", "x.ckpt"), export("x.ckpt")):
        assert code == 1
