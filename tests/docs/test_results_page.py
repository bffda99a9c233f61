"""`docs/results.md` says what the runs of the paper in miniature gave."""

import re
import sys
from pathlib import Path

import yaml

from pd_lightning.study.outline import read_study
from pd_lightning.study.results import COMPLETE, read_results

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "docs" / "results" / "paper_mini"
PAGE = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")

sys.path.insert(0, str(ROOT / "tools"))


def test_tables_and_figures_are_those_of_the_runs() -> None:
    from results import results

    told = "\n".join(results(FOLDER)).splitlines()
    came_out = PAGE.partition("## What came out")[2]
    tables = [line for line in came_out.splitlines() if " ± " in line and line.startswith("|")]
    assert len(tables) > 50
    assert [line for line in tables if line not in told] == []
    figures = re.findall(r"\d\.\d{4}", re.sub(r"^\|.*", "", came_out, flags=re.MULTILINE))
    assert figures
    assert [figure for figure in figures if figure not in "\n".join(told)] == []


def test_the_teachers_losses_are_those_of_the_runs() -> None:
    losses = {row.teacher_loss for row in read_results(FOLDER / "results.csv") if row.teacher_loss is not None}
    smaller, larger = sorted(losses, reverse=True)
    assert f"The teachers end at {smaller:.3f} and {larger:.3f}" in PAGE
    assert f"The larger teacher ends at {larger:.3f} instead of {smaller:.3f}" in PAGE


def test_the_runs_are_those_that_the_yaml_asks_for() -> None:
    asked = yaml.safe_load((ROOT / "configs" / "study" / "paper_mini.yaml").read_text(encoding="utf-8"))
    study, rows = read_study(FOLDER), read_results(FOLDER / "results.csv")
    assert [axis.name for axis in study.axes] == list(asked["axes"])
    assert (list(study.seeds), [list(cross) for cross in study.crosses]) == (asked["seeds"], asked["crosses"])
    done = {row.point for row in rows if row.state == COMPLETE}
    for axis in study.axes:
        shown = [line for line in PAGE.splitlines() if line.startswith(f"| {axis.title} | mean")]
        points = {point.name for _, point in study.along(axis)}
        assert len(shown) == (points <= done), axis.name
