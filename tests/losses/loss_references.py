"""The formulas of the losses in float64 NumPy, on log-probabilities `[N, V+1]`: every id, then all others together.

What cannot be on either side is no outcome: -inf in both. No code is shared with the package.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Temperature = float | Array
REVERSE_KL_FLOOR = -100.0


def log_sum_exp(x: Array) -> Array:
    return np.logaddexp.reduce(x, axis=-1, keepdims=True)


def log_softmax(x: Array, tau: Temperature = 1.0) -> Array:
    x = x / np.reshape(tau, (-1, 1))
    return x - log_sum_exp(x)


def outcomes(
    student: Array, log_p: Array, kept: NDArray[np.bool_], kind: str, taus: tuple[Temperature, Temperature]
) -> tuple[Array, Array]:
    """Log q and log p over the outcomes of a kind of targets.

    `student` logits and the teacher's `log_p` at temperature 1 are `[N, V]`, `taus` the student's temperature and the
    teacher's.
    """
    nothing = np.full((len(student), 1), -np.inf)
    if kind == "dense":
        return np.hstack([log_softmax(student, taus[0]), nothing]), np.hstack([log_softmax(log_p, taus[1]), nothing])
    if kind == "bucket":
        return tuple(
            log_softmax(np.hstack([np.where(kept, x, -np.inf), log_sum_exp(np.where(kept, -np.inf, x))]), tau)
            for x, tau in zip((log_softmax(student), log_p), taus, strict=True)
        )  # type: ignore[return-value]
    log_q = log_softmax(student, taus[0])
    kept_p = np.where(kept, log_p, -np.inf)
    if kind == "renormalized":
        kept_p = log_softmax(kept_p, taus[1])
    log_q = np.hstack([np.where(kept, log_q, -np.inf), log_sum_exp(np.where(kept, -np.inf, log_q))])
    return log_q, np.hstack([kept_p, nothing])


def kl(log_a: Array, log_b: Array) -> Array:
    a = np.exp(log_a)
    with np.errstate(invalid="ignore"):
        return np.where(a > 0, a * (log_a - log_b), 0.0).sum(-1)


def forward_kl(log_q: Array, log_p: Array) -> Array:
    return kl(log_p, log_q)


def reverse_kl(log_q: Array, log_p: Array) -> Array:
    return kl(log_q, np.maximum(log_p, REVERSE_KL_FLOOR))


def jensen_shannon(log_q: Array, log_p: Array, beta: float = 0.5) -> Array:
    log_m = mixed(log_p, log_q, beta)
    return beta * kl(log_p, log_m) + (1 - beta) * kl(log_q, log_m)


def skewed_forward_kl(log_q: Array, log_p: Array, skew: float = 0.1) -> Array:
    return kl(log_p, mixed(log_p, log_q, skew))


def skewed_reverse_kl(log_q: Array, log_p: Array, skew: float = 0.1) -> Array:
    return kl(log_q, mixed(log_q, log_p, skew))


def mixed(log_a: Array, log_b: Array, share: float) -> Array:
    return np.logaddexp(np.log(share) + log_a, np.log(1 - share) + log_b)


def soft_cross_entropy(log_q: Array, log_p: Array) -> Array:
    with np.errstate(invalid="ignore"):
        return -np.where(np.exp(log_p) > 0, np.exp(log_p) * log_q, 0.0).sum(-1)


def total_variation(log_q: Array, log_p: Array) -> Array:
    return 0.5 * np.abs(np.exp(log_p) - np.exp(log_q)).sum(-1)


def squared_error(log_q: Array, log_p: Array, reduction: str = "mean") -> Array:
    total = ((np.exp(log_p) - np.exp(log_q)) ** 2).sum(-1)
    counted = ((log_p > -np.inf) | (log_q > -np.inf)).sum(-1)
    return total / counted if reduction == "mean" else total


def tail_aware(log_q: Array, log_p: Array, k: int, tail_weight: float = 1.0) -> Array:
    """KL over the top k and all others together, plus weight · t · KL within the others; log-probs of all ids."""
    top = np.zeros(log_p.shape, bool)
    np.put_along_axis(top, np.argsort(-log_p, axis=-1, kind="stable")[:, :k], True, axis=-1)
    tails = [log_sum_exp(np.where(top, -np.inf, x)) for x in (log_p, log_q)]
    heads = [np.hstack([np.where(top, x, -np.inf), tail]) for x, tail in zip((log_p, log_q), tails, strict=True)]
    with np.errstate(invalid="ignore"):
        within = [np.where(top, -np.inf, x - tail) for x, tail in zip((log_p, log_q), tails, strict=True)]
    t = np.exp(tails[0])[:, 0]
    inside = np.array([kl(*(x[i] for x in within)) if t[i] > 0 else 0.0 for i in range(len(t))])
    return kl(*heads) + tail_weight * t * inside


def decoupled(
    student: Array,
    log_p: Array,
    kept: NDArray[np.bool_],
    taus: tuple[Temperature, Temperature],
    square: Temperature = 1.0,
) -> Array:
    """KL of kept mass and rest, plus m_T · square · KL within the kept ids."""
    sides = log_p, log_softmax(student)
    masses = [
        np.hstack([log_sum_exp(np.where(kept, x, -np.inf)), log_sum_exp(np.where(kept, -np.inf, x))]) for x in sides
    ]
    within_p, within_q = (
        log_softmax(np.where(kept, x, -np.inf), tau) for x, tau in zip(sides, taus[::-1], strict=True)
    )
    return kl(*masses) + np.exp(masses[0][:, 0]) * square * kl(within_p, within_q)


def squared_error_of_logits(
    student: Array,
    teacher: Array,
    kept: NDArray[np.bool_],
    taus: tuple[Temperature, Temperature],
    reduction: str = "mean",
    standardized: bool = False,
) -> Array:
    """Logits `[N, V]` of both sides, compared over the kept ids."""
    if standardized:
        student, teacher = (x - x.mean(-1, keepdims=True) for x in (student, teacher))
    z_s, z_t = (x / np.reshape(tau, (-1, 1)) for x, tau in zip((student, teacher), taus, strict=True))
    total = np.where(kept, (np.where(kept, z_t, 0.0) - z_s) ** 2, 0.0).sum(-1)
    return total / kept.sum(-1) if reduction == "mean" else total


DIVERGENCES: dict[str, Callable[..., Array]] = {
    "ForwardKL": forward_kl,
    "ReverseKL": reverse_kl,
    "JensenShannon": jensen_shannon,
    "SkewedForwardKL": skewed_forward_kl,
    "SkewedReverseKL": skewed_reverse_kl,
    "SoftCrossEntropy": soft_cross_entropy,
    "TotalVariation": total_variation,
    "MeanSquaredError": squared_error,
    "TailAware": tail_aware,
}
