"""Means over seeds, differences between runs of the same seed, and what can be said of them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache

from pd_lightning.study.outline import MAXIMIZE

CONFIDENCE = 0.95
BETTER, WORSE, NOISE, ONE_SEED = "better", "worse", "within noise", "one seed: no interval"


@dataclass(frozen=True)
class Estimate:
    """A mean and how far it can be trusted.

    Args:
        mean: The mean.
        half: Half the width of its 95 % interval by Student's t; None for one value, which has none.
        n: How many values there were.
    """

    mean: float
    half: float | None
    n: int

    @property
    def low(self) -> float | None:
        """The lower end of the interval."""
        return None if self.half is None else self.mean - self.half

    @property
    def high(self) -> float | None:
        """The upper end of the interval."""
        return None if self.half is None else self.mean + self.half


def estimate(values: Iterable[float]) -> Estimate | None:
    """The mean over seeds, with its interval.

    Args:
        values: One for each seed; those that are not finite are left out.

    Returns:
        The estimate, or None where there is no value.
    """
    found = [value for value in values if math.isfinite(value)]
    n = len(found)
    if not found:
        return None
    mean = math.fsum(found) / n
    if n == 1:
        return Estimate(mean, None, 1)
    variance = math.fsum((value - mean) ** 2 for value in found) / (n - 1)
    return Estimate(mean, _quantile(n - 1) * math.sqrt(variance / n), n)


def difference(values: Mapping[int, float], others: Mapping[int, float]) -> Estimate | None:
    """The mean of `values` less `others`, seed by seed: what a seed does to both alike drops out.

    Args:
        values: Values by seed.
        others: Those that they are compared with. A seed that only one of both has is left out.

    Returns:
        The estimate, or None where they share no seed.
    """
    return estimate(values[seed] - others[seed] for seed in values if seed in others)


def verdict(found: Estimate, direction: str) -> str:
    """What a difference says.

    Args:
        found: The difference.
        direction: `minimize` or `maximize`.

    Returns:
        `better` or `worse` only where the interval leaves out 0, else `within noise`; of one seed nothing.
    """
    if found.half is None:
        return ONE_SEED
    if abs(found.mean) <= found.half:
        return NOISE
    return BETTER if (found.mean > 0) == (direction == MAXIMIZE) else WORSE


@cache
def _quantile(freedom: int) -> float:
    """Student's t that a two-sided interval reaches to."""
    try:
        from scipy.stats import t
    except ImportError as error:
        raise ValueError(
            "the report of a study must have scipy for its intervals, got none. Install it: "
            'pip install "pd-lightning[study]".'
        ) from error
    return float(t.ppf((1 + CONFIDENCE) / 2, freedom))
