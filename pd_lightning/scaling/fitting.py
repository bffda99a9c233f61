"""Fitting a law: Huber loss on the residuals of log losses, L-BFGS-B from many starts, bootstrap over points."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np

from pd_lightning.scaling.laws import Array, Law, Sizes
from pd_lightning.scaling.runs import Runs

SCREENED = 512  # points of a Sobol sequence, of which the best are starts
_BLOCK = 32  # that are evaluated at once


@dataclass(frozen=True)
class Fit:
    """A law with coordinates that were fitted.

    Args:
        law: The law.
        z: Its coordinates `[P]`, for sizes in `units`.
        units: Geometric means of N and D of the runs. In these units coefficients hardly lean on one another.
        objective: Mean Huber loss over the runs, divided by `delta`.
        agreeing: Share of the starts that ended at this objective, to a thousandth.
        delta: Where the Huber loss turns from squares to absolute values.
    """

    law: Law
    z: Array
    units: tuple[float, float]
    objective: float
    agreeing: float
    delta: float

    @property
    def coefficients(self) -> dict[str, float]:
        """The coefficients by name, for N in parameters and D in tokens."""
        return self.law.coefficients(self.z, *self.units)

    def predict(self, sizes: Sizes, z: Array | None = None) -> Array:
        """Predict losses.

        Args:
            sizes: R runs.
            z: Other coordinates `[..., P]` than those of the fit, as a bootstrap gives them.

        Returns:
            Losses `[..., R]` in nats per token.
        """
        return self.law.evaluate(self.z if z is None else z, sizes.in_units(*self.units))[0]


def fit(law: Law, runs: Runs, delta: float = 1e-3, starts: int = 16) -> Fit:
    """Fit a law to runs.

    Args:
        law: The law.
        runs: What was measured.
        delta: Where the Huber loss on log losses turns from squares to absolute values.
        starts: From how many points to descend.

    Returns:
        The best of the fits.

    Raises:
        ValueError: There are fewer points than coefficients.

    Source: Hoffmann et al., arXiv 2203.15556, section D.2, for loss, delta and optimizer.
    """
    points, needed = len(np.unique(runs.points)), len(law.parameters)
    if points < needed:
        raise ValueError(
            f"a fit of {law.name} must have {needed} points of different sizes, one for each coefficient, got "
            f"{points} with {len(runs)} runs. Run more sizes, or choose a law with fewer coefficients with --law."
        )
    units = tuple(float(np.exp(np.log(column).mean())) for column in (runs.sizes.params, runs.sizes.tokens))
    assert len(units) == 2
    objective = _objective(law, runs, units, delta)
    weights = np.full(len(runs), 1 / len(runs))
    ends = [_descend(law, objective, weights, z) for z in _starts(law, runs, units, delta, starts)]
    best = min(ends, key=lambda end: end[0])
    agreeing = float(np.mean([value <= best[0] * 1.001 + 1e-6 for value, _ in ends]))
    return Fit(law, best[1], units, best[0], agreeing, delta)


def bootstrap(fitted: Fit, runs: Runs, replicates: int, seed: int = 0) -> Array:
    """Fit the law again to points drawn with replacement, each with all its seeds, starting from the fit.

    Args:
        fitted: The fit to all runs.
        runs: What it was fitted to.
        replicates: How many times.
        seed: Of the draws.

    Returns:
        Coordinates `[replicates, P]`, in the units of the fit.
    """
    rng = np.random.default_rng(seed)
    points = runs.points
    count = points.max() + 1
    objective = _objective(fitted.law, runs, fitted.units, fitted.delta)
    found = []
    for _ in range(replicates):
        weights = _drawn(rng, count, len(fitted.law.parameters))[points]
        found.append(_descend(fitted.law, objective, weights / weights.sum(), fitted.z, precise=False)[1])
    return np.array(found).reshape(replicates, len(fitted.law.parameters))


def refit(fitted: Fit, runs: Runs, start: Array, held: dict[int, float]) -> tuple[Array, float]:
    """Fit the law again with some coordinates held.

    Args:
        fitted: A fit, for its law, units and delta.
        runs: What it was fitted to.
        start: Coordinates `[P]` to start from.
        held: Coordinates that stay, by number.

    Returns:
        The coordinates `[P]`, and the objective there.
    """
    objective = _objective(fitted.law, runs, fitted.units, fitted.delta)
    weights = np.full(len(runs), 1 / len(runs))
    value, z = _descend(fitted.law, objective, weights, start, held=held)
    return z, value


def interval(replicates: Array, points: int, coefficients: int) -> tuple[Array, Array]:
    """Give 95% intervals: percentiles of the replicates, farther out where there are few points.

    Args:
        replicates: `[S, ...]`, coefficients or predictions.
        points: How many points the replicates are drawn from.
        coefficients: How many are fitted.

    Returns:
        Lower and upper ends `[...]`.

    Source: the expanded percentile interval of Hesterberg, arXiv 1411.5279, for a mean; that the degrees of freedom are
    points less coefficients is our choice.
    """
    stats = scientific("scipy.stats")
    freedom = max(1, points - coefficients)
    tail = 100 * float(stats.norm.sf((points / freedom) ** 0.5 * stats.t.ppf(0.975, freedom)))
    low, high = np.percentile(replicates, [tail, 100 - tail], axis=0)
    return low, high


def scientific(module: str) -> Any:
    """Import a module of SciPy.

    Raises:
        ModuleNotFoundError: SciPy is not installed; names the extra.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "fits of scaling laws and their intervals must have SciPy, got none. Run pip install 'pd-lightning[study]'."
        ) from error


_Objective = Callable[[Array, Array], tuple[float, Array]]


def _objective(law: Law, runs: Runs, units: tuple[float, float], delta: float) -> _Objective:
    """The weighted sum of Huber losses, in units of delta so that the optimizer's tolerances mean something."""
    sizes, logs = runs.sizes.in_units(*units), np.log(runs.losses)

    def objective(z: Array, weights: Array) -> tuple[float, Array]:
        losses, slopes = law.evaluate(z, sizes)
        residuals = (np.log(losses) - logs) / delta
        return float(weights @ _huber(residuals)), (weights * np.clip(residuals, -1, 1) / losses / delta) @ slopes

    return objective


def _huber(residuals: Array) -> Array:
    size = np.abs(residuals)
    return np.where(size <= 1, 0.5 * residuals**2, size - 0.5)


def _descend(
    law: Law,
    objective: _Objective,
    weights: Array,
    start: Array,
    precise: bool = True,
    held: dict[int, float] | None = None,
) -> tuple[float, Array]:
    minimize = scientific("scipy.optimize").minimize
    options = {"maxiter": 2000, "maxfun": 4000, "ftol": 1e-12 if precise else 1e-9, "gtol": 1e-7 if precise else 1e-5}
    box = bounds(law).T
    for i, value in (held or {}).items():
        box[i] = start[i] = value
    end = minimize(objective, start, (weights,), "L-BFGS-B", jac=True, bounds=box, options=options)
    return float(end.fun), end.x


def bounds(law: Law) -> Array:
    """Lower and upper bounds `[2, P]` of a law's coordinates."""
    return np.array([_coordinates(law, [p.bounds[side] for p in law.parameters]) for side in (0, 1)])


def _coordinates(law: Law, values: list[float]) -> Array:
    return law.coordinates(dict(zip(law.names, values, strict=True)))


def _starts(law: Law, runs: Runs, units: tuple[float, float], delta: float, count: int) -> Array:
    """The best points of a Sobol sequence over the ranges in which the law's coefficients lie."""
    low, high = (_coordinates(law, [p.start[side] for p in law.parameters]) for side in (0, 1))
    unit = scientific("scipy.stats").qmc.Sobol(len(low), scramble=False).random(SCREENED)
    z = low + unit * (high - low)
    sizes, logs = runs.sizes.in_units(*units), np.log(runs.losses)
    blocks = (z[i : i + _BLOCK] for i in range(0, SCREENED, _BLOCK))
    badness = np.concatenate(
        [_huber((np.log(law.evaluate(block, sizes)[0]) - logs) / delta).mean(axis=-1) for block in blocks]
    )
    return z[np.argsort(badness, kind="stable")[:count]]


def _drawn(rng: np.random.Generator, count: int, needed: int) -> Array:
    """How often each point is drawn; again where too few different ones were, with which nothing can be fitted."""
    while True:
        times = np.bincount(rng.integers(0, count, count), minlength=count).astype(float)
        if np.count_nonzero(times) >= min(needed, (count + 1) // 2):
            return times
