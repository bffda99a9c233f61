"""What is logged, as one reads it back."""

import csv
from pathlib import Path
from typing import Any

import pytest
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from pd_lightning.cli import main

STUDENT = {"top1_accuracy", "student_entropy", "student_kept_mass"}
TRAIN = {"loss", "lm_loss", "kd_loss", "kd_weight", "lr", "tokens", "tokens_per_second", "grad_norm", "top1_agreement"}
VAL = {"lm_loss", "perplexity", "kd_loss", "top1_agreement"}


def test_tensorboard_and_csv_hold_every_metric(tmp_path: Path, tiny: Any, truncated_store: Path) -> None:
    settings = {
        "model": {
            "student": {"class_path": "pd_lightning.students.HFStudent", "init_args": {"config": tiny.config}},
            "teacher": {"class_path": "pd_lightning.teachers.OfflineTeacher"},
            "optimizer": {"class_path": "torch.optim.SGD", "init_args": {"lr": 1.0, "momentum": 0.5}},
        },
        "data": {
            "class_path": "pd_lightning.data.TokenBlocks",
            "init_args": {"path": str(truncated_store), "batch_size": 4},
        },
        "trainer": {
            "default_root_dir": str(tmp_path / "run"),
            "accelerator": "cpu",
            "max_steps": 4,
            "log_every_n_steps": 1,
            "val_check_interval": 2,
            "check_val_every_n_epoch": None,
            "callbacks": [{"class_path": "pd_lightning.callbacks.RunProgress"}],
        },
    }
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(settings))
    assert main(["fit", "--config", str(tmp_path / "run.yaml")]) == 0

    events = EventAccumulator(str(tmp_path / "run" / "logs"))
    events.Reload()
    tags = set(events.Tags()["scalars"])
    assert {f"train/{name}" for name in TRAIN | STUDENT} | {f"val/{name}" for name in VAL} <= tags
    assert [event.step for event in events.Scalars("train/loss")] == [0, 1, 2, 3]
    assert [event.step for event in events.Scalars("val/lm_loss")] == [1, 3]
    assert [event.value for event in events.Scalars("train/tokens")] == [64, 128, 192, 256]

    with (tmp_path / "run" / "logs" / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {f"train/{name}" for name in TRAIN | STUDENT} | {f"val/{name}" for name in VAL} <= rows[0].keys()
    written = [float(row["train/loss"]) for row in rows if row["train/loss"]]
    assert written == pytest.approx([event.value for event in events.Scalars("train/loss")])
    saved = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert saved["model"]["optimizer"]["init_args"]["momentum"] == 0.5
