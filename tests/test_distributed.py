"""The same step on one rank and on two: every labelled position counts alike."""

import os
import subprocess
import sys
from pathlib import Path

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
