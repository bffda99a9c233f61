"""Runs out of a study's results.csv, or out of run folders."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import yaml

from pd_lightning.scaling.laws import Sizes
from pd_lightning.scaling.runs import Runs
from pd_lightning.store.json_files import read_json

Role = Literal["distilled", "supervised"]
Row = dict[str, Any]

# What a row must have, and who writes it.
_ALWAYS = ("student_params_non_embedding", "student_tokens")
_SETTINGS = {
    "teacher_loss": "Name the run that trained the teacher under `teachers` of the study and take the study's "
    "results.csv, or choose a law without teachers with --law.",
}


def read_rows(paths: Sequence[str | Path], metric: str, axes: Sequence[str] | None = None) -> list[Row]:
    """Read all complete runs.

    Args:
        paths: CSV files, folders of studies, or folders of runs.
        metric: The validation figure that is the loss, as `val/lm_loss`.
        axes: Keep only points of a study that differ from its base in these axes alone; all points by default.

    Returns:
        Rows with the columns of results.csv as text, `loss`, and `distilled`, whether a teacher took part.

    Raises:
        FileNotFoundError: There is nothing to read at a path.
        ValueError: No run is complete, or a table has no such metric.
    """
    rows = [row for path in paths for row in _rows(Path(path), metric, axes)]
    if not rows:
        raise ValueError(
            f"{', '.join(map(str, paths))} must hold complete runs, got none. Wait for the study, look at the errors "
            "in its results.csv, or name other axes with --axes."
        )
    return rows


def as_runs(rows: Iterable[Row], role: Role, teacher: bool = False) -> Runs:
    """Put the rows of a role together.

    Args:
        rows: Of `read_rows`.
        role: Students with a teacher, or without.
        teacher: Whether the teacher's loss is needed.

    Returns:
        The runs.

    Raises:
        ValueError: There are none, a figure is missing, or runs of equal sizes differ in other settings.
    """
    rows = [row for row in rows if row["distilled"] == (role == "distilled")]
    if not rows:
        other = "supervised" if role == "distilled" else "distilled"
        raise ValueError(
            f"the results must hold {role} runs, got none. Choose the others with --role={other}, or another --law."
        )
    _same_settings(rows, ("teacher_params", "teacher_loss") if teacher else ())
    params, tokens = (np.array([_figure(row, column) for row in rows]) for column in _ALWAYS)
    of_teacher = np.array([_figure(row, "teacher_loss") for row in rows]) if teacher else None
    flops = [float(row.get("student_flops") or 0) or 6 * n * d for row, n, d in zip(rows, params, tokens, strict=True)]
    losses = np.array([_figure(row, "loss") for row in rows])
    return Runs(Sizes(params, tokens, of_teacher), losses, np.array(flops))


def _rows(path: Path, metric: str, axes: Sequence[str] | None) -> list[Row]:
    if (path / "results.csv").is_file():
        path = path / "results.csv"
    if path.is_file():
        return _of_table(path, metric, axes)
    if (path / "summary.json").is_file():
        return [_of_folder(path, metric)]
    raise FileNotFoundError(
        f"{path} must be a results.csv, a study's folder or a run's folder with summary.json, got none of them. "
        "Name with --results what `pd-lightning study` or `fit` wrote."
    )


def _of_table(path: Path, metric: str, axes: Sequence[str] | None) -> list[Row]:
    with path.open(newline="", encoding="utf-8") as file:
        rows: list[Row] = list(csv.DictReader(file))
    columns = {"role", "state", metric, *_ALWAYS}
    if rows and not columns <= rows[0].keys():
        missing = ", ".join(sorted(columns - rows[0].keys()))
        raise ValueError(
            f"{path} must have the columns {', '.join(sorted(columns))}, got none called {missing}. Name the loss with "
            "--metric, and the results.csv of `pd-lightning study` with --results."
        )
    rows = [row for row in rows if row["state"] == "complete" and row[metric]]
    if axes is not None:
        kept = _points_of(path.parent, axes)
        rows = [row for row in rows if row["point"] in kept]
    return [{**row, "loss": float(row[metric]), "distilled": _is_distilled(row)} for row in rows]


def _is_distilled(row: Row) -> bool:
    """Whether a run of a study had a teacher: a point may be one without, whose teacher then took no operations."""
    return row["role"] == "point" and float(row.get("teacher_flops") or 1) > 0


def _points_of(folder: Path, axes: Sequence[str]) -> set[str]:
    """Names of the points that differ from the base in these axes alone, and of their controls."""
    if not (folder / "study.json").is_file():
        raise FileNotFoundError(
            f"{folder} must hold study.json for --axes, got none. Leave --axes out, or name a study's own results.csv."
        )
    study = read_json(folder / "study.json")
    known = [axis["name"] for axis in study["axes"]]
    if unknown := [axis for axis in axes if axis not in known]:
        raise ValueError(f"--axes must name axes of the study, {', '.join(known)}, got {', '.join(unknown)}. Mend it.")
    points = {point["name"] for point in study["points"] if set(point["varied"]) <= set(axes)}
    return points | {control["name"] for control in study["controls"] if points & set(control["of"])}


def _of_folder(path: Path, metric: str) -> Row:
    """A row of one run, from what it wrote."""
    summary = read_json(path / "summary.json")
    student, teacher = summary["student"], summary["teacher"]
    return {
        "run": str(path),
        "distilled": teacher is not None or _is_taught(path, summary.get("metrics", {})),
        "loss": summary.get("metrics", {}).get(metric) or _last_figure(path / "logs" / "metrics.csv", metric),
        "student_params_non_embedding": student["params_non_embedding"],
        "student_tokens": summary["tokens"],
        "student_flops": student["flops_per_token"] * summary["tokens"],
        "teacher_loss": teacher.get("loss") if teacher else None,
    }


def _is_taught(path: Path, figures: dict[str, Any]) -> bool:
    """Whether a run had a teacher, which summary.json tells of live ones alone."""
    config = path / "config.yaml"
    if not config.is_file():
        return any(name.endswith("/kd_loss") for name in figures)
    model = yaml.safe_load(config.read_text(encoding="utf-8")).get("model") or {}
    teacher = model.get("teacher") or {}
    return not str(teacher.get("class_path", "NoTeacher")).endswith("NoTeacher")


def _last_figure(path: Path, metric: str) -> float:
    if not path.is_file():
        raise FileNotFoundError(f"{path} must be there, got no such file. Log with a CSVLogger, as `fit` does.")
    with path.open(newline="", encoding="utf-8") as file:
        found = [row[metric] for row in csv.DictReader(file) if row.get(metric)]
    if not found:
        raise ValueError(f"{path} must have figures of {metric}, got none. Name the loss with --metric.")
    return float(found[-1])


def _figure(row: Row, column: str) -> float:
    value = row.get(column)
    where = row.get("run") or row.get("point")
    if value in (None, ""):
        remedy = _SETTINGS.get(column, "Run it again, so that its summary.json says.")
        raise ValueError(f"the run {where} must have a figure for {column}, got none. {remedy}")
    figure = float(value)
    if not 0 < figure < float("inf"):
        raise ValueError(f"{column} of the run {where} must be positive and finite, got {figure}. Leave the run out.")
    return figure


def _same_settings(rows: list[Row], of_teacher: Sequence[str]) -> None:
    """Refuse runs of equal sizes that differ in axes: a law knows of sizes alone."""
    seen: dict[tuple[Any, ...], Row] = {}
    for row in rows:
        sizes = (row.get("role"), *(row.get(column) for column in (*_ALWAYS, *of_teacher)))
        first = seen.setdefault(sizes, row)
        names = [key for key in row if key.startswith("axis.") and row[key] != first.get(key, row[key])]
        if names and first.get("point") != row.get("point"):
            differing = ", ".join(name.removeprefix("axis.") for name in names)
            raise ValueError(
                f"runs of equal sizes must have equal settings, got {first['point']} and {row['point']}, which differ "
                f"in {differing}. Name the axes that change sizes, as --axes='[student, tokens]'."
            )
