import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from pd_lightning.cli import main
from pd_lightning.composition.compose import merge

STUDENT = {"class_path": "pd_lightning.students.HFStudent"}
TEACHERS = "pd_lightning.teachers"


@pytest.fixture
def run_yaml(tmp_path: Path, blocks: Path, teacher_dir: Path, tiny: Any) -> Callable[..., Path]:
    """Writes the YAML of a fit on four nodes of eight GPUs, with a live teacher and what is laid over it."""

    def write(overlay: dict | None = None, name: str = "run.yaml") -> Path:
        settings = {
            "model": {
                "student": {**STUDENT, "init_args": {"config": dict(tiny.config)}},
                "teacher": {"class_path": f"{TEACHERS}.FrozenTeacher", "init_args": {"model": str(teacher_dir)}},
            },
            "data": {
                "class_path": "pd_lightning.data.TokenBlocks",
                "init_args": {"path": str(blocks), "batch_size": 1},
            },
            "trainer": {
                "max_steps": 3,
                "devices": 8,
                "num_nodes": 4,
                "accelerator": "gpu",
                "strategy": "ddp",
                "precision": "bf16-mixed",
                "default_root_dir": str(tmp_path / "run"),
            },
        }
        path = tmp_path / name
        path.write_text(yaml.safe_dump(merge(settings, overlay or {})))
        return path

    return write


@pytest.fixture
def write_overlay(tmp_path: Path) -> Callable[[dict], Path]:
    """Writes a YAML to lay over another."""

    def write(settings: dict) -> Path:
        path = tmp_path / "overlay.yaml"
        path.write_text(yaml.safe_dump(settings))
        return path

    return write


@pytest.fixture
def planned(capsys: pytest.CaptureFixture) -> Callable[..., Any]:
    """Runs `pd-lightning plan --json`, and gives what it prints, read."""

    def run(*argv: Any) -> Any:
        capsys.readouterr()
        code = main(["plan", *map(str, argv), "--json"])
        out = capsys.readouterr()
        assert code == 0, out.err
        return json.loads(out.out)

    return run
