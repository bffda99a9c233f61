"""Held-out errors, worked out again by hand."""

from collections.abc import Callable

import numpy as np
import pytest

from pd_lightning.scaling import held_out
from pd_lightning.scaling.analysis import analyse
from pd_lightning.scaling.fitting import Fit, bootstrap, fit, interval
from pd_lightning.scaling.held_out import fold_errors, largest, predict_largest
from pd_lightning.scaling.laws import LAWS, Law, Sizes
from pd_lightning.scaling.runs import Runs

LAW = LAWS["chinchilla"]


@pytest.fixture
def runs(make_runs: Callable[..., Runs]) -> Runs:
    return make_runs(grid=4, seeds=2)


def test_the_largest_are_those_with_most_operations(runs: Runs) -> None:
    assert runs.flops[largest(runs, 1)] == pytest.approx([6e20, 6e20])
    assert largest(runs, 0).sum() == 0
    assert largest(runs, 3).sum() == 6
    assert runs.flops[largest(runs, 3)].min() > runs.flops[~largest(runs, 3)].max()


def test_the_largest_point_is_predicted_without_it(runs: Runs) -> None:
    (found,) = predict_largest(fit(LAW, runs), runs, 1, 20, seed=3)
    out = (runs.sizes.params > 0.99e9) & (runs.sizes.tokens > 0.99e11)
    alone = fit(LAW, runs.take(~out))
    one = Sizes(np.array([1e9]), np.array([1e11]))
    assert found.predicted == pytest.approx(LAW.predict(alone.coefficients, one)[0], rel=1e-9)
    assert found.measured == pytest.approx(runs.losses[out].mean())
    assert found.error == pytest.approx(found.predicted / found.measured - 1)
    draws = [LAW.predict(LAW.coefficients(z, *alone.units), one)[0] for z in bootstrap(alone, runs.take(~out), 20, 3)]
    assert (found.low, found.high) == pytest.approx(interval(np.array(draws), 15, 5))


def test_a_student_is_held_out_with_all_its_teachers(make_runs: Callable[..., Runs], true: dict[str, float]) -> None:
    runs = make_runs("chinchilla_kd", {**true, "t": 0.3}, grid=4, teachers=(2.2, 2.8))
    assert largest(runs, 1).sum() == 4
    found = predict_largest(fit(LAWS["chinchilla_kd"], runs), runs, 1, 0, 0)
    assert [(point.params, point.tokens) for point in found] == [pytest.approx((1e9, 1e11))] * 2
    assert sorted(point.teacher_loss for point in found) == [2.2, 2.8]
    assert [point.measured for point in found] == [
        pytest.approx(runs.losses[largest(runs, 1) & (runs.sizes.teacher_loss == point.teacher_loss)].mean())
        for point in found
    ]


def test_what_is_held_out_has_no_say(runs: Runs) -> None:
    losses = np.where(largest(runs, 1), 9.0, runs.losses)
    first, other = (
        predict_largest(fit(LAW, each), each, 1, 0, 0)[0] for each in (runs, Runs(runs.sizes, losses, runs.flops))
    )
    assert first.predicted == pytest.approx(other.predicted, rel=1e-9)
    assert other.measured == 9.0
    assert first.low is None


def test_fold_errors_are_those_of_the_other_folds(runs: Runs) -> None:
    errors = fold_errors(fit(LAW, runs), runs, 3, seed=5)
    fold = np.random.default_rng(5).permutation(16)[runs.points] % 3
    for number in range(3):
        alone = fit(LAW, runs.take(fold != number))
        expected = alone.predict(runs.sizes.take(fold == number)) / runs.losses[fold == number] - 1
        assert errors[fold == number] == pytest.approx(expected, rel=1e-9)
    for point in range(16):
        assert len(set(fold[runs.points == point])) == 1


def test_held_out_fits_take_as_many_starts(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[int] = []

    def fits(law: Law, some: Runs, delta: float, starts: int) -> Fit:
        taken.append(starts)
        return fit(law, some, delta, starts)

    monkeypatch.setattr(held_out, "fit", fits)
    analyse(LAW, runs, folds=2, replicates=0, starts=3)
    assert taken == [3, 3, 3]
