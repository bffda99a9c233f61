"""The same step on one rank and on two: every labelled position counts alike."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

SCRIPT = Path(__file__).with_name("gradients_of_a_step.py")


def step(
    teacher: Path, devices: int, micro_batches: int, output: Path, strategy: str = "auto"
) -> dict[str, dict[str, torch.Tensor]]:
    command = [sys.executable, str(SCRIPT), str(teacher), str(devices), str(micro_batches), str(output), strategy]
    subprocess.run(command, check=True, timeout=300, env={**os.environ, "OMP_NUM_THREADS": "1", "PL_GLOBAL_SEED": "3"})
    return torch.load(output, weights_only=True)


@pytest.mark.parametrize(
    ("strategy", "devices"),
    [
        ("ddp", 2),
        ("{}", 2),
        ('{"reshard_after_forward": false}', 2),
        pytest.param('{"replicas": 2}', 4, marks=pytest.mark.slow),
    ],
    ids=["ddp", "fsdp2", "fsdp2, kept", "hybrid"],
)
def test_ranks_with_two_micro_batches_each_are_one_big_batch(
    teacher_dir: Path, tmp_path: Path, strategy: str, devices: int
) -> None:
    """With masks, routing and truncation, in float64: gradients equal to 1e-6 of their norm."""
    whole = step(teacher_dir, 1, 1, tmp_path / "whole.pt")
    parts = step(teacher_dir, devices, 2, tmp_path / "parts.pt", strategy)
    one, other = (torch.cat([g.flatten() for g in run["gradients"].values()]) for run in (whole, parts))
    assert one.dtype == torch.float64
    assert one.norm() > 0.1
    assert (one - other).norm() < 1e-6 * one.norm()
    for name in ("train/loss", "train/lm_loss", "train/kd_loss", "train/tokens"):
        torch.testing.assert_close(whole["logged"][name], parts["logged"][name])
    assert parts["logged"]["train/tokens"] == 62


RUN = Path(__file__).with_name("distributed_run.py")
FSDP2 = '{"save_distributed_checkpoint": false}'


@pytest.fixture
def run(teacher_dir: Path, blocks: Path, tmp_path: Path) -> Any:
    def train(devices: int, strategy: str, steps: int = 6, ckpt_path: Path | None = None) -> tuple[Path, dict]:
        folder = tmp_path / f"run-{len(list(tmp_path.iterdir()))}"
        settings = {
            "teacher": str(teacher_dir),
            "blocks": str(blocks),
            "folder": str(folder),
            "devices": devices,
            "strategy": strategy,
            "steps": steps,
            "ckpt_path": None if ckpt_path is None else str(ckpt_path),
        }
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PL_GLOBAL_SEED": "3"}
        command = [sys.executable, str(RUN), json.dumps(settings)]
        subprocess.run(command, check=True, timeout=300, env=environment)
        return folder, torch.load(folder / "end.pt", weights_only=True)

    return train


def assert_same_run(one: dict, other: dict, first: int = 0) -> None:
    for name, values in one["steps"].items():
        assert other["steps"][name] == pytest.approx(values[first:], rel=1e-5), name
    for name, weight in one["weights"].items():
        assert (other["weights"][name] - weight).norm() < 1e-5 * weight.norm(), name


def test_a_sharded_run_is_the_run_and_goes_on_on_any_number_of_devices(run: Any, teacher_dir: Path) -> None:
    """In float64, with clipped gradients, amid an epoch."""
    alone, whole = run(1, "auto")
    assert max(whole["steps"]["grad_norm"]) > 0.5, "nothing was clipped"
    together, parts = run(2, FSDP2)
    assert_same_run(whole, parts)
    (checkpoint, single) = (next(folder.glob("*step=3.ckpt")) for folder in (together, alone))
    assert_same_run(whole, run(1, "auto", ckpt_path=checkpoint)[1], 3)
    assert_same_run(whole, run(2, FSDP2, ckpt_path=single)[1], 3)
    # Students alone: as many bytes as one rank's, and no name of a teacher.
    saved = [torch.load(path, weights_only=True) for path in (checkpoint, single)]
    assert saved[0]["state_dict"].keys() == saved[1]["state_dict"].keys()
    assert not [name for name in saved[0]["state_dict"] if not name.startswith("student.")]
    sizes = [sum(tensor.nbytes for tensor in one["state_dict"].values()) for one in saved]
    assert sizes[0] == sizes[1]
