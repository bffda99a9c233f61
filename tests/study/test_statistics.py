import math
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from pd_lightning.study import statistics
from pd_lightning.study.statistics import Estimate, difference, estimate, verdict


@pytest.mark.parametrize("n", [2, 3, 5, 40])
def test_a_mean_and_its_interval_are_those_of_scipy(n):
    values = np.random.default_rng(n).normal(4, 0.02, n)
    found = estimate(values.tolist())
    low, high = stats.ttest_1samp(values, 0.0).confidence_interval(0.95)
    assert (found.low, found.mean, found.high) == pytest.approx((low, values.mean(), high), rel=1e-12)
    assert found.n == n


def test_three_seeds_by_hand():
    found = estimate([1.0, 2.0, 6.0])
    deviation = math.sqrt(((1 - 3) ** 2 + (2 - 3) ** 2 + (6 - 3) ** 2) / 2)
    t = 0.95 / math.sqrt(2 * 0.975 * 0.025)  # of two degrees of freedom, whose distribution has a closed form
    assert found.mean == 3
    assert found.half == pytest.approx(t * deviation / math.sqrt(3), rel=1e-12)


@pytest.mark.parametrize("n", [2, 3, 8])
def test_differences_are_paired_by_seed(n):
    random = np.random.default_rng(n)
    seeds = random.normal(0, 1, n)  # common to both, and far larger than what differs
    ours, theirs = seeds + random.normal(4, 0.01, n), seeds + random.normal(4.1, 0.01, n)
    found = difference(dict(enumerate(ours)), dict(enumerate(theirs)))
    interval = stats.ttest_rel(ours, theirs).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx(tuple(interval), rel=1e-9)
    shuffled = dict(reversed(list(enumerate(theirs))))
    assert difference(dict(enumerate(ours)), shuffled) == found


def test_a_seed_that_one_side_lacks_is_left_out():
    assert difference({1: 1.0, 2: 3.0, 3: 9.0}, {2: 1.0, 3: 8.0, 4: 0.0}) == estimate([2.0, 1.0])
    assert difference({1: 1.0, 2: math.nan}, {1: 0.5, 2: 1.0}) == Estimate(0.5, None, 1)
    assert difference({1: 1.0}, {2: 1.0}) is None


def test_one_seed_has_no_interval_and_none_no_mean():
    assert estimate([4.0]) == Estimate(4.0, None, 1)
    assert (estimate([4.0]).low, estimate([4.0]).high) == (None, None)
    assert estimate([math.nan, math.inf]) is None
    assert verdict(Estimate(-3.0, None, 1), "minimize") == "one seed: no interval"


@pytest.mark.parametrize(
    ("mean", "half", "minimized", "maximized"),
    [
        (-0.2, 0.1, "better", "worse"),
        (0.2, 0.1, "worse", "better"),
        (-0.1, 0.1, "within noise", "within noise"),  # an interval that ends at 0 holds 0
        (0.1, 0.1, "within noise", "within noise"),
        (math.nextafter(0.1, 1), 0.1, "worse", "better"),
        (0.0, 0.0, "within noise", "within noise"),
    ],
)
def test_a_verdict_needs_an_interval_without_0(mean, half, minimized, maximized):
    assert verdict(Estimate(mean, half, 3), "minimize") == minimized
    assert verdict(Estimate(mean, half, 3), "maximize") == maximized


def test_95_of_100_intervals_hold_the_truth():
    random = np.random.default_rng(0)
    found = [estimate(random.normal(0, 1, 3).tolist()) for _ in range(2000)]
    share = sum(verdict(each, "minimize") == "within noise" for each in found) / len(found)
    assert share == pytest.approx(0.95, abs=0.015)


def test_a_missing_scipy_is_named(monkeypatch):
    statistics._quantile.cache_clear()
    monkeypatch.setitem(sys.modules, "scipy.stats", None)
    with pytest.raises(ValueError, match=r'got none\. Install it: pip install "pd-lightning\[study\]"\.'):
        estimate([1.0, 2.0])


def test_the_widths_in_the_documentation_are_those_of_student():
    page = Path(__file__).parents[2] / "docs" / "reading-a-study.md"
    rows = re.findall(r"^\| (\d+) \| ([\d.]+) sd \|$", page.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(rows) == 4
    for n, width in rows:
        values = np.random.default_rng(0).normal(size=int(n))
        assert estimate(values.tolist()).half / values.std(ddof=1) == pytest.approx(float(width), abs=0.006)
