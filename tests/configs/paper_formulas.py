"""The KD loss of Peng et al. in float64 NumPy: L = mean ℓ(P_S, F(P_T)), F(z) = softmax(Truncate(z) / τ).

No code is shared with the package.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def log_softmax(x: Array) -> Array:
    return x - np.logaddexp.reduce(x, axis=-1, keepdims=True)


def truncate(log_p: Array, p: float, k: int) -> Array:
    """Log-probabilities with -inf where an id is cut: the fewest ids that reach p, and k of them at most."""
    kept = np.full_like(log_p, -np.inf)
    for row, values in enumerate(log_p):
        mass = 0.0
        for index in np.argsort(-values, kind="stable")[:k]:
            if mass >= p:
                break
            kept[row, index] = values[index]
            mass += np.exp(values[index])
    return kept


def temperatures(row: dict[str, Any], student: Array, log_p: Array, labels: NDArray[np.int64], std: Array) -> Array:
    """The teacher's temperature at each position."""
    kind, V = row["temperature"], log_p.shape[-1]
    if kind == "NormKD":
        return std
    if kind == "WTTM":
        return np.full(len(log_p), 1 / 0.5)
    if kind == "AdaKD-SD":
        return 2.0 - 1.5 * (1 - np.exp(log_softmax(student)[np.arange(len(labels)), labels]))
    if kind == "AdaKD-H":
        return 2.0 - 1.5 * -(np.exp(log_p) * log_p).sum(-1) / np.log(V)
    return np.full(len(log_p), kind)


def kd_loss(row: dict[str, Any], student: Array, log_p: Array, labels: NDArray[np.int64], std: Array) -> float:
    """Mean over N positions.

    `row` is one of `paper_tables`; `student` are logits and `log_p` the teacher's log-probabilities, `[N, V]`; `std`
    is the deviation of the teacher's logits `[N]`.
    """
    kept = truncate(log_p, row["p"], row["k"])
    tau = temperatures(row, student, log_p, labels, std)
    log_target = log_softmax(kept / tau[:, None])
    log_q, target, used = log_softmax(student), np.exp(log_target), kept > -np.inf
    if row["loss"] == "MSE":
        others = np.where(used, 0.0, np.exp(log_q)).sum(-1)  # one outcome, which the truncated teacher holds impossible
        losses = (np.where(used, target - np.exp(log_q), 0.0) ** 2).sum(-1) + others**2
    elif row["loss"] == "KLD":
        losses = np.where(used, target * (np.where(used, log_target, 0.0) - log_q), 0.0).sum(-1)
    else:
        losses = -(target * log_q).sum(-1)
    if row["temperature"] == "WTTM":
        losses = losses * (np.exp(log_softmax(kept)) ** 0.5).sum(-1)
    return float(losses.mean())
