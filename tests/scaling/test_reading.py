"""Runs out of results.csv and run folders, and what is said where they can't be."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pd_lightning.scaling.reading import as_runs, read_rows
from pd_lightning.scaling.runs import Runs

METRIC = "val/lm_loss"
Rows = list[dict[str, Any]]


@pytest.fixture
def rows(make_runs: Callable[..., Runs], rows_of: Callable[..., Rows]) -> Rows:
    """The rows of a small study: distilled students and their controls."""
    distilled = make_runs("chinchilla", grid=2, teachers=(2.2,))
    return rows_of(distilled, "point") + rows_of(make_runs(grid=2), "lm") + rows_of(make_runs(grid=2), "equal_flops")


@pytest.fixture
def study(rows: Rows, write_results: Callable[..., Path]) -> Callable[..., Path]:
    """A study's folder in which k is varied for one point."""

    def write(**changes: Any) -> Path:
        other_k = {**rows[0], "point": "k=1", "axis.k": "1", "val/lm_loss": 9.0, **changes}
        path = write_results([*rows, other_k], "study/results.csv")
        points = [
            {"name": name, "varied": ["student"]}
            for name in dict.fromkeys(row["point"] for row in rows[: len(rows) // 3])
        ]
        controls = [
            {"name": row["point"], "of": [points[0]["name"]]} for row in rows if row["role"] in ("lm", "equal_flops")
        ]
        text = {
            "axes": [{"name": "student"}, {"name": "k"}],
            "points": [*points, {"name": "k=1", "varied": ["k"]}],
            "controls": [*controls, {"name": "elsewhere", "of": ["k=1"]}],
        }
        (path.parent / "study.json").write_text(json.dumps(text))
        return path.parent

    return write


def test_a_table_gives_the_runs_of_a_role(make_runs: Callable[..., Runs], rows: Rows, write_results: Callable) -> None:
    path = write_results(rows)
    expected = make_runs("chinchilla", grid=2, teachers=(2.2,))
    for found in (as_runs(read_rows([path], METRIC), "distilled", teacher=True),):
        assert np.array_equal(found.losses, expected.losses)
        assert np.array_equal(found.sizes.params, expected.sizes.params)
        assert np.array_equal(found.sizes.tokens, expected.sizes.tokens)
        assert np.array_equal(found.sizes.teacher_loss, expected.sizes.teacher_loss)
        assert np.array_equal(found.points, expected.points)
        assert np.array_equal(found.flops, expected.flops)
    assert len(as_runs(read_rows([path.parent], METRIC), "supervised")) == 16  # both kinds of controls
    assert len(as_runs(read_rows([path, path], METRIC), "distilled")) == 16


def test_a_point_without_a_teacher_is_supervised(rows: Rows, write_results: Callable[..., Path]) -> None:
    rows = [{**row, "teacher_flops": "" if row["role"] == "point" else "0.0"} for row in rows]
    rows[0] |= {"teacher_flops": "0.0", "teacher_loss": "", "teacher_params": ""}
    read = read_rows([write_results(rows)], METRIC)
    assert len(as_runs(read, "distilled", teacher=True)) == 7
    assert len(as_runs(read, "supervised")) == 17


def test_what_is_not_complete_is_left_out(rows: Rows, write_results: Callable[..., Path]) -> None:
    rows[0]["state"], rows[1]["state"], rows[2]["val/lm_loss"] = "failed", "running", ""
    assert len(as_runs(read_rows([write_results(rows)], METRIC), "distilled")) == 5


def test_without_flops_they_are_six_times_the_sizes(rows: Rows, write_results: Callable[..., Path]) -> None:
    rows = [{**row, "student_flops": ""} for row in rows]
    found = as_runs(read_rows([write_results(rows)], METRIC), "distilled")
    assert found.flops == pytest.approx(6 * found.sizes.params * found.sizes.tokens)


def test_other_settings_than_sizes_are_refused_until_axes_are_named(study: Callable[..., Path]) -> None:
    folder = study()
    with pytest.raises(
        ValueError, match=r"got point 0 and k=1, which differ in k. Name the axes that change sizes, as"
    ):
        as_runs(read_rows([folder], METRIC), "distilled")
    kept = read_rows([folder], METRIC, ["student"])
    assert "k=1" not in {row["point"] for row in kept}
    assert len(as_runs(kept, "distilled")) == 8
    assert len(as_runs(kept, "supervised")) == 16


def test_several_teachers_are_refused_where_the_law_knows_none(
    make_runs: Callable[..., Runs], rows_of: Callable[..., Rows], write_results: Callable, true: dict[str, float]
) -> None:
    rows = rows_of(make_runs("chinchilla_kd", {**true, "t": 0.3}, grid=2, teachers=(2.2, 2.8)), "point")
    rows = [{**row, "axis.teacher": row["teacher_loss"]} for row in rows]
    read = read_rows([write_results(rows)], METRIC)
    with pytest.raises(ValueError, match="which differ in teacher"):
        as_runs(read, "distilled")
    assert len(as_runs(read, "distilled", teacher=True)) == 16


@pytest.mark.parametrize("loss", ["nan", "inf", "-1"])
def test_a_loss_that_is_none_is_refused(rows: Rows, write_results: Callable[..., Path], loss: str) -> None:
    rows[2]["val/lm_loss"] = loss
    read = read_rows([write_results(rows)], METRIC)
    with pytest.raises(
        ValueError, match=f"loss of the run runs/point-2 must be positive and finite, got {float(loss)}"
    ):
        as_runs(read, "distilled")


def test_axes_must_be_those_of_the_study(study: Callable[..., Path], write_results: Callable, rows: Rows) -> None:
    with pytest.raises(ValueError, match="--axes must name axes of the study, student, k, got tokens"):
        read_rows([study()], METRIC, ["student", "tokens"])
    with pytest.raises(FileNotFoundError, match=r"must hold study.json for --axes, got none"):
        read_rows([write_results(rows)], METRIC, ["student"])


@pytest.mark.parametrize("column", ["student_params_non_embedding", "role", "val/lm_loss"])
def test_a_missing_column_is_named(rows: Rows, write_results: Callable[..., Path], column: str) -> None:
    rows = [{key: value for key, value in row.items() if key != column} for row in rows]
    with pytest.raises(ValueError, match=f"must have the columns .*, got none called {column}. Name the loss with"):
        read_rows([write_results(rows)], METRIC)


def test_a_missing_figure_is_named(rows: Rows, write_results: Callable[..., Path]) -> None:
    rows[3]["teacher_loss"] = rows[4]["student_tokens"] = ""
    read = read_rows([write_results(rows)], METRIC)
    message = "the run runs/point-4 must have a figure for student_tokens, got none. Run it again"
    with pytest.raises(ValueError, match=message):
        as_runs(read, "distilled")
    read[4]["student_tokens"] = 1e9
    with pytest.raises(ValueError, match=r"runs/point-3 must have a figure for teacher_loss, got none. Name"):
        as_runs(read, "distilled", teacher=True)
    assert len(as_runs(read, "distilled")) == 8  # a law without teachers can do without


def test_a_role_that_is_not_there_is_explained(rows: Rows, write_results: Callable[..., Path]) -> None:
    read = read_rows([write_results([row for row in rows if row["role"] == "point"])], METRIC)
    with pytest.raises(ValueError, match=r"must hold supervised runs, got none. .*--role=distilled"):
        as_runs(read, "supervised")


def test_nothing_complete_is_explained(rows: Rows, write_results: Callable[..., Path]) -> None:
    with pytest.raises(ValueError, match=r"must hold complete runs, got none. Wait for the study"):
        read_rows([write_results([{**row, "state": "waiting"} for row in rows])], METRIC)


def write_run(folder: Path, teacher: dict[str, Any] | None) -> Path:
    (folder / "logs").mkdir(parents=True)
    student = {"params": 3000, "params_non_embedding": 2000, "flops_per_token": 15000.0}
    summary = {"steps": 10, "tokens": 5000, "student": student, "teacher": teacher, "train_seconds": 1.0}
    (folder / "summary.json").write_text(json.dumps(summary))
    (folder / "logs" / "metrics.csv").write_text(
        "step,train/loss,val/lm_loss\n5,4.0,\n5,,3.5\n9,3.9,\n9,,3.25\n9,3.8,\n"
    )
    return folder


def test_a_run_folder_is_a_row(tmp_path: Path) -> None:
    teacher = {"params": 9000, "params_non_embedding": 8000, "loss": 2.5}
    with_one, alone = write_run(tmp_path / "a", teacher), write_run(tmp_path / "b", None)
    rows = read_rows([with_one, alone], METRIC)
    found = as_runs(rows, "distilled", teacher=True)
    assert (found.sizes.params[0], found.sizes.tokens[0], found.sizes.teacher_loss[0]) == (2000, 5000, 2.5)
    assert (found.losses[0], found.flops[0]) == (3.25, 7.5e7)
    assert as_runs(rows, "supervised").losses.tolist() == [3.25]


def test_a_recorded_teacher_is_found_in_the_settings(tmp_path: Path) -> None:
    folders = [write_run(tmp_path / name, None) for name in ("recorded", "none", "figures")]
    for folder, teacher in zip(folders, ("OfflineTeacher", "NoTeacher"), strict=False):
        (folder / "config.yaml").write_text(f"model: {{teacher: {{class_path: pd_lightning.teachers.{teacher}}}}}\n")
    for folder in folders:
        summary = json.loads((folder / "summary.json").read_text())
        summary["metrics"] = {"val/lm_loss": 3.125, "val/kd_loss": 0.5}
        (folder / "summary.json").write_text(json.dumps(summary))
    rows = read_rows(folders, METRIC)
    assert [row["distilled"] for row in rows] == [True, False, True]
    assert [row["loss"] for row in rows] == [3.125] * 3


def test_what_a_run_folder_lacks_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"must be a results.csv, a study's folder or a run's folder with"):
        read_rows([tmp_path / "nowhere"], METRIC)
    folder = write_run(tmp_path / "a", None)
    with pytest.raises(ValueError, match=r"must have figures of val/loss, got none. Name the loss with --metric"):
        read_rows([folder], "val/loss")
    (folder / "logs" / "metrics.csv").unlink()
    with pytest.raises(FileNotFoundError, match=r"metrics.csv must be there, got no such file"):
        read_rows([folder], METRIC)
