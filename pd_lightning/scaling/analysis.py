"""All that is found out about a law on some runs."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from pd_lightning.scaling.fitting import Fit, bootstrap, fit, interval
from pd_lightning.scaling.held_out import HeldOut, fold_errors, largest, predict_largest
from pd_lightning.scaling.identifiability import TradeOff, noise, open_ended, trade_offs, unclaimed
from pd_lightning.scaling.laws import Array, Law, Sizes
from pd_lightning.scaling.runs import Runs


@dataclass(frozen=True)
class Analysis:
    """A law, fitted to runs.

    Args:
        runs: The runs.
        fitted: The fit to all of them.
        supervised: The law that says what a student's loss would be without a teacher.
        replicates: Coordinates `[S, P]` of the bootstrap.
        seed: Of the bootstrap and of the folds.
        largest: The points of the largest students, predicted by a fit without them.
        folds: In how many parts the points were split.
        fold_errors: Relative error `[R]` at each run of the fit without its fold; empty without folds.
        trade_offs: The coefficients that the runs leave open.
        noise: Scatter of log losses around the fit.
    """

    runs: Runs
    fitted: Fit
    supervised: Fit | None
    replicates: Array
    seed: int
    largest: list[HeldOut]
    folds: int
    fold_errors: Array
    trade_offs: list[TradeOff]
    noise: float

    @property
    def points(self) -> int:
        """How many points there are: runs with equal sizes are one."""
        return int(self.runs.points.max()) + 1

    @property
    def unclaimed(self) -> list[str]:
        """The coefficients that are named, not claimed."""
        return unclaimed(self.fitted, self.trade_offs, self.open_ended)

    @property
    def open_ended(self) -> list[str]:
        """The coefficients whose interval reaches the end of the search; none without replicates."""
        return open_ended(self.fitted, self.replicates, self.points)

    def intervals(self) -> dict[str, tuple[float, float]]:
        """The coefficients' 95% intervals by name; none without replicates."""
        if not len(self.replicates):
            return {}
        law, units = self.fitted.law, self.fitted.units
        values = np.array([list(law.coefficients(z, *units).values()) for z in self.replicates])
        low, high = interval(values, self.points, len(self.fitted.z))
        return {name: (float(a), float(b)) for name, a, b in zip(law.names, low, high, strict=True)}


def analyse(
    law: Law,
    runs: Runs,
    supervised: Fit | None = None,
    hold_out: int = 1,
    folds: int = 5,
    replicates: int = 200,
    seed: int = 0,
    delta: float = 1e-3,
    starts: int = 16,
) -> Analysis:
    """Fit a law, and find out how far it can be trusted.

    Args:
        law: The law.
        runs: What was measured.
        supervised: What a student's loss is without a teacher, where the law needs it.
        hold_out: How many of the largest students a second fit does without and predicts.
        folds: In how many parts the points are split, each predicted from the others; 0 for none.
        replicates: Of the bootstrap.
        seed: Of bootstrap and folds.
        delta: Where the Huber loss on log losses turns from squares to absolute values.
        starts: From how many points to descend.

    Returns:
        What was found.

    Raises:
        ValueError: There are too few points.
    """
    _check_what_is_left(law, runs, hold_out, folds)
    runs = replace(runs, sizes=completed(runs.sizes, supervised if law.needs_supervised else None))
    fitted = fit(law, runs, delta, starts)
    return Analysis(
        runs,
        fitted,
        supervised,
        bootstrap(fitted, runs, replicates, seed),
        seed,
        predict_largest(fitted, runs, hold_out, replicates, seed, starts) if hold_out else [],
        folds,
        fold_errors(fitted, runs, folds, seed, starts) if folds else np.empty(0),
        trade_offs(fitted, runs),
        noise(fitted, runs),
    )


def _check_what_is_left(law: Law, runs: Runs, hold_out: int, folds: int) -> None:
    """Refuse to hold out so many points that nothing can be fitted to the rest."""
    points, needed = int(runs.points.max()) + 1, len(law.parameters)
    in_fold = -(-points // folds) if folds else 0
    in_largest = len(np.unique(runs.points[largest(runs, hold_out)]))
    if folds > points >= needed:
        raise ValueError(f"folds must be at most the number of points, {points}, got {folds}. Set --folds={points}.")
    for name, out in (("hold_out", in_largest), ("folds", in_fold)):
        if points >= needed > points - out:
            raise ValueError(
                f"{name} must leave {needed} points of different sizes for {law.name}, got {points} points less {out}. "
                f"Run more sizes, or set --{name}=0."
            )


def completed(sizes: Sizes, supervised: Fit | None) -> Sizes:
    """Add the loss that the same students would have without a teacher."""
    return sizes if supervised is None else replace(sizes, supervised_loss=supervised.predict(sizes))
