"""Fits to data from known coefficients: what comes back, how sure it is, and what is named instead of claimed."""

import sys
from collections.abc import Callable

import numpy as np
import pytest

from pd_lightning.scaling import fitting
from pd_lightning.scaling.fitting import bootstrap, fit, interval
from pd_lightning.scaling.identifiability import at_bounds, noise, open_ended, trade_offs, unclaimed
from pd_lightning.scaling.laws import LAWS, Law
from pd_lightning.scaling.published import DISTILLED, SUPERVISED
from pd_lightning.scaling.runs import Runs

MakeRuns = Callable[..., Runs]


def repeat(make_runs: MakeRuns, true: dict[str, float], seeds: range) -> tuple[float, dict[str, int]]:
    """The largest error of a predicted loss, and how often each exponent lies in its interval."""
    worst, inside = 0.0, {"a": 0, "b": 0}
    for seed in seeds:
        runs = make_runs(grid=10, seeds=8, seed=seed)
        dense = make_runs(grid=41, seeds=1, noise=0.0)  # everywhere in the data's range
        fitted = fit(LAWS["chinchilla"], runs)
        worst = max(worst, np.abs(fitted.predict(dense.sizes) / dense.losses - 1).max())
        low, high = np.exp(interval(bootstrap(fitted, runs, 200, seed), 100, 5))
        for name in inside:
            i = fitted.law.names.index(name)
            inside[name] += int(low[i] <= true[name] <= high[i])
    return worst, inside


def test_known_coefficients_come_back(make_runs: MakeRuns, true: dict[str, float]) -> None:
    worst, inside = repeat(make_runs, true, range(10))
    assert worst < 0.005
    assert min(inside.values()) >= 9


@pytest.mark.slow
def test_known_coefficients_come_back_in_a_hundred_repetitions(make_runs: MakeRuns, true: dict[str, float]) -> None:
    worst, inside = repeat(make_runs, true, range(100))
    assert worst < 0.005
    assert min(inside.values()) >= 90
    assert min(inside.values()) < 100  # an interval that always holds it is no 95% interval


@pytest.mark.parametrize(
    ("law", "coefficients", "teachers", "tolerance"),
    [
        (LAWS["chinchilla"], None, (), 1e-5),
        (LAWS["generalized"], SUPERVISED, (), 1e-3),
        (LAWS["chinchilla_kd"], {"t": 0.3}, (2.2, 2.5), 1e-5),
    ],
    ids=["chinchilla", "generalized", "chinchilla_kd"],
)
def test_without_noise_they_come_back_exactly(
    make_runs: MakeRuns,
    true: dict[str, float],
    law: Law,
    coefficients: dict[str, float] | None,
    teachers: tuple[float, ...],
    tolerance: float,
) -> None:
    expected = coefficients if coefficients and "E" in coefficients else {**true, **(coefficients or {})}
    fitted = fit(law, make_runs(law.name, expected, teachers=teachers, noise=0.0))
    assert fitted.objective < 1e-6
    errors = {name: fitted.coefficients[name] / expected[name] - 1 for name in expected}
    # A and B are excesses at one parameter and one token, far outside: a little of a and b is much of them.
    assert all(abs(error) < (10 if name in "AB" else 1) * tolerance for name, error in errors.items()), errors


def test_apples_law_predicts_though_its_coefficients_trade_off(make_runs: MakeRuns) -> None:
    runs = make_runs("apple", DISTILLED, grid=5, seeds=1, teachers=(2.0, 2.3, 2.8), noise=0.002)
    fitted = fit(LAWS["apple"], runs, starts=3)
    truth = LAWS["apple"].predict(DISTILLED, runs.sizes)
    assert np.abs(fitted.predict(runs.sizes) / truth - 1).max() < 0.005
    found = trade_offs(fitted, runs)
    assert {"a", "b", "g"} <= set(unclaimed(fitted, found))
    of_g = next(one for one in found if one.name == "g")
    assert {"a", "b"} & of_g.others.keys()
    assert str(of_g).startswith(f"g {of_g.fitted:.3g} → {of_g.moved:.3g} with ")


def test_one_teacher_does_not_tell_its_share(make_runs: MakeRuns, true: dict[str, float]) -> None:
    one = make_runs("chinchilla_kd", {**true, "t": 0.3}, teachers=(2.2,))
    fitted = fit(LAWS["chinchilla_kd"], one)
    found = trade_offs(fitted, one)
    assert unclaimed(fitted, found) == ["E", "t"]
    of_share = next(one for one in found if one.name == "t")
    assert of_share.others.keys() == {"E"}
    assert of_share.change < 1e-4  # the floor (1 - t) E + t L_T stays what it is
    two = make_runs("chinchilla_kd", {**true, "t": 0.3}, teachers=(2.2, 2.8))
    assert trade_offs(fit(LAWS["chinchilla_kd"], two), two) == []


def test_what_does_not_vary_is_named(make_runs: MakeRuns) -> None:
    runs = make_runs(grid=8)
    runs = runs.take(runs.sizes.tokens == runs.sizes.tokens[0])
    fitted = fit(LAWS["chinchilla"], runs)
    assert {"B", "b"} <= set(unclaimed(fitted, trade_offs(fitted, runs)))


def test_a_coefficient_at_its_bound_is_named(make_runs: MakeRuns, true: dict[str, float]) -> None:
    runs = make_runs("chinchilla_kd", {**true, "t": 0.0}, teachers=(2.2, 2.8), noise=0.0)
    fitted = fit(LAWS["chinchilla_kd"], runs)
    assert at_bounds(fitted) == ["t"]
    assert unclaimed(fitted, []) == ["t"]


def test_an_interval_that_ends_with_the_search_is_not_claimed(make_runs: MakeRuns, true: dict[str, float]) -> None:
    """But a share that is between 0 and 1 anyway is."""
    fitted = fit(LAWS["chinchilla_kd"], make_runs("chinchilla_kd", {**true, "t": 0.3}, teachers=(2.2, 2.8), noise=0.0))
    assert open_ended(fitted, np.tile(fitted.z, (200, 1)), 30) == []
    replicates = np.tile(fitted.z, (200, 1))
    for name, value in (("a", 5.0), ("t", 1.0)):
        replicates[:100, fitted.law.names.index(name)] = np.log(value) if name == "a" else value
    assert open_ended(fitted, replicates, 30) == ["a"]
    assert unclaimed(fitted, [], ["a"]) == ["A", "a"]


def test_an_outlier_moves_nothing(make_runs: MakeRuns) -> None:
    runs = make_runs(noise=0.001)
    clean = fit(LAWS["chinchilla"], runs).predict(runs.sizes)
    losses = runs.losses.copy()
    losses[10] *= 1.5
    with_it = fit(LAWS["chinchilla"], Runs(runs.sizes, losses, runs.flops))
    assert np.abs(with_it.predict(runs.sizes) / clean - 1).max() < 0.001


def test_the_objective_is_the_huber_loss(make_runs: MakeRuns) -> None:
    runs = make_runs(grid=3)
    fitted = fit(LAWS["chinchilla"], runs, delta=0.005)
    residuals = np.log(fitted.predict(runs.sizes)) - np.log(runs.losses)
    huber = [r * r / 2 if abs(r) <= 0.005 else 0.005 * (abs(r) - 0.0025) for r in residuals]
    assert fitted.objective == pytest.approx(np.mean(huber) / 0.005**2, rel=1e-12)
    assert noise(fitted, runs) == pytest.approx(max(0.005, 1.4826 * np.median(np.abs(residuals))), rel=1e-12)


@pytest.mark.parametrize("law", LAWS.values(), ids=list(LAWS))
def test_the_objectives_gradient_is_the_numerical_one(make_runs: MakeRuns, law: Law) -> None:
    runs = make_runs(grid=3, seeds=1, teachers=(2.2,))
    if law.needs_supervised:
        runs = make_runs("apple", DISTILLED, grid=3, seeds=1, teachers=(2.2,))
    objective = fitting._objective(law, runs, (1e8, 1e9), 0.02)
    weights = np.arange(1.0, len(runs) + 1)
    z = np.array([np.log(p.start[0] * p.start[1]) / 2 if p.positive else 0.4 for p in law.parameters])
    _, gradient = objective(z, weights)
    for i, step in enumerate(1e-6 * np.eye(len(z))):
        numerical = (objective(z + step, weights)[0] - objective(z - step, weights)[0]) / 2e-6
        assert gradient[i] == pytest.approx(numerical, rel=1e-5, abs=1e-4)


def test_a_seed_gives_the_same_bootstrap(make_runs: MakeRuns) -> None:
    runs = make_runs(grid=4)
    fitted = fit(LAWS["chinchilla"], runs)
    first, again, other = (bootstrap(fitted, runs, 5, seed) for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_seeds_of_a_point_are_drawn_together(make_runs: MakeRuns) -> None:
    # Copies of a run are one point: they must not make the interval narrower.
    once = make_runs(grid=6, seeds=1)
    thrice = once.take(np.repeat(np.arange(len(once)), 3))
    spreads = [bootstrap(fit(LAWS["chinchilla"], runs), runs, 20).std(axis=0) for runs in (once, thrice)]
    assert spreads[0] == pytest.approx(spreads[1], rel=0.05)


def test_few_points_make_wider_intervals() -> None:
    replicates = np.arange(1001.0)
    widths = [high - low for low, high in (interval(replicates, points, 5) for points in (6, 20, 1000))]
    assert widths[0] > widths[1] > widths[2] > 940
    assert interval(replicates, 10**7, 5) == pytest.approx((25, 975), abs=0.01)


def test_too_few_points_are_refused(make_runs: MakeRuns) -> None:
    runs = make_runs(grid=2, seeds=9)
    with pytest.raises(ValueError, match="must have 5 points of different sizes, one for each coefficient, got 4"):
        fit(LAWS["chinchilla"], runs)


def test_scipy_is_asked_for_by_its_extra(make_runs: MakeRuns, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy.optimize", None)
    with pytest.raises(ModuleNotFoundError, match=r"got none. Run pip install 'pd-lightning\[study\]'"):
        fitting.scientific("scipy.optimize")
