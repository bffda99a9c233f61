from pathlib import Path

import pytest

from pd_lightning.study.compared import AGAINST_BASE, Compared
from pd_lightning.study.growth import growth, growth_texts, has_direction
from pd_lightning.study.outline import Axis, Control, Option, Point, Study, write_study
from pd_lightning.study.results import Row, write_results
from pd_lightning.study.statistics import difference, estimate

SIZES = ("small", "large")


def compared(folder: Path, values: dict[str, list[float | None]], direction: str = "minimize", **changes) -> Compared:
    """A study of k and student with these values by seed; None for a run that failed."""
    axes = [
        Axis("k", "k", "50", [Option("1", 1.0), Option("50", 50.0), Option("100", 100.0)]),
        Axis("student", "student", "small", list(map(Option, SIZES))),
    ]
    points = [
        Point("base", {"k": "50", "student": "small"}, [], "lm", "equal", "p0"),
        Point("k=1", {"k": "1", "student": "small"}, ["k"], "lm", "equal", "p1"),
        Point("k=100", {"k": "100", "student": "small"}, ["k"], "lm", None, "p2"),
        Point("large", {"k": "50", "student": "large"}, ["student"], "lm large", None, "p3"),
    ]
    controls = [
        Control("lm", "lm", "c0", ["base", "k=1", "k=100"]),
        Control("lm large", "lm", "c1", ["large"]),
        Control("equal", "equal_flops", "c2", ["base", "k=1"]),
    ]
    settings = {"design": "one_factor", "seeds": [1, 2, 3], "axes": axes, "points": points, "controls": controls}
    study = Study(**{"title": "T", "name": "t", "metric": "val/lm_loss", "direction": direction, **settings, **changes})
    roles = {point.name: "point" for point in points} | {control.name: control.kind for control in controls}
    rows = [
        Row(name, roles.get(name, "point"), seed, "failed" if value is None else "complete", value)
        for name, found in values.items()
        for seed, value in enumerate(found, 1)
    ]
    write_study(folder, study)
    write_results(folder / "results.csv", rows)
    return Compared(folder)


VALUES: dict[str, list[float | None]] = {
    "base": [4.0, 4.1, 4.2],
    "k=1": [4.2, 4.29, 4.41],
    "k=100": [3.9, 4.02, 4.1],
    "large": [3.5, 3.6, 3.71],
    "lm": [4.1, 4.21, 4.3],
    "lm large": [3.8, 3.9, 4.0],
    "equal": [4.0, 4.1, 4.2],
}


def test_differences_are_ours_less_theirs_seed_by_seed(tmp_path):
    found = compared(tmp_path, VALUES)
    base, one, *_ = found.study.points
    values = {name: dict(enumerate(each, 1)) for name, each in VALUES.items()}
    assert found.against(base, "lm").difference == difference(values["base"], values["lm"])
    assert found.against(one, AGAINST_BASE).difference == difference(values["k=1"], values["base"])
    assert found.result(one).mean == estimate(VALUES["k=1"])
    verdicts = [found.against(point, "lm").verdict for point in found.study.points]
    assert verdicts == ["better", "worse", "better", "better"]
    assert found.against(base, "equal_flops").verdict == "within noise"
    assert found.against(base, AGAINST_BASE) is None
    assert found.against(found.study.points[2], "equal_flops") is None


def test_what_is_better_is_what_was_asked_for(tmp_path):
    found = compared(tmp_path, VALUES, "maximize")
    assert [found.against(point, "lm").verdict for point in found.study.points] == ["worse", "better", "worse", "worse"]
    assert [point.name for point in found.ranked(found.study.points)] == ["k=1", "base", "k=100", "large"]


def test_the_best_has_a_value_for_every_seed(tmp_path):
    found = compared(tmp_path, {**VALUES, "large": [3.5, None, 3.6], "k=100": [3.9, 4.0, float("nan")]})
    assert [point.name for point in found.ranked(found.study.points)] == ["base", "k=1"]
    large = found.study.points[3]
    assert (found.result(large).whole, sorted(found.result(large).values)) == (False, [1, 3])
    assert found.against(large, "lm").difference.n == 2


def test_all_failed_is_no_result(tmp_path):
    found = compared(tmp_path, {"base": [None] * 3, "lm": [4.0, 4.1, 4.2]})
    assert found.result(found.study.points[0]).mean is None
    assert found.against(found.study.points[0], "lm") is None
    assert found.ranked(found.study.points) == []
    assert found.states() == {"failed": 3, "complete": 3}


def test_comparisons_are_counted(tmp_path):
    found = compared(tmp_path, VALUES)
    # Four with lm, two with equal_flops, three with the base, which the best two of each axis are among.
    assert sum(found.verdicts().values()) == 4 + 2 + 3
    assert found.verdicts()["within noise"] == 1
    one = compared(tmp_path, {name: each[:1] for name, each in VALUES.items()})
    assert set(one.verdicts()) == {"one seed: no interval"}


def test_rows_of_an_earlier_form_of_the_study_are_left_out(tmp_path):
    found = compared(tmp_path, {**VALUES, "k=7": [1.0, 1.0, 1.0]})
    assert "k=7" not in {result.name for result in found.results()}


def test_gains_may_grow_along_an_axis(tmp_path):
    found = compared(tmp_path, VALUES)
    base, large = found.study.points[0], found.study.points[3]
    gains = [[-0.3, -0.3, -0.29], [-0.1, -0.11, -0.1]]  # of large and base against lm, from VALUES
    expected = difference(*(dict(enumerate(each, 1)) for each in gains))
    grown = growth(found, [(base, large)], "lm")
    assert (grown.difference.mean, grown.difference.half) == pytest.approx((expected.mean, expected.half))
    assert grown.verdict == "better"
    (text,) = growth_texts(found, [(base, large)], "small", "large", 3)  # large has no control at equal FLOPs
    assert text == (
        "From small to large, the difference against LM only, same tokens, changes by −0.193 ± 0.014 for the better."
    )
    assert list(growth_texts(found, [(base, found.study.points[1])], "1", "50", 3)) == []  # one and the same control


@pytest.mark.parametrize(
    ("parameters", "leads"),
    [([10, 20, 30], True), ([30, 20, 10], True), ([10, 10, 10], False), ([10, None, 30], False)],
)
def test_an_axis_of_names_leads_somewhere_where_sizes_do(tmp_path, parameters, leads):
    axis = Axis("student", "student", "a", list(map(Option, "abc")))
    points = [Point(name, {"student": name}, ["student"] if name != "a" else [], None, None, name) for name in "abc"]
    compared(tmp_path, {}, axes=[axis], points=points, controls=[])
    rows = [
        Row(name, "point", 1, "complete", 4.0, student_params=size, student_tokens=5)
        for name, size in zip("abc", parameters, strict=True)
    ]
    write_results(tmp_path / "results.csv", rows)
    assert has_direction(Compared(tmp_path), axis) == leads


def test_growth_is_the_mean_over_pairs_of_seeds_that_all_have(tmp_path):
    found = compared(tmp_path, {**VALUES, "k=1": [4.2, None, 4.41]})
    base, one, _, large = found.study.points
    grown = growth(found, [(base, large), (one, large)], "lm")
    firsts = {1: ((4.0 - 4.1) + (4.2 - 4.1)) / 2, 3: ((4.2 - 4.3) + (4.41 - 4.3)) / 2}
    lasts = {1: 3.5 - 3.8, 3: 3.71 - 4.0}
    assert grown.difference.mean == pytest.approx(sum(lasts[seed] - firsts[seed] for seed in (1, 3)) / 2)
    assert grown.difference.n == 2
    assert growth(found, [], "lm") is None


def test_a_search_counts_no_comparisons_that_its_report_has_not(tmp_path):
    """Along an axis of a search all others vary too: its best two are not compared."""
    found = compared(tmp_path, VALUES, design="search")
    assert sum(found.verdicts().values()) == 4 + 2  # with the control of each point, and at equal FLOPs of two


def test_the_best_two_of_an_axis_count_where_the_base_is_neither(tmp_path):
    values = {**VALUES, "k=1": [3.8, 3.9, 4.01]}
    assert sum(compared(tmp_path, values).verdicts().values()) == 4 + 2 + 3 + 1
