import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from pd_lightning.study.outline import Axis, Control, Option, Point, Study, read_study, write_study
from pd_lightning.study.results import COLUMNS, Row, read_results, write_results

STUDY = Study(
    title="A <study>",
    name="tiny",
    metric="val/lm_loss",
    direction="minimize",
    design="one_factor",
    seeds=[1, 2],
    axes=[
        Axis("k", "k of top-p-k", "50", [Option("1", 1.0), Option("50", 50.0)]),
        Axis("loss", "loss", "kld", [Option("kld"), Option("mse")]),
    ],
    points=[
        Point("base", {"k": "50", "loss": "kld"}, [], "lm", "lm, 2x", "base-1"),
        Point("k=1", {"k": "1", "loss": "kld"}, ["k"], "lm", None, "k-1"),
        Point("k=1, loss=mse", {"k": "1", "loss": "mse"}, ["k", "loss"], "lm", None, "k-2"),
    ],
    controls=[Control("lm", "lm", "lm-1", ["base", "k=1"]), Control("lm, 2x", "equal_flops", "lm-2", ["base"])],
    crosses=[["k", "loss"]],
    costs={"teacher_forward": 1.0, "teacher_training": 0.0},
)
ROWS = [
    Row(
        "base", "point", 1, "complete", 4.1, "", {"k": "50", "loss": "kld"}, steps=900, student_tokens=1_000_000,
        total_flops=1.5e15, train_seconds=12.25, run="runs/base-1/seed-1", figures={"val/a": 1.0, "val/lm_loss": 4.1},
    ),
    Row("base", "point", 2, "failed", None, 'ValueError: "a", b\nand more', {"k": "50", "loss": "kld"}),
    Row("lm", "lm", 1, "complete", 1e-17, figures={"val/lm_loss": 1e-17}),
    Row("lm", "lm", 2, "waiting"),
]  # fmt: skip


def test_a_study_is_read_as_it_was_written(tmp_path: Path):
    write_study(tmp_path / "new", STUDY)
    assert read_study(tmp_path / "new") == STUDY
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["study.json"]


def test_points_along_an_axis_vary_nothing_else():
    (k, loss) = STUDY.axes
    assert [(option.name, point.name) for option, point in STUDY.along(k)] == [("1", "k=1"), ("50", "base")]
    assert [(option.name, point.name) for option, point in STUDY.along(loss)] == [("kld", "base")]
    assert STUDY.base is STUDY.points[0]
    unset = replace(STUDY, axes=[replace(k, base="", options=[k.options[0]])])
    assert [(option.name, point.name) for option, point in unset.along(unset.axes[0])] == [
        ("base", "base"),
        ("1", "k=1"),
    ]
    assert replace(STUDY, design="search").base is None
    assert STUDY.slugs()["equal_flops", "lm, 2x"] == "lm-2"


def test_rows_are_read_as_they_were_written(tmp_path: Path):
    path = tmp_path / "results.csv"
    write_results(path, ROWS)
    found = read_results(path)
    assert found[:2] == ROWS[:2]
    assert [row.value for row in found] == [4.1, None, 1e-17, None]
    assert found[2].axes == {"k": "", "loss": ""}
    assert [path.name for path in tmp_path.iterdir()] == ["results.csv"]


def test_columns_are_those_of_every_study_with_axes_and_figures(tmp_path: Path):
    write_results(tmp_path / "results.csv", ROWS)
    header = (tmp_path / "results.csv").read_text(encoding="utf-8").partition("\n")[0].split(",")
    assert header[:8] == ["point", "role", "seed", "state", "value", "error", "axis.k", "axis.loss"]
    assert header[8:] == [*COLUMNS[6:], "val/lm_loss", "val/a"]


def test_values_that_are_not_finite_are_kept(tmp_path: Path):
    write_results(tmp_path / "results.csv", [Row("base", "point", 1, "complete", math.inf)])
    assert read_results(tmp_path / "results.csv")[0].value == math.inf


def test_an_error_may_hold_a_progress_bar(tmp_path: Path):
    write_results(tmp_path / "results.csv", [Row("base", "point", 1, "failed", error="50%\r100%\r\nValueError: no\n")])
    assert read_results(tmp_path / "results.csv")[0].error == "50%\n100%\nValueError: no"


def test_a_study_that_has_not_begun_has_no_rows(tmp_path: Path):
    assert read_results(tmp_path / "results.csv") == []
    write_results(tmp_path / "results.csv", [])
    assert read_results(tmp_path / "results.csv") == []


def test_other_files_are_refused(tmp_path: Path):
    (tmp_path / "results.csv").write_text("point,role,seed\n")
    with pytest.raises(ValueError, match=r"must have the columns of a study's results, got none named state, value"):
        read_results(tmp_path / "results.csv")
    with pytest.raises(FileNotFoundError, match=r"a study's folder must hold study\.json, got "):
        read_study(tmp_path)
    (tmp_path / "study.json").write_text(json.dumps({"title": "x", "axes": [], "points": []}))
    with pytest.raises(ValueError, match=r"study\.json must be as `pd-lightning study` writes it, got TypeError: "):
        read_study(tmp_path)
