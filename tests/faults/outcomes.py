"""What commands have made, in values that can be compared to the bit."""

import csv
from pathlib import Path
from typing import Any

import torch

from pd_lightning.checkpoints import load_checkpoint

# Clocks are the one thing that a killed run may have otherwise.
CLOCKS = {"train_seconds", "teacher_seconds", "train/tokens_per_second", "metrics"}


def training(run: Path) -> dict[str, Any]:
    """The last checkpoint, the logs, and what is left of unfinished files."""
    unfinished = [str(path) for path in run.rglob(".tmp-*")]
    return {"last": state(run / "checkpoints" / "last.ckpt"), "logs": logs(run), "unfinished": unfinished}


def state(checkpoint: Path) -> Any:
    """Weights, optimizer, schedules, the data's position, tokens: all that training goes on from.

    But for Lightning's count of epochs, which moves on only after a last step that a signal may follow.
    """
    content = load_checkpoint(checkpoint, "--ckpt_path")
    parts = ("state_dict", "optimizer_states", "lr_schedulers", "global_step", "TokenBlocks", "pd_lightning")
    return comparable({name: content[name] for name in parts})


def logs(run: Path) -> dict[tuple[str, str], str]:
    """The last value of each step and metric."""
    with (run / "logs" / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return {
        (row["step"], name): value
        for row in rows
        for name, value in row.items()
        if value and name != "step" and name not in CLOCKS
    }


def data(folder: Path) -> dict[str, bytes]:
    """All files of a data folder."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def comparable(value: Any) -> Any:
    """Tensors as bytes, clocks left out."""
    if isinstance(value, torch.Tensor):
        return value.dtype, tuple(value.shape), value.numpy().tobytes()
    if isinstance(value, dict):
        return {name: comparable(item) for name, item in value.items() if name not in CLOCKS}
    if isinstance(value, list | tuple):
        return [comparable(item) for item in value]
    return value
