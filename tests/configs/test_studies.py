"""The studies of configs/study: what their runs read is made by their own commands, and every point trains."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from one_parser import OneParserCLI

from pd_lightning.cli.command_line import COMMANDS, main
from pd_lightning.cli.commands import load_target
from pd_lightning.composition.compose import as_arguments, merge
from pd_lightning.study import command
from pd_lightning.study.figures import teacher_facts
from pd_lightning.study.points import DesignSpace, Point, merged
from pd_lightning.study.settings import StudySettings

ROOT = Path(__file__).parents[2]
STUDIES = sorted(path.stem for path in (ROOT / "configs" / "study").glob("*.yaml"))


def asked(name: str, monkeypatch: pytest.MonkeyPatch) -> StudySettings:
    """What a study's YAML asks for."""
    caught: list[StudySettings] = []
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(command, "_run", lambda settings, *_: caught.append(settings) or [])
    assert main(["study", f"--config=configs/study/{name}.yaml", "--report=false"]) == 0
    return caught[0]


def points(study: StudySettings) -> list[Point]:
    return DesignSpace(study).points(study)


def made(study: StudySettings) -> dict[str, set[str]]:
    """Folders that the commands before the trials write: of data, and of runs."""
    folders: dict[str, set[str]] = {"data": set(), "runs": set()}
    for step in study.prepare.values():
        settings = merged(step.config)
        folders["data"].add(settings.get("output_dir") or settings.get("model", {}).get("output_dir"))
        folders["runs"].add(settings.get("trainer", {}).get("default_root_dir"))
        for callback in settings.get("trainer", {}).get("callbacks", []):
            folders["data"].add(callback.get("init_args", {}).get("output_dir"))
    return folders


@pytest.mark.parametrize("name", STUDIES)
def test_what_runs_read_is_made_before(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    study = asked(name, monkeypatch)
    folders = made(study)
    known = {folder: {"tokens": number} for number, folder in enumerate(study.teachers)}
    assert len(study.seeds) >= 2
    taught = study.controls.lm  # every point of a study that has controls
    assert (study.controls.blocks in folders["data"]) == taught
    assert set(study.teachers) <= folders["data"]
    assert set(study.teachers.values()) <= folders["runs"]
    for point in points(study):
        data = point.settings["data"]["init_args"]
        assert {data["path"], data.get("val_path", data["path"])} <= folders["data"], point.name
        assert bool(teacher_facts(point.settings, known)) == taught, point.name


def test_the_miniature_asks_what_the_issue_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    study = asked("paper_mini", monkeypatch)
    found = points(study)
    varied = {point.varied for point in found}
    assert {("loss", "domain"), ("kd_weight_schedule", "lr"), ("student", "tokens", "teacher")} <= varied
    assert len({point.name for point in found}) == len(found)
    sizes = [point.settings["trainer"]["max_steps"] for point in found if point.varied in {(), ("tokens",)}]
    assert sorted(sizes) == [256, 512, 1024]


@pytest.mark.slow
@pytest.mark.parametrize("name", STUDIES)
def test_every_point_takes_two_steps(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny: Any, exact_store: Path, teacher_dir: Path
) -> None:
    shape = {field: value for field, value in tiny.config.items() if field != "model_type"}
    small: dict[str, Any] = {
        "model": {"student": {"init_args": {"config": {**shape, "initializer_range": 0.3}}}},
        "data": {"init_args": {"path": str(exact_store), "val_path": None, "batch_size": 4, "min_teacher_step": 0}},
        "trainer": {"default_root_dir": str(tmp_path), "limit_val_batches": 0, "log_every_n_steps": 1},
    }
    small["trainer"] |= {"callbacks": [], "enable_checkpointing": False, "logger": False}
    study = asked(name, monkeypatch)
    for point in points(study):
        settings = merge(point.settings, small)
        if settings["model"]["teacher"]["class_path"].endswith("FrozenTeacher"):
            settings["model"]["teacher"]["init_args"]["model"] = str(teacher_dir)
        done = OneParserCLI("fit", load_target(COMMANDS["fit"].target), as_arguments(settings, []))
        assert done.trainer.global_step == 2, point.name
        assert np.isfinite(done.watch.losses).all(), point.name
        assert (done.watch.kd_loss is not None) == study.controls.lm, point.name
