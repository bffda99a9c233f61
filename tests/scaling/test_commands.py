"""`pd-lightning scaling-law fit` and `predict`, as they are typed."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pd_lightning.cli import main
from pd_lightning.scaling.laws import LAWS, Sizes
from pd_lightning.scaling.published import distilled_loss, supervised_loss
from pd_lightning.scaling.runs import Runs

PAPER = ["--student_params", "546e6", "--student_tokens", "10.92e9"]
TEACHER = ["--teacher_params", "1.82e9", "--teacher_tokens", "36.4e9"]
QUICK = ["--bootstrap=20", "--folds=2", "--starts=2"]


@pytest.fixture
def results(make_runs: Callable[..., Runs], rows_of: Callable, write_results: Callable, true: dict[str, float]) -> Path:
    """A study of distilled students with two teachers, and their controls."""
    coefficients = {**true, "t": 0.3}
    distilled = make_runs("chinchilla_kd", coefficients, grid=4, teachers=(2.2, 2.8), noise=0.002)
    return write_results(rows_of(distilled, "point") + rows_of(make_runs(grid=4, noise=0.002, seed=1), "lm"))


def fit(results: Path, folder: Path, *more: str) -> int:
    return main(["scaling-law", "fit", "--results", str(results), "--output_dir", str(folder), *QUICK, *more])


def test_published_coefficients_by_default(capsys: pytest.CaptureFixture) -> None:
    assert main(["scaling-law", "predict", *PAPER, *TEACHER]) == 0
    out = capsys.readouterr().out
    assert float(re.search(r"^student, distilled +(\S+)$", out, re.M)[1]) == pytest.approx(2.424, abs=0.005)
    assert float(re.search(r"^teacher +(\S+)$", out, re.M)[1]) == pytest.approx(
        supervised_loss(1.82e9, 36.4e9), abs=1e-4
    )
    assert "arXiv 2502.08606" in out
    assert "warning" not in out


def test_json_and_the_teachers_loss(capsys: pytest.CaptureFixture) -> None:
    assert main(["scaling-law", "predict", *PAPER, "--teacher_loss=2.1", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["distilled_loss"] == distilled_loss(546e6, 10.92e9, 2.1)
    assert found["supervised_loss"] == supervised_loss(546e6, 10.92e9)
    assert found["interval"] is None
    assert main(["scaling-law", "predict", *PAPER, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["distilled_loss"] is None


def test_published_coefficients_warn_outside_their_range(capsys: pytest.CaptureFixture) -> None:
    assert main(["scaling-law", "predict", "--student_params=1e6", "--student_tokens=3e9", "--teacher_loss=9"]) == 0
    out = capsys.readouterr().out
    assert (
        "warning: student_params 1e+06 is outside the runs of the law, 1.43e+08 to 1.26e+10: this is an extrapolation."
        in out
    )
    assert "warning: the teacher's loss 9.0000 is no better than the student's without it" in out
    assert "tokens 3e+09" not in out
    assert main(["scaling-law", "predict", *PAPER, "--teacher_params=1e6", "--teacher_tokens=3e9"]) == 0
    out = capsys.readouterr().out
    assert "warning: teacher_params 1e+06 is outside the runs of the law" in out
    assert "teacher_tokens" not in out
    assert main(["scaling-law", "predict", *PAPER, "--teacher_loss=0.5"]) == 0
    assert (
        "warning: the teacher's loss 0.5 is below 1.22, which no model reaches by this law" in capsys.readouterr().out
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([*PAPER, "--student_tokens=20B"], "student_tokens: the value must be of type float, got 20B. Write 20e9."),
        ([*PAPER, "--student_tokens=-1"], "student_tokens must be positive, got -1.0. Set --student_tokens."),
        (
            [*PAPER, "--teacher_params=1e9"],
            "given together, got none for teacher_tokens. Set --teacher_tokens.",
        ),
        ([*PAPER, *TEACHER, "--teacher_loss=2"], "by its loss or by its sizes, got both (teacher_loss 2.0)."),
        ([*PAPER, "--law_file=no.json"], "a law file must be a law.json, got no.json, where there is none."),
    ],
)
def test_mistakes_are_explained(arguments: list[str], message: str, capsys: pytest.CaptureFixture) -> None:
    assert main(["scaling-law", "predict", *arguments]) in (1, 2)
    assert message in capsys.readouterr().err


def test_a_law_is_fitted_saved_and_used(
    results: Path, tmp_path: Path, true: dict, capsys: pytest.CaptureFixture
) -> None:
    assert fit(results, tmp_path / "law") == 0
    out = capsys.readouterr().out
    assert "Coefficients" in out
    law = json.loads((tmp_path / "law" / "law.json").read_text())
    assert (law["law"], law["role"], law["data"]["runs"], law["data"]["points"]) == ("chinchilla", "supervised", 32, 16)
    assert law["data"]["params"] == [1e7, 1e9]
    held = law["held_out"]["largest"][0]
    assert held["error"] == pytest.approx(held["predicted"] / held["measured"] - 1)
    assert 0 < law["held_out"]["folds"]["mean_error"] < 0.02
    for name, one in law["coefficients"].items():
        assert one["low"] < one["value"] < one["high"], name
        assert one["identified"]
    capsys.readouterr()
    file = str(tmp_path / "law" / "law.json")
    sizes = ["--student_params=1e8", "--student_tokens=1e10"]
    assert main(["scaling-law", "predict", *sizes, "--law_file", file, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    truth = LAWS["chinchilla"].predict(true, Sizes(np.array([1e8]), np.array([1e10])))[0]
    assert found["supervised_loss"] == pytest.approx(truth, rel=0.005)
    assert found["interval"][0] < found["supervised_loss"] < found["interval"][1]
    assert found["interval"][1] / found["interval"][0] < 1.01
    assert (found["warnings"], found["distilled_loss"]) == ([], None)
    assert main(["scaling-law", "predict", *sizes, "--teacher_loss=2", "--law_file", file]) == 0
    assert "warning: the law was fitted to students without a teacher, and says nothing" in capsys.readouterr().out


def test_a_law_with_teachers_predicts_both(results: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert fit(results, tmp_path, "--law=chinchilla_kd", "--hold_out=2") == 0
    law = json.loads((tmp_path / "law.json").read_text())
    assert law["coefficients"]["t"]["value"] == pytest.approx(0.3, abs=0.05)
    assert law["supervised"]["law"] == "chinchilla"
    assert len(law["held_out"]["largest"]) == 4  # two students with two teachers
    capsys.readouterr()
    file = ["--law_file", str(tmp_path / "law.json")]
    sizes = ["--student_params=2e9", "--student_tokens=1e10", *TEACHER]
    assert main(["scaling-law", "predict", *sizes, *file, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    expected = 1.8 + 480 / 1.82e9**0.35 + 2085 / 36.4e9**0.37
    assert found["teacher_loss"] == pytest.approx(expected, rel=0.01)
    assert found["distilled_loss"] > found["supervised_loss"] > 0
    assert found["warnings"] == [
        "student_params 2e+09 is outside the runs of the law, 1e+07 to 1e+09: this is an extrapolation."
    ]
    assert main(["scaling-law", "predict", *PAPER, *file]) == 1
    assert "the law chinchilla_kd must know the teacher, got none. Set --teacher_loss." in capsys.readouterr().err


def test_apples_law_says_what_it_does_not_know(results: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert fit(results, tmp_path, "--law=apple", "--hold_out=0", "--folds=0", "--bootstrap=0", "--starts=1") == 0
    law = json.loads((tmp_path / "law.json").read_text())
    open_ones = [name for name, one in law["coefficients"].items() if not one["identified"]]
    assert "c1" in open_ones  # this data has no capacity gap
    assert {one["name"] for one in law["trade_offs"]} | set(law["at_bounds"]) <= set(open_ones)
    out = capsys.readouterr().out
    assert f"These runs do not fix {', '.join(open_ones)}: use predictions within the runs, not their values." in out
    assert out.count("not identified") == len(open_ones)
    page = (tmp_path / "report.html").read_text()
    assert "These runs do not fix" in page
    assert main(["scaling-law", "predict", *PAPER, "--teacher_loss=2.2", f"--law_file={tmp_path / 'law.json'}"]) == 0
    assert "95% interval" not in capsys.readouterr().out.partition("student alone")[2]
    far = ["--student_params=1e12", "--student_tokens=1e10", "--teacher_loss=2.2"]
    assert main(["scaling-law", "predict", *far, f"--law_file={tmp_path / 'law.json'}"]) == 0
    out = capsys.readouterr().out
    assert f"the runs of the law do not fix {', '.join(open_ones)}: beyond them its interval is too narrow." in out


def test_the_page_shows_what_the_file_says(results: Path, tmp_path: Path) -> None:
    assert fit(results, tmp_path) == 0
    page = (tmp_path / "report.html").read_text()
    law = json.loads((tmp_path / "law.json").read_text())
    for title in ("The fit over the runs", "What the fit leaves", "Beyond the runs"):
        assert f"<h2>{title}</h2>" in page
    assert f"{law['coefficients']['E']['value']:.4g}" in page
    assert f"{law['held_out']['largest'][0]['error']:+.2%}" in page
    assert 'class="band' in page
    assert not re.search(r"\b(nan|inf)\b", page)
    assert "://" not in page


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--hold_out=-1"], "hold_out must be 0 or more, got -1. Set --hold_out."),
        (["--folds=1"], "folds must be 0 or 2 and more, got 1. Set --folds."),
        (["--huber_delta=0"], "huber_delta must be positive, got 0.0. Set --huber_delta"),
        (["--law=apple", "--role=supervised"], "role must be distilled for apple, got supervised."),
        (["--law=apple", "--supervised_law=mine.json"], "a law file must be a law.json, got mine.json"),
        (
            ["--hold_out=12"],
            "hold_out must leave 5 points of different sizes for chinchilla, got 16 points less 12.",
        ),
        (
            ["--law=apple", "--hold_out=99"],
            "must leave 9 points of different sizes for apple, got 32 points less 32. Run",
        ),
        (["--output_dir=a-file"], "output_dir must be a folder, got a-file, which is a file. Set --output_dir."),
        (["--metric=val/perplexity"], "metric must be a loss in nats, got val/perplexity. Set --metric"),
        (["--results=[]"], "results must name runs or a study's folder, got none. Set --results."),
        (["--folds=17"], "folds must be at most the number of points, 16, got 17. Set --folds=16."),
    ],
)
def test_mistakes_of_a_fit_are_explained(
    results: Path,
    tmp_path: Path,
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a-file").touch()
    assert fit(results, tmp_path / "none", *arguments) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


@pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")
def test_a_prediction_without_a_number_is_refused(capsys: pytest.CaptureFixture) -> None:
    """Which JSON could not tell."""
    sizes = ["--student_params=1e-300", "--student_tokens=1e-300", "--teacher_loss=1e-300", "--json"]
    assert main(["scaling-law", "predict", *sizes]) == 1
    said = capsys.readouterr()
    assert "distilled_loss must be finite, got inf by the law." in said.err
    assert said.out == ""


def test_a_file_that_is_no_law_is_explained(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "law.json").write_text("{}")
    assert main(["scaling-law", "predict", *PAPER, f"--law_file={tmp_path / 'law.json'}"]) == 1
    assert "must be a law.json of `pd-lightning scaling-law fit`, got a file without 'data'" in capsys.readouterr().err


def test_settings_come_from_yaml_and_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "sizes.yaml").write_text("student_params: 546e6\nstudent_tokens: 10.92e9\n")
    monkeypatch.setenv("PD_LIGHTNING_SCALING_LAW_PREDICT__TEACHER_LOSS", "2.2508848")
    settings: list[Any] = ["scaling-law", "predict", "--config", str(tmp_path / "sizes.yaml"), "--json"]
    assert main(settings) == 0
    assert json.loads(capsys.readouterr().out)["distilled_loss"] == pytest.approx(2.4238, abs=1e-4)
