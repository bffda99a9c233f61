"""`docs/results.md` says what the runs of the paper in miniature gave."""

import re
from pathlib import Path
from typing import Literal

import pytest
import yaml

from pd_lightning.scaling.fit_command import fit_law
from pd_lightning.study.outline import read_study
from pd_lightning.study.results import COMPLETE, read_results

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "docs" / "results" / "paper_mini"
LEARNING_RATES = ROOT / "docs" / "results" / "paper_mini_lr"
PAGE = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")


def test_tables_and_figures_are_those_of_the_runs() -> None:
    from results import results

    told = "\n".join(line for folder in (FOLDER, LEARNING_RATES) for line in results(folder)).splitlines()
    tables = [line for line in PAGE.splitlines() if " ± " in line and line.startswith("|")]
    assert len(tables) > 50
    assert [line for line in tables if line not in told] == []
    came_out = PAGE.partition("## What came out")[2].partition("## The scaling law")[0]
    figures = re.findall(r"\d\.\d{4}", re.sub(r"^\|.*", "", came_out, flags=re.MULTILINE))
    assert figures
    assert [figure for figure in figures if figure not in "\n".join(told)] == []


@pytest.mark.parametrize(
    ("law", "bootstrap"),
    [
        pytest.param(law, bootstrap, marks=pytest.mark.slow if bootstrap else [])
        for bootstrap in (0, 200)
        for law in ("chinchilla_kd", "apple")
    ],
)
def test_the_largest_run_is_predicted_as_the_page_says(
    law: Literal["chinchilla_kd", "apple"], bootstrap: int, tmp_path: Path
) -> None:
    found = fit_law(str(FOLDER), str(tmp_path), law, axes=["student", "tokens", "teacher"], bootstrap=bootstrap)
    rows = [
        [float(figure) for figure in re.findall(r"[+-]?\d+\.\d+", line.replace("−", "-"))[1:]]  # but the teacher
        for line in PAGE.splitlines()
        if line.startswith(f"| {law} |")
    ]
    assert len(rows) == len(found.largest) == 2
    largest = sorted(found.largest, key=lambda row: row.measured)
    for row, (measured, predicted, low, high, error, folds) in zip(largest, sorted(rows), strict=True):
        assert [row.measured, row.predicted] == pytest.approx([measured, predicted], abs=2e-3)
        assert 100 * row.error == pytest.approx(error, abs=0.1)
        assert 100 * abs(found.fold_errors).mean() == pytest.approx(folds, abs=0.1)
        assert not bootstrap or [row.low, row.high] == pytest.approx([low, high], abs=0.02)


def test_the_teachers_losses_are_those_of_the_runs() -> None:
    losses = {row.teacher_loss for row in read_results(FOLDER / "results.csv") if row.teacher_loss is not None}
    smaller, larger = sorted(losses, reverse=True)
    assert f"The teachers end at {smaller:.3f} and {larger:.3f}" in PAGE
    assert f"The larger teacher ends at {larger:.3f} instead of {smaller:.3f}" in PAGE


@pytest.mark.parametrize("folder", [FOLDER, LEARNING_RATES], ids=lambda folder: folder.name)
def test_the_runs_are_those_that_the_yaml_asks_for(folder: Path) -> None:
    asked = yaml.safe_load((ROOT / "configs" / "study" / f"{folder.name}.yaml").read_text(encoding="utf-8"))
    study, rows = read_study(folder), read_results(folder / "results.csv")
    assert [axis.name for axis in study.axes] == list(asked["axes"])
    assert list(study.seeds) == asked["seeds"]
    assert [list(cross) for cross in study.crosses] == asked.get("crosses", [])
    assert {row.state for row in rows} == {COMPLETE}


def test_every_axis_has_its_table_and_the_page_says_what_it_took() -> None:
    study, rows = read_study(FOLDER), read_results(FOLDER / "results.csv")
    hours = sum(row.train_seconds or 0 for row in rows) / 3600
    assert f"trains {len(rows)} runs: {hours:.1f} core-hours" in PAGE
    for axis in study.axes:
        shown = [line for line in PAGE.splitlines() if line.startswith(f"| {axis.title} | mean")]
        assert len(shown) == 1, axis.name
    for cross in study.crosses:
        titles = [axis.title for axis in study.axes if axis.name in cross]
        heads = f"| {titles[0]} \\ {titles[1]} |"
        assert heads in PAGE, cross
