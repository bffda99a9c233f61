"""How far a law is off where it wasn't fitted: at the largest students, and at folds of all points."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from pd_lightning.scaling.fitting import Fit, bootstrap, fit, interval
from pd_lightning.scaling.laws import Array
from pd_lightning.scaling.runs import Runs


@dataclass(frozen=True)
class HeldOut:
    """A point that a fit did without.

    Args:
        params: Non-embedding parameters of the student.
        tokens: Tokens of the student.
        teacher_loss: Loss of its teacher, if the law has one.
        measured: Mean loss over its seeds.
        predicted: Loss by the fit to the other points.
        low: Lower end of the 95% interval of the prediction, without a single run's noise.
        high: Upper end of it.
    """

    params: float
    tokens: float
    teacher_loss: float | None
    measured: float
    predicted: float
    low: float | None
    high: float | None

    @property
    def error(self) -> float:
        """Relative error of the prediction."""
        return self.predicted / self.measured - 1


def largest(runs: Runs, count: int) -> Array:
    """Say which runs are of the students with the most operations.

    Args:
        runs: All runs.
        count: How many students: with another teacher, or another seed, it is the same one.

    Returns:
        A mask `[R]`.
    """
    students = replace(runs, sizes=replace(runs.sizes, teacher_loss=None)).points
    flops = np.array([runs.flops[students == student].mean() for student in range(students.max() + 1)])
    return np.isin(students, np.argsort(flops, kind="stable")[::-1][:count])


def predict_largest(whole: Fit, runs: Runs, count: int, replicates: int, seed: int, starts: int = 16) -> list[HeldOut]:
    """Fit without the largest students, and predict them.

    Args:
        whole: The fit to all runs, for its law and delta.
        runs: All runs.
        count: How many students to leave out.
        replicates: Of the bootstrap that gives the intervals; 0 for none.
        seed: Of the bootstrap.
        starts: As of `fit`.

    Returns:
        Their points, the largest last.

    Raises:
        ValueError: Too few points are left.
    """
    out = largest(runs, count)
    rest, held = runs.take(~out), runs.take(out)
    fitted = fit(whole.law, rest, whole.delta, starts)
    z = bootstrap(fitted, rest, replicates, seed)
    _, first, points = np.unique(held.points, return_index=True, return_inverse=True)
    sizes = held.sizes.take(first)
    ends = interval(fitted.predict(sizes, z), int(rest.points.max()) + 1, len(fitted.z)) if replicates else None
    found = [
        HeldOut(
            float(sizes.params[i]),
            float(sizes.tokens[i]),
            None if sizes.teacher_loss is None else float(sizes.teacher_loss[i]),
            float(held.losses[points == i].mean()),
            float(predicted),
            *((float(ends[0][i]), float(ends[1][i])) if ends else (None, None)),
        )
        for i, predicted in enumerate(fitted.predict(sizes))
    ]
    return sorted(found, key=lambda point: point.params * point.tokens)


def fold_errors(whole: Fit, runs: Runs, folds: int, seed: int, starts: int = 16) -> Array:
    """Predict every run from a fit to the other folds; seeds of one point are in one fold.

    Args:
        whole: The fit to all runs, for its law and delta.
        runs: All runs.
        folds: How many.
        seed: Of the split.
        starts: As of `fit`.

    Returns:
        Relative errors `[R]`.

    Raises:
        ValueError: Too few points are left.
    """
    points = runs.points
    fold = np.random.default_rng(seed).permutation(points.max() + 1)[points] % folds
    errors = np.empty(len(runs))
    for number in range(folds):
        out = fold == number
        fitted = fit(whole.law, runs.take(~out), whole.delta, starts)
        errors[out] = fitted.predict(runs.sizes.take(out)) / runs.losses[out] - 1
    return errors
