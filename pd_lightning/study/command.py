"""`pd-lightning study`: its settings, its workers, its report."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Literal

from pd_lightning.composition.yaml_files import as_yaml, read_yaml
from pd_lightning.redaction import refuse_secrets
from pd_lightning.store.durable import write_durably
from pd_lightning.study.figures import check_teachers
from pd_lightning.study.options import check_options, check_sources
from pd_lightning.study.outline import STUDY
from pd_lightning.study.points import DesignSpace, merged
from pd_lightning.study.roster import Roster, Run
from pd_lightning.study.settings import Axis, Controls, Design, Layer, Slurm, Step, StudySettings

STUDY_FILE = "study.yaml"
STORAGE = "PD_LIGHTNING_STUDY__STORAGE"


def study(
    fit: list[Layer],
    output_dir: str,
    axes: dict[str, Axis],
    title: str = "",
    name: str | None = None,
    design: Design = "one_factor",
    crosses: list[list[str]] | None = None,
    seeds: list[int] | None = None,
    seed_settings: list[str] | None = None,
    controls: Controls | None = None,
    prepare: dict[str, Step] | None = None,
    teachers: dict[str, Layer] | None = None,
    metric: str = "val/lm_loss",
    direction: Literal["minimize", "maximize"] = "minimize",
    n_trials: int | None = None,
    sampler: Literal["tpe", "gp", "qmc", "random"] = "tpe",
    sampler_seed: int = 1,
    storage: str | None = None,
    workers: int = 1,
    threads: int | None = None,
    gpus_per_worker: int = 0,
    slurm: Slurm | None = None,
    retry_failed: bool = False,
    dry_run: bool = False,
    report: bool = True,
    report_only: bool = False,
) -> None:
    """Train the points of a design space with several seeds, beside fair controls, and report what helped.

    Every trial is an ordinary `fit` in a run folder of its own. Stopped at any moment, the same command goes on; given
    on further machines that see the same folder, they share the trials.

    Args:
        fit: The base: YAML files of `fit`, or mappings of its settings, laid one over the other.
        output_dir: The study's folder.
        axes: What is varied, by a name of yours.
        title: Heading of the report. Default: the name.
        name: Of the study in Optuna's storage. Default: the last part of output_dir.
        design: `one_factor`: the base, and every other option of each axis alone; `grid`: all combinations; `search`:
            n_trials points that Optuna chooses.
        crosses: Groups of axes of which all combinations are trained too, in design one_factor.
        seeds: Seeds of every point and control. Default: 1. Intervals need two, and three say something.
        seed_settings: Settings of `fit` that take the seed. Default: seed_everything and data.init_args.seed.
        controls: The students on the text alone that points are compared with.
        prepare: Commands that are run once before any trial, in order, by name: tokens, teachers, stores.
        teachers: Who taught: for the data folder or the model folder that a run names, the run folder of the teacher's
            `fit`, or its params, params_non_embedding, tokens, loss and flops_per_token. Needed for equal FLOPs with
            a store, and for scaling laws.
        metric: The validation figure that is compared.
        direction: Whether less of it is better, or more.
        n_trials: Points of a search.
        sampler: How a search chooses: TPE, a Gaussian process, quasi-Monte Carlo, or at random.
        sampler_seed: Of that choice.
        storage: Where Optuna keeps the trials: SQLite in output_dir by default, `journal` for a journal file there,
            or a database, as in postgresql://user@host/studies; PD_LIGHTNING_STUDY__STORAGE keeps a password out of
            files.
        workers: Trials at once on this machine; with slurm, jobs.
        threads: CPU threads of each trial. Default: the cores that there are, of this machine or a job, over the
            workers.
        gpus_per_worker: GPUs of this machine that each worker has to itself; 0 leaves them to the trials.
        slurm: Submit the workers as SLURM jobs and return.
        retry_failed: Let trials that failed run again.
        dry_run: Show the points and their number of runs, and stop.
        report: Write the report at the end.
        report_only: Write the report of what there is, and stop.

    Raises:
        FileNotFoundError: A YAML file does not exist.
        ValueError: A setting is out of its range, or no setting of `fit`.
    """
    given = {key: value for key, value in locals().items() if key in StudySettings.__dataclass_fields__}
    given = {key: value for key, value in given.items() if value is not None}
    if workers < 1 or gpus_per_worker < 0:
        raise ValueError(
            f"workers must be at least 1 and gpus_per_worker not negative, got {workers} and {gpus_per_worker}. Set "
            "--workers and --gpus_per_worker."
        )
    if slurm is not None and gpus_per_worker:
        raise ValueError(
            f"gpus_per_worker must be left out with slurm, whose jobs have their own, got {gpus_per_worker}. Set "
            "slurm.parameters.gpus_per_node."
        )
    if slurm is None and threads is None:  # a job counts its own cores
        given["threads"] = max(1, _cores() // workers)
    asked = StudySettings(**{"name": Path(output_dir).name, **given})
    _check(asked)
    folder = Path(output_dir)
    if not report_only and (dry_run or not _is_saved(asked)):
        check_options(asked)
    if retry_failed and not (dry_run or report_only):
        _retry_failed(asked, storage)
    if dry_run:
        _show_plan(asked)
    elif report_only:
        _report(folder)
        _say_what_is_left_aside(asked)
    elif slurm is not None:
        from pd_lightning.study.slurm import submit

        submit(slurm, workers, _worker_command(_save(asked)), folder, _environment(storage))
    else:
        codes = _run(asked, storage, workers, gpus_per_worker)
        if report:
            _report(folder)
        if any(codes):
            raise ValueError(
                f"All workers must end well, got exit codes {codes} of the others. Their messages stand above; give "
                "the same command again to go on."
            )


def _cores() -> int:
    """The cores that this process may use, which in a job are fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _check(asked: StudySettings) -> None:
    check_teachers(asked.teachers)
    check_sources(asked)
    refuse_secrets([merged(step.config) for step in asked.prepare.values()])
    for run in _planned(asked):
        refuse_secrets(run.settings)


def _planned(asked: StudySettings) -> list[Run]:
    """The runs that are known beforehand; controls at equal FLOPs come when those are counted."""
    space = DesignSpace(asked)
    points = space.points(asked) or [space.point({})]
    return Roster(asked, space).runs(points, lambda _: None)


def _show_plan(asked: StudySettings) -> None:
    from rich.console import Console
    from rich.table import Table

    runs = _planned(asked)
    table = Table(title=asked.title or asked.name)
    for column in ("role", "point", "steps", "seeds"):
        table.add_column(column, justify="right" if column in ("steps", "seeds") else "left")
    for run in runs[: len(runs) // len(asked.seeds)]:
        table.add_row(run.role, run.name, f"{run.settings['trainer']['max_steps']:,}", str(len(asked.seeds)))
    console = Console()
    console.print(table)
    steps = sum(run.settings["trainer"]["max_steps"] for run in runs)
    if asked.design == "search":
        number = len(asked.seeds)
        seeds = "1 seed" if number == 1 else f"{number} seeds"
        console.print(f"The base of a search of {asked.n_trials} points, each with {seeds}.", highlight=False)
    else:
        console.print(f"{len(runs)} runs, {steps:,} optimizer steps in all.", highlight=False)
    if asked.controls.equal_flops:
        console.print("Controls at equal FLOPs come on top, when the FLOPs of a point and its teacher are counted.")


def _save(asked: StudySettings) -> Path:
    path = Path(asked.output_dir) / STUDY_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    write_durably(path, _text(asked).encode())
    return path


def _is_saved(asked: StudySettings) -> bool:
    """Whether the study was started as it is before, or this is one of its workers."""
    path = Path(asked.output_dir) / STUDY_FILE
    return path.exists() and path.read_text(encoding="utf-8") == _text(asked)


def _say_what_is_left_aside(asked: StudySettings) -> None:
    """A report is of the study as it ran: what a command gives beside it is for the next start."""
    path = Path(asked.output_dir) / STUDY_FILE
    if path.exists():
        saved, given = read_yaml(str(path)), asdict(asked)
        others = [
            key for key in given if key != "threads" and as_yaml({"": given[key]}) != as_yaml({"": saved.get(key)})
        ]
        if others:
            print(
                f"The report is of the study as it was started; other values of {', '.join(others)} take a new start."
            )


def _text(asked: StudySettings) -> str:
    return as_yaml(asdict(asked))


def _worker_command(path: Path) -> list[str]:
    return [sys.executable, "-m", "pd_lightning", "study", "--config", str(path), "--workers=1", "--report=false"]


def _environment(storage: str | None) -> dict[str, str]:
    return {} if storage is None else {STORAGE: storage}


def _retry_failed(asked: StudySettings, storage: str | None) -> None:
    from pd_lightning.study.queue import TrialQueue

    print(f"{TrialQueue(asked, storage).retry_failed()} trials that failed run again.", flush=True)


def _run(asked: StudySettings, storage: str | None, workers: int, gpus_per_worker: int) -> list[int]:
    from pd_lightning.study.worker import work

    path = _save(asked)
    environments = [{**os.environ, **_environment(storage), **_gpus(i, gpus_per_worker)} for i in range(workers)]
    helpers = [subprocess.Popen(_worker_command(path), env=environment) for environment in environments[1:]]
    os.environ |= _gpus(0, gpus_per_worker)
    try:
        work(asked, storage)
    finally:
        codes = [helper.wait() for helper in helpers]
    return codes


def _gpus(worker: int, number: int) -> dict[str, str]:
    """A worker's share of the GPUs that this process may use."""
    if number == 0:
        return {}
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    mine = range(worker * number, (worker + 1) * number)
    if visible is None:
        return {"CUDA_VISIBLE_DEVICES": ",".join(map(str, mine))}
    ids = visible.split(",")
    if mine[-1] >= len(ids):
        raise ValueError(
            f"workers times gpus_per_worker must be at most the GPUs in CUDA_VISIBLE_DEVICES, got {visible} and worker "
            f"{worker + 1} with {number}. Lower --workers or --gpus_per_worker."
        )
    return {"CUDA_VISIBLE_DEVICES": ",".join(ids[i] for i in mine)}


def _report(folder: Path) -> None:
    if not (folder / STUDY).exists():
        raise FileNotFoundError(f"output_dir must hold a study, got {folder}, which has no {STUDY}. Start it first.")
    from pd_lightning.study.page import write_study_report
    from pd_lightning.study.summary import show

    page = write_study_report(folder)
    show(folder)
    print(f"Wrote {page} and {folder / 'results.csv'}")
