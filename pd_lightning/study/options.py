"""Whether a study can be trained at all, as far as it is known before any training: its options and its folders."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from pd_lightning.store.manifest import MANIFEST_FILE
from pd_lightning.study.points import DesignSpace, Point, Settings, merged
from pd_lightning.study.roster import Roster, Run, with_folder
from pd_lightning.study.settings import StudySettings, option_names

_ERROR = "pd-lightning: error: "


def check_options(study: StudySettings) -> None:
    """Refuse a base, an option, a control or a `fit` under `prepare` whose settings are none of `fit`.

    Combinations of options are not looked at; what only data and models tell neither.

    Args:
        study: What is asked.

    Raises:
        ValueError: `fit` would refuse one of them.
    """
    space = DesignSpace(study)
    runs = Roster(study, space).runs(_alone(study, space), lambda _: None)
    settings = {f"prepare.{name}": merged(step.config) for name, step in study.prepare.items() if step.command == "fit"}
    settings |= {run.name: with_folder(run.settings, "run") for run in runs[: len(runs) // len(study.seeds)]}
    with TemporaryDirectory() as folder:
        file = Path(folder, "runs.json")
        file.write_text(json.dumps(settings), encoding="utf-8")
        # In a process of its own: the parser of fit imports Lightning, which nothing else here needs.
        done = subprocess.run(
            [sys.executable, "-m", "pd_lightning", "check-fits", str(file)], capture_output=True, text=True, check=False
        )
    if done.returncode != 0:
        raise ValueError(done.stderr.rpartition(_ERROR)[2].strip())
    unknown = {store for run in runs if (store := _store(run)) and store not in study.teachers}
    if unknown and study.controls.equal_flops:
        print(
            f"No control at equal FLOPs can be made for {', '.join(sorted(unknown))}: teachers does not say who taught "
            "it. Add an entry, now or later, or set controls.equal_flops to false.",
            flush=True,
        )


def _store(run: Run) -> str | None:
    """The store that teaches a run, where one does."""
    teacher = run.settings["model"].get("teacher")
    name = teacher.get("class_path") if isinstance(teacher, dict) else teacher
    if str(name).rpartition(".")[2] != "OfflineTeacher":
        return None
    return str((run.settings["data"].get("init_args") or {}).get("path"))


def _alone(study: StudySettings, space: DesignSpace) -> list[Point]:
    """The base, and every option of each axis alone; of a range both ends."""
    if study.design != "search":
        return space.points(replace(study, design="one_factor", crosses=[]))
    ends = {name: [axis.low, axis.high] if axis.is_range else option_names(axis) for name, axis in study.axes.items()}
    return [space.point({}), *(space.point({name: choice}) for name, found in ends.items() for choice in found)]


def check_sources(study: StudySettings) -> None:
    """Refuse folders that are not there and that nothing under `prepare` will make.

    Args:
        study: What is asked.

    Raises:
        FileNotFoundError: `controls.blocks` or a run under `teachers` is such a folder.
    """
    steps = [merged(step.config) for step in study.prepare.values()]
    blocks = study.controls.blocks
    if blocks is not None and not Path(blocks, MANIFEST_FILE).exists() and not _makes(steps, blocks):
        raise FileNotFoundError(
            f"controls.blocks must be a folder of token blocks, got {blocks}, which is none and is made by nothing "
            "under prepare. Mend controls.blocks."
        )
    for targets, run in study.teachers.items():
        if isinstance(run, str) and not Path(run, "summary.json").exists() and not _makes(steps, run):
            raise FileNotFoundError(
                f"teachers.{targets} must be the run folder of a fit with a summary.json, got {run}, which has none "
                "and is made by nothing under prepare. Mend teachers, train it under prepare, or give its figures."
            )


def _makes(steps: list[Settings], folder: str) -> bool:
    made = [
        place
        for step in steps
        for place in (step.get("output_dir"), (step.get("trainer") or {}).get("default_root_dir"))
        if place is not None
    ]
    return Path(folder) in map(Path, made)
