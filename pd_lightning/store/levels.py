"""Log-probabilities as whole numbers: a quantiser whose steps cost the same KL divergence at every probability.

An error of d nats at probability p adds p·d²/2 to the KL divergence. So the step at p is s/√p: fine where p is large,
and a quarter of a nat at most.
"""

from __future__ import annotations

import numpy as np

from pd_lightning.store.rounding import FLOOR

WIDEST_STEP = 0.25  # nats


def to_levels(logprobs: np.ndarray, step: float) -> np.ndarray:
    """Give the level of each log-prob.

    Args:
        logprobs: Log-probabilities in nats `[S]`; -inf is allowed.
        step: The step at p = 1, in nats.

    Returns:
        0 for -inf, else one more than the number of steps from -100 nats, int64 `[S]`.
    """
    knee, below = _knee(step)
    bounded = np.clip(logprobs.astype(np.float64), FLOOR, 0.0)
    linear = (bounded - FLOOR) / WIDEST_STEP
    root = below + 2 / step * np.exp(bounded / 2) - 2 / WIDEST_STEP
    level = 1 + np.rint(np.where(bounded > knee, root, linear)).astype(np.int64)
    levels: np.ndarray = np.where(np.isneginf(logprobs), 0, level)
    return levels


def from_levels(levels: np.ndarray, step: float) -> np.ndarray:
    """Give the log-prob of each level, float64 `[S]`."""
    _, below = _knee(step)
    steps = np.arange(int(levels.max(initial=0)) + 1, dtype=np.float64) - 1
    root = 2 * np.log(np.maximum(steps - below + 2 / WIDEST_STEP, 1.0) * step / 2)
    values = np.where(steps > below, np.minimum(root, 0.0), FLOOR + steps * WIDEST_STEP)
    values[0] = -np.inf
    logprobs: np.ndarray = values[levels]
    return logprobs


def highest_level(step: float) -> int:
    """Level of the log-prob 0."""
    return int(to_levels(np.zeros(1), step)[0])


def _knee(step: float) -> tuple[float, float]:
    """Give the log-prob where the step becomes as wide as it may, and the number of steps below it."""
    knee = 2 * float(np.log(step / WIDEST_STEP))
    return knee, (knee - FLOOR) / WIDEST_STEP
