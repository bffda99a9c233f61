"""Studies whose trainings are made up: what a run gives follows from its settings, at once."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from pd_lightning.study import trial
from pd_lightning.study.settings import Axis, Controls, StudySettings

FIT = {
    "seed_everything": 0,
    "model": {
        "student": {"class_path": "HFStudent", "init_args": {"config": {"hidden_size": 16}}},
        "teacher": {"class_path": "OfflineTeacher"},
        "transforms": {"truncate": {"class_path": "TopPK", "init_args": {"k": 50}}},
        "loss": {"class_path": "ForwardKL"},
        "kd_weight": 0.9,
        "lr": {"class_path": "WSD", "init_args": {"peak": 0.01}},
    },
    "data": {"class_path": "TokenBlocks", "init_args": {"path": "store", "batch_size": 4, "max_train_blocks": 40}},
    "trainer": {"max_steps": 10, "val_check_interval": 5, "check_val_every_n_epoch": None},
}
AXES = {
    "k": Axis(path="model.transforms.truncate.k", values=[1, 10, 50]),
    "lr": Axis(path="model.lr.peak", values=[0.01, 0.02]),
}
TEACHER = {"params": 100, "params_non_embedding": 80, "tokens": 1000, "loss": 3.0, "flops_per_token": 60.0}


@pytest.fixture
def ask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., StudySettings]:
    """Gives the settings of a study in a folder of its own."""
    monkeypatch.chdir(tmp_path)

    def ask(**changes: Any) -> StudySettings:
        settings: dict[str, Any] = {
            "fit": [FIT],
            "output_dir": "out",
            "name": "out",
            "axes": AXES,
            "teachers": {"store": TEACHER},
            "controls": Controls(),
        }
        return StudySettings(**{**settings, **changes})

    return ask


@pytest.fixture
def trainings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Puts made-up trainings in place of real ones; gives the run folders of those that were made."""
    made: list[str] = []

    def command(arguments: list[str], log: Path, threads: int | None, lock: Any = None) -> int:
        assert arguments[0] == "fit"
        assert arguments[3:] == ["--ckpt_path", "auto"]
        settings = yaml.safe_load(Path(arguments[2]).read_text())
        made.append(str(log.parent))
        if settings["model"]["lr"]["init_args"]["peak"] == 666:
            log.write_text("some steps\npd-lightning: error: lr must be\nless than 666.\n")
            return 1
        (log.parent / "summary.json").write_text(json.dumps(summary(settings)))
        return 0

    monkeypatch.setattr(trial, "command", command)
    return made


def summary(settings: dict[str, Any]) -> dict[str, Any]:
    """What a run of these settings gives: a loss that falls with k and steps, and a seed's own offset."""
    steps = settings["trainer"]["max_steps"]
    k = settings["model"].get("transforms", {}).get("truncate", {}).get("init_args", {}).get("k", 0)
    loss = 4 - 0.01 * k - 0.02 * steps + 0.1 * settings["seed_everything"]
    return {
        "steps": steps,
        "tokens": steps * 128,
        "student": {"params": 50, "params_non_embedding": 40, "flops_per_token": 120.0},
        "teacher": None,
        "train_seconds": 1.0,
        "teacher_seconds": 0.0,
        "validated_step": steps,
        "metrics": {"val/lm_loss": loss, "val/perplexity": 2.7**loss},
    }
