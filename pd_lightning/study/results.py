"""``results.csv`` of a study: one row for each run, controls included."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from pd_lightning.store.durable import write_durably

RESULTS = "results.csv"
COMPLETE, FAILED, RUNNING, WAITING = "complete", "failed", "running", "waiting"
AXIS = "axis."


@dataclass(frozen=True)
class Row:
    """One run: a point or a control, with one seed. None stands for what is not known.

    Args:
        point: Name of the point or control.
        role: `point`, `lm` or `equal_flops`.
        seed: Its seed.
        state: `complete`, `failed`, `running` or `waiting`.
        value: The study's metric at the end.
        error: Why it failed.
        axes: Options by axis; of a control those that it shares with its first point, else empty.
        steps: Optimizer steps.
        student_tokens: Tokens that the student was trained on.
        student_params: Parameters of the student.
        student_params_non_embedding: The same without embeddings.
        teacher_params: Parameters of the teacher.
        teacher_params_non_embedding: The same without embeddings.
        teacher_tokens: Tokens that the teacher was trained on.
        teacher_loss: Its validation loss, nats per token.
        student_flops: FLOPs of the student's training.
        teacher_flops: FLOPs of the teacher's forward passes for the targets.
        teacher_training_flops: FLOPs of the teacher's own training.
        total_flops: What counts of them, by the study's `costs`.
        train_seconds: Seconds of training.
        run: The run's folder, relative to the study's.
        figures: Every validation figure of the last validation, by name.
    """

    point: str
    role: str
    seed: int
    state: str
    value: float | None = None
    error: str = ""
    axes: Mapping[str, str] = field(default_factory=dict)
    steps: float | None = None
    student_tokens: float | None = None
    student_params: float | None = None
    student_params_non_embedding: float | None = None
    teacher_params: float | None = None
    teacher_params_non_embedding: float | None = None
    teacher_tokens: float | None = None
    teacher_loss: float | None = None
    student_flops: float | None = None
    teacher_flops: float | None = None
    teacher_training_flops: float | None = None
    total_flops: float | None = None
    train_seconds: float | None = None
    run: str = ""
    figures: Mapping[str, float] = field(default_factory=dict)


# The columns of every study; those of its axes come after `error`, the validation figures at the end.
COLUMNS = tuple(each.name for each in fields(Row) if each.name not in ("axes", "figures"))
_TEXT = ("point", "role", "state", "error", "run")


def write_results(path: Path, rows: Sequence[Row]) -> None:
    """Write `results.csv`, whole or not at all.

    Args:
        path: The file.
        rows: The runs.
    """
    axes = [AXIS + name for name in _union(row.axes for row in rows)]
    figures = sorted(_union(row.figures for row in rows), key=lambda name: (name != "val/lm_loss", name))
    after = COLUMNS.index("error") + 1
    text = io.StringIO()
    writer = csv.DictWriter(text, [*COLUMNS[:after], *axes, *COLUMNS[after:], *figures], lineterminator="\n")
    writer.writeheader()
    writer.writerows(map(_cells, rows))
    write_durably(path, text.getvalue().encode())


def read_results(path: Path) -> list[Row]:
    """Read `results.csv`.

    Args:
        path: The file; a study that has not begun has none.

    Returns:
        The runs, in the file's order.

    Raises:
        ValueError: It is no such file.
    """
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        missing = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
        if missing:
            raise ValueError(
                f"{path} must have the columns of a study's results, got none named {', '.join(missing)}. Write it "
                "again with `pd-lightning study`, which keeps finished runs."
            )
        return [_row(cells) for cells in reader]


def _union(names: Iterable[Iterable[str]]) -> list[str]:
    return list(dict.fromkeys(name for each in names for name in each))


def _cells(row: Row) -> dict[str, Any]:
    cells = {name: getattr(row, name) for name in COLUMNS}
    cells["error"] = "\n".join(row.error.splitlines())  # before Python 3.13, csv leaves a progress bar's \r unquoted
    return cells | {AXIS + name: option for name, option in row.axes.items()} | dict(row.figures)


def _row(cells: dict[str, str]) -> Row:
    known: dict[str, Any] = {name: cells[name] if name in _TEXT else _number(cells[name]) for name in COLUMNS}
    axes = {name.removeprefix(AXIS): text for name, text in cells.items() if name.startswith(AXIS)}
    others = {name: _number(text) for name, text in cells.items() if name not in known and not name.startswith(AXIS)}
    figures = {name: value for name, value in others.items() if value is not None}
    return Row(**known, axes=axes, figures=figures)


def _number(text: str) -> float | None:
    if not text:
        return None
    return int(text) if text.removeprefix("-").isdecimal() else float(text)
