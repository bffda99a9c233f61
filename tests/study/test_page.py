"""The report of a study, out of folders written by hand."""

import csv
import io
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml
from rich.console import Console
from scipy import stats

from pd_lightning.cli import main
from pd_lightning.study.axis_scale import axis_scale
from pd_lightning.study.curves import logged_lines, thinned
from pd_lightning.study.outline import Axis, Control, Option, Point, Study, write_study
from pd_lightning.study.page import write_study_report
from pd_lightning.study.results import Row, write_results
from pd_lightning.study.summary import show

STUDY = Study(
    title="The paper",
    name="tiny",
    metric="val/lm_loss",
    direction="minimize",
    design="one_factor",
    seeds=[1, 2, 3],
    axes=[
        Axis("k", "k of top-p-k", "50", [Option("10", 10.0), Option("50", 50.0)]),
        Axis("loss", "loss", "kld", [Option("kld"), Option("mse")]),
    ],
    points=[
        Point("base", {"k": "50", "loss": "kld"}, [], "lm", "lm 2x", "base"),
        Point("k=10", {"k": "10", "loss": "kld"}, ["k"], "lm", "lm 2x", "k10"),
        Point("loss=mse", {"k": "50", "loss": "mse"}, ["loss"], "lm", "lm 2x", "mse"),
        Point("k=10, loss=mse", {"k": "10", "loss": "mse"}, ["k", "loss"], "lm", "lm 2x", "both"),
    ],
    controls=[
        Control("lm", "lm", "lm", ["base", "k=10", "loss=mse", "k=10, loss=mse"]),
        Control("lm 2x", "equal_flops", "lm2", ["base", "k=10", "loss=mse", "k=10, loss=mse"]),
    ],
    crosses=[["k", "loss"]],
    costs={"teacher_forward": 1.0, "teacher_training": 0.0},
)
VALUES = {
    "base": [4.0, 4.1, 4.2],
    "k=10": [4.02, 4.09, 4.2],
    "loss=mse": [4.5, 4.6, 4.71],
    "k=10, loss=mse": [4.4, 4.5, 4.61],
    "lm": [4.1, 4.21, 4.3],
    "lm 2x": [3.9, 4.0, 4.1],
}
AGAINST_CONTROLS = [("lm", "better"), ("lm 2x", "worse")]  # of the base
SETTINGS = {"model": {"lr": {"class_path": "pd_lightning.schedules.WSD"}}, "trainer": {"max_steps": 8}}


def plus_minus(values: list[float], sign: str = "") -> str:
    """Mean and half of the 95% interval, by scipy."""
    low, high = stats.ttest_1samp(values, 0.0).confidence_interval(0.95)
    return f"{sum(values) / len(values):{sign}.4f} ± {(high - low) / 2:.4f}".replace("-", "−")


def less(ours: str, theirs: str, verdict: str) -> str:
    """The cell of a difference."""
    return f"{plus_minus([a - b for a, b in zip(VALUES[ours], VALUES[theirs], strict=True)], '+')}|{verdict}"


def rows(values: dict[str, list[float]], study: Study = STUDY) -> list[Row]:
    """Complete runs with these values by seed."""
    axes = {point.name: point.axes for point in study.points}
    kinds = {control.name: control.kind for control in study.controls}
    slugs = {name: slug for (_, name), slug in study.slugs().items()}
    return [
        Row(
            name, kinds.get(name, "point"), seed, "complete", value, axes=axes.get(name, {}), student_tokens=1e6,
            student_flops=1e12, total_flops=2e12, train_seconds=3.5, run=f"runs/{slugs[name]}/seed-{seed}",
        )
        for name, found in values.items()
        for seed, value in enumerate(found, 1)
    ]  # fmt: skip


def write(folder: Path, runs: list[Row], study: Study = STUDY) -> Path:
    """The folder of a study: with the runs' settings and with what they logged."""
    write_study(folder, study)
    write_results(folder / "results.csv", runs)
    for row in runs:
        if row.state == "complete":
            run = folder / row.run
            (run / "logs").mkdir(parents=True)
            (run / "trial.yaml").write_text(yaml.safe_dump({**SETTINGS, "seed_everything": row.seed}))
            with (run / "logs" / "metrics.csv").open("w") as file:
                writer = csv.writer(file)
                writer.writerow(["step", "train/kd_weight", "train/lr", "train/lm_loss", "val/lm_loss"])
                writer.writerows([step, step / 4, 0.1, 9 - step, ""] for step in range(4))
                writer.writerow([3, "", "", "", row.value])
    return folder


class Words(HTMLParser):
    """The text of a page, and the cells of its tables by their chapter."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.text, self.tables, self.chapter, self.inside = "", {}, "", ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        self.inside = tag
        if tag == "h2":
            self.chapter = ""
        if tag == "tr":
            self.tables.setdefault(self.chapter, []).append([])
        if tag in ("td", "th"):
            self.tables[self.chapter][-1].append("")

    def handle_data(self, data):
        self.text += data
        if self.inside == "h2":
            self.chapter += data
        if self.inside in ("td", "th", "br", "span"):
            self.tables[self.chapter][-1][-1] += f"|{data}" if self.inside == "span" else data

    def handle_endtag(self, tag):
        self.inside = ""


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_study_report(write(tmp_path_factory.mktemp("study"), rows(VALUES)))


def test_the_page_needs_nothing_from_outside(report):
    source = report.read_text(encoding="utf-8")
    assert not re.search(r"https?:|url\(|@import|\bsrc=|\bhref=\"[^#]|<script|<link|<img", source)
    assert "default-src 'none'" in source


def test_chapters_come_in_the_order_of_a_reader(report):
    contents = re.findall(r'<a href="#part-\d+">(.*?)</a>', report.read_text(encoding="utf-8"))
    assert contents == [
        "What helped, what hurt, what is noise", "k of top-p-k", "loss", "k of top-p-k × loss", "Curves and schedules",
        "Costs", "Best configuration", "How this report is made",
    ]  # fmt: skip


def test_the_first_table_says_what_helped(report):
    table = Words(report).tables["What helped, what hurt, what is noise"]
    assert table[1:3] == [["k of top-p-k", "–", "–", "10", "–"], ["loss", "–", "mse", "–", "–"]]
    header, k, loss = table[3:]
    assert header[-1] == "against LM only, equal FLOPs"
    assert k[:3] == ["k of top-p-k", "50", plus_minus(VALUES["base"])]
    assert k[3:] == [less("base", "k=10", "within noise"), *(less("base", *each) for each in AGAINST_CONTROLS)]
    assert loss[3] == less("base", "loss=mse", "better")


def test_an_axis_has_its_options_beside_controls_and_base(report):
    words = Words(report)
    base, mse = plus_minus(VALUES["base"]), plus_minus(VALUES["loss=mse"])
    against = [less("loss=mse", name, "worse") for name in ("lm", "lm 2x", "base")]
    assert words.tables["loss"][1:] == [
        ["kld|base", base, "3", *(less("base", *each) for each in AGAINST_CONTROLS), "–"],
        ["mse", mse, "3", *against],
    ]
    second = less("base", "loss=mse", "better").replace("|", ", ")
    assert f"Best: kld, {base}. Against the second, mse: {second}." in words.text


def test_a_cross_is_a_grid_of_the_metric_and_of_the_differences(report):
    table = Words(report).tables["k of top-p-k × loss"]
    assert table[0] == ["k of top-p-k \\ loss", "kld", "mse"]
    assert [row[0] for row in table] == ["k of top-p-k \\ loss", "10", "50"] * 3
    assert table[1][2] == plus_minus(VALUES["k=10, loss=mse"])
    assert table[4][2] == less("k=10, loss=mse", "lm", "worse")
    assert table[8][1] == less("base", "lm 2x", "worse")


def test_the_introduction_counts_what_is_there_and_what_chance_would_do(report):
    text = Words(report).text
    assert "4 points and 2 controls, 3 seeds each." in text
    assert "18 of 18 runs are complete." in text
    second = less("base", "k=10", "within noise").replace("|", ", ")
    assert f"The base is the best. Against the runner-up, k=10: {second}. 1 of 3 others cannot be told from it." in text
    # Eight with controls, two with the base, which are the best two of each axis as well.
    assert "10 comparisons have an interval; 9 of them are better or worse." in text
    assert "the chance that one of them is so would be 50% at most." in text


def test_losses_and_schedules_are_drawn_over_the_run(report):
    source = report.read_text(encoding="utf-8")
    labels = re.findall(r'aria-label="Line chart: (.*?)\.', source)
    assert {"val/lm_loss (nats) on the way", "train/lm_loss (nats) on the way", "KD weight"} <= set(labels)
    assert "learning rate" not in labels  # a constant
    assert "base goes from 9 to 6" in source


def test_best_yaml_is_what_fit_was_given_in_a_folder_of_its_own(report):
    written = (report.parent / "best.yaml").read_text()
    assert written.startswith(f"# pd-lightning fit --config {(report.parent / 'best.yaml').as_posix()}\n")
    found = yaml.safe_load(written)
    folder = (report.parent / "best").as_posix()
    assert found == {**SETTINGS, "seed_everything": 1, "trainer": {"max_steps": 8, "default_root_dir": folder}}
    assert f"pd-lightning fit --config {(report.parent / 'best.yaml').as_posix()}" in Words(report).text


def test_best_yaml_can_be_read_by_fit(tmp_path, capsys):
    write(tmp_path, rows(VALUES))
    settings = Path(__file__).parents[2] / "configs" / "demo" / "student.yaml"
    (tmp_path / "runs" / "base" / "seed-1" / "trial.yaml").write_bytes(settings.read_bytes())
    write_study_report(tmp_path)
    assert main(["fit", "--config", str(tmp_path / "best.yaml"), "--print_config"]) == 0
    understood = yaml.safe_load(capsys.readouterr().out)
    assert understood["trainer"]["default_root_dir"] == (tmp_path / "best").as_posix()


def test_best_yaml_has_no_secret_and_another_folder_than_a_run_has(tmp_path):
    write(tmp_path, rows(VALUES))
    (tmp_path / "best").mkdir()
    secret = {"trainer": {"logger": {"init_args": {"api_key": "hunter2"}}}}
    (tmp_path / "runs" / "base" / "seed-1" / "trial.yaml").write_text(yaml.safe_dump(secret))
    source = write_study_report(tmp_path).read_text(encoding="utf-8")
    assert "hunter2" not in source + (tmp_path / "best.yaml").read_text()
    assert yaml.safe_load((tmp_path / "best.yaml").read_text())["trainer"]["default_root_dir"].endswith("/best-2")


def test_failed_runs_are_shown_with_their_error_as_text(tmp_path):
    runs = rows(VALUES)
    error = "Traceback:\n  <b>\nValueError: k must be <positive>, got 0."
    runs = [replace(row, state="failed", value=None, error=error) if row.point == "k=10" else row for row in runs]
    runs = [
        replace(row, state="running", value=None) if row.point == "lm 2x" and row.seed == 3 else row for row in runs
    ]
    path = write_study_report(write(tmp_path, runs, replace(STUDY, title="<i>")))
    words = Words(path)
    assert words.tables["Failed runs"][1] == [
        "k=10",
        "1",
        "ValueError: k must be <positive>, got 0.",
        "runs/k10/seed-1",
    ]
    assert words.tables["k of top-p-k"][1] == ["10", "–", "0 of 3", "–", "–", "–"]
    assert words.tables["loss"][1][4].endswith("|worse, 2 of 3 seeds")
    assert words.tables["What helped, what hurt, what is noise"][1] == ["k of top-p-k", "–", "–", "–", "10"]
    assert "14 of 18 runs are complete, 3 failed, 1 running." in words.text
    assert error in words.text
    assert "<i>" not in path.read_text(encoding="utf-8")


@pytest.mark.parametrize("state", ["failed", "running", "waiting", "none"])
def test_a_study_without_any_result_has_a_report(tmp_path, state):
    runs = [] if state == "none" else [replace(row, state=state, value=None) for row in rows(VALUES)]
    words = Words(write_study_report(write(tmp_path, runs)))
    assert "No option has a result for every seed yet." in words.text
    assert "No comparison has an interval" in words.text
    assert "No run has logged anything yet." in words.text
    assert not (tmp_path / "best.yaml").exists()


def test_one_seed_has_no_verdict(tmp_path):
    values = {name: found[:1] for name, found in VALUES.items()}
    words = Words(write_study_report(write(tmp_path, rows(values), replace(STUDY, seeds=[1]))))
    assert words.tables["loss"][1] == [
        "kld|base", "4.0000", "1", "−0.1000|one seed: no interval", "+0.1000|one seed: no interval", "–",
    ]  # fmt: skip
    assert words.tables["What helped, what hurt, what is noise"][2] == ["loss", "–", "–", "–", "mse"]


def test_a_search_shows_how_the_best_was_found(tmp_path):
    points = [replace(point, varied=["k", "loss"]) for point in STUDY.points]
    axes = [replace(STUDY.axes[0], options=[]), STUDY.axes[1]]  # a continuous one has no list of options
    study = replace(STUDY, design="search", points=points, axes=axes, crosses=[])
    path = write_study_report(write(tmp_path, rows(VALUES, study), study))
    words = Words(path)
    trials = words.tables["Trials"]
    assert trials[0][-2:] == ["k of top-p-k", "loss"]
    assert [row[0] for row in trials[1:]] == ["1", "2", "4", "3"]
    assert trials[3][-2:] == ["10", "mse"]
    contents = re.findall(r'<a href="#part-\d+">(.*?)</a>', path.read_text(encoding="utf-8"))
    assert contents[:4] == ["History", "Trials", "k of top-p-k", "loss"]
    assert "best so far goes from 4.1 to 4.1" in path.read_text(encoding="utf-8")


def test_a_grid_is_shown_as_one(tmp_path):
    study = replace(STUDY, design="grid", crosses=[])
    words = Words(write_study_report(write(tmp_path, rows(VALUES, study), study)))
    assert "k of top-p-k × loss" in words.tables


def test_the_terminal_gets_a_line_for_each_point(tmp_path):
    console = Console(width=80, file=io.StringIO())
    show(write(tmp_path, rows(VALUES)), console)
    lines = console.file.getvalue().splitlines()
    (line,) = (line for line in lines if line.strip().startswith("loss=mse"))
    assert line.split() == ["loss=mse", *plus_minus(VALUES["loss=mse"]).split(), "3", *shortly("loss=mse")]
    assert "Best: base. Lower is better. 10 comparisons have an interval" in " ".join(lines)


def shortly(name: str) -> list[str]:
    """The differences to both controls and the base, without their intervals."""
    return [word for each in ("lm", "lm 2x", "base") for word in (less(name, each, "").split()[0], "worse")]


def option(value: float) -> Option:
    return Option(f"{value:g}", value)


def test_options_stand_where_their_numbers_are_if_these_can_be_told_apart():
    assert axis_scale([option(0.5), option(0.9)]).places == {"0.5": 0.5, "0.9": 0.9}
    ratios = axis_scale([option(value) for value in (1, 5, 100)])
    assert (ratios.log, ratios.names, ratios.places["100"]) == (True, (), 100)
    assert not axis_scale([option(value) for value in (0.03, 0.2, 0.4, 0.41, 0.8, 1)]).log
    zero = axis_scale([option(value) for value in (0, 1, 100)])
    assert (zero.log, zero.names, zero.places["100"]) == (False, ["0", "1", "100"], 2)
    assert axis_scale([option(1), Option("all")]).places == {"1": 0, "all": 1}
    assert axis_scale([option(1)]).names == ["1"]
    assert axis_scale([]).names == []


def test_logged_figures_survive_a_crash(tmp_path):
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "metrics.csv").write_text("step,a,b\n0,1.5,\n1,nan,2\n2,3e0,x\n3,4")
    assert logged_lines(tmp_path) == {"a": [(1, 1.5), (3, 3.0), (4, 4.0)], "b": [(2, 2.0)]}
    assert logged_lines(tmp_path / "none") == {}


def test_long_lines_are_thinned_to_means_of_neighbours():
    line = [(float(step), float(step % 2)) for step in range(1, 241)]
    assert thinned(line) == [(step, 0.5) for step in range(2, 241, 2)]
    assert thinned(line[:120]) == line[:120]
    assert thinned([]) == []
