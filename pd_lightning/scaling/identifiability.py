"""Which coefficients the runs don't fix: they are named, not claimed.

Each coefficient in turn is moved away from its fit, by a factor of e, and all others are fitted again (a profile). If
the runs hardly speak against that, the coefficient is open, and how the others moved says with what it trades off. The
derivatives at the fit alone would not do: along the valleys of `Apple` they change by factors.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from pd_lightning.scaling.fitting import Fit, bounds, interval, refit
from pd_lightning.scaling.laws import Array, Law
from pd_lightning.scaling.runs import Runs

STEP = 1.0  # of a logarithm
STEP_OF_SHARE = 0.5
SPOKEN_AGAINST = 3.84  # the 95% point of χ² with one degree of freedom
_MOVED = 0.1
_AT_BOUND = 1e-4


@dataclass(frozen=True)
class TradeOff:
    """A coefficient that could as well be another.

    Args:
        name: Of the coefficient.
        fitted: Its value.
        moved: A value that the runs don't speak against.
        others: The coefficients that move with it, as pairs of fitted and moved value, by name.
        statistic: How much the runs speak against it: below 3.84, the 95% point of χ² with one degree of freedom.
        change: Largest relative change of a predicted loss at the runs.
    """

    name: str
    fitted: float
    moved: float
    others: dict[str, tuple[float, float]]
    statistic: float
    change: float

    def __str__(self) -> str:
        moves = ", ".join(f"{name} {a:.3g} → {b:.3g}" for name, (a, b) in self.others.items())
        along = f" with {moves}" if moves else ""
        return f"{self.name} {self.fitted:.3g} → {self.moved:.3g}{along} moves no loss by more than {self.change:.2%}"


def trade_offs(fitted: Fit, runs: Runs) -> list[TradeOff]:
    """Find the coefficients that the runs leave open, and with what they trade off.

    Args:
        fitted: The fit.
        runs: What it was fitted to.

    Returns:
        One entry for each of them, in the order of the law.
    """
    found = (_trade_off(fitted, runs, i) for i in range(len(fitted.z)))
    return [one for one in found if one is not None]


def _trade_off(fitted: Fit, runs: Runs, i: int) -> TradeOff | None:
    """The farther of what the runs leave open on both sides of a coefficient."""
    for z, objective in _moved(fitted, runs, i):
        against = _statistic(fitted, runs, objective)
        if against < SPOKEN_AGAINST:
            there = replace(fitted, z=z)
            pairs = {name: (value, there.coefficients[name]) for name, value in fitted.coefficients.items()}
            name = fitted.law.names[i]
            others = {
                other: pairs[other]
                for j, other in enumerate(fitted.law.names)
                if j != i and abs(z[j] - fitted.z[j]) > _MOVED
            }
            change = np.abs(there.predict(runs.sizes) / fitted.predict(runs.sizes) - 1).max()
            return TradeOff(name, *pairs[name], others, against, float(change))
    return None


def _moved(fitted: Fit, runs: Runs, i: int) -> Iterator[tuple[Array, float]]:
    """Fits with coordinate i held a step above and below, where the bounds leave room."""
    low, high = bounds(fitted.law)
    step = STEP if fitted.law.parameters[i].positive else STEP_OF_SHARE
    tangent = _tangent(fitted, runs, i)
    for side in (step, -step):
        held = fitted.z[i] + side
        if low[i] <= held <= high[i]:
            starts = (np.clip(fitted.z + reach * side * tangent, low, high) for reach in (0.0, 1.0))
            yield min((refit(fitted, runs, start, {i: held}) for start in starts), key=lambda end: end[1])


def _tangent(fitted: Fit, runs: Runs, i: int) -> Array:
    """How the others move with coordinate i at first, so that the predictions stay: least squares of derivatives."""
    losses, slopes = fitted.law.evaluate(fitted.z, runs.sizes.in_units(*fitted.units))
    slopes = slopes / losses[:, None]
    others = [j for j in range(len(fitted.z)) if j != i]
    tangent = np.zeros(len(fitted.z))
    tangent[others] = np.linalg.lstsq(slopes[:, others], -slopes[:, i], rcond=1e-6)[0]
    return np.clip(tangent, -3, 3)


def _statistic(fitted: Fit, runs: Runs, objective: float) -> float:
    """The likelihood ratio of least absolute deviations, 4 f(0) ΔS, with f(0) of normal residuals.

    Source: Koenker and Bassett, Tests of linear hypotheses and L1 estimation, Econometrica 50 (1982).
    """
    density = 1 / (math.sqrt(2 * math.pi) * noise(fitted, runs))
    return 4 * density * (objective - fitted.objective) * fitted.delta * len(runs)


def noise(fitted: Fit, runs: Runs) -> float:
    """Give the scatter of log losses around a fit: 1.48 times the median size of residuals, delta at least."""
    residuals = np.log(runs.losses) - np.log(fitted.predict(runs.sizes))
    return max(1.4826 * float(np.median(np.abs(residuals))), fitted.delta)


def at_bounds(fitted: Fit) -> list[str]:
    """Name the coefficients that a fit pushed to the edge of what it may choose."""
    return _reaching(fitted.law, fitted.z, fitted.z)


def open_ended(fitted: Fit, replicates: Array, points: int) -> list[str]:
    """Name the coefficients whose interval ends where the search did, not where the runs speak against more.

    A share's own bounds are no such end: it can't be less than 0 or more than 1.

    Args:
        fitted: The fit.
        replicates: Coordinates `[S, P]` of its bootstrap.
        points: How many points they are drawn from.
    """
    if not len(replicates):
        return []
    found = _reaching(fitted.law, *interval(replicates, points, len(fitted.z)))
    return [one.name for one in fitted.law.parameters if one.positive and one.name in found]


def _reaching(law: Law, lowest: Array, highest: Array) -> list[str]:
    low, high = bounds(law)
    edge = (lowest - low < _AT_BOUND) | (high - highest < _AT_BOUND)
    return [name for name, there in zip(law.names, edge, strict=True) if there]


def unclaimed(fitted: Fit, found: list[TradeOff], unended: Sequence[str] = ()) -> list[str]:
    """Name every coefficient that should not be claimed.

    Args:
        fitted: The fit.
        found: Its trade-offs.
        unended: Coefficients whose interval has no end of its own.

    Returns:
        Coefficients that are open or at a bound; with an exponent also its factor, since A is A' · N^a with A' the
        excess at a typical N.
    """
    open_ones = {*at_bounds(fitted), *(one.name for one in found), *unended}
    open_ones |= {factor for factor, exponent in (("A", "a"), ("B", "b")) if exponent in open_ones}
    return [name for name in fitted.law.names if name in open_ones]
