"""What storing log-probabilities in fewer bits costs, and how reading makes the best of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

# Below this log-prob an error is of no consequence: float32 has hardly a smaller probability.
FLOOR = -100.0


@dataclass
class RoundingError:
    """The error of what is decoded against what was encoded, over all blocks added so far.

    Args:
        kl: KL divergence from the given to the decoded probabilities, all ids that are not kept taken as one, in nats,
            summed over positions.
        logprob: Largest difference of a log-probability above -100, in nats.
    """

    kl: float = 0.0
    logprob: float = 0.0

    def add(self, given: np.ndarray, decoded: np.ndarray) -> None:
        """Add entries: kept ids and tails.

        Args:
            given: Log-probabilities before encoding, in nats.
            decoded: The same as they are read.
        """
        self.kl += divergence(given, decoded)
        some = given > FLOOR
        with np.errstate(invalid="ignore"):
            difference = np.abs(given[some].astype(np.float64) - decoded[some])
        self.logprob = max(self.logprob, float(difference.max(initial=0.0)))


def divergence(given: np.ndarray, decoded: np.ndarray) -> float:
    """Sum p·log(p/q) - p + q over entries, in nats.

    Over all entries of a position, -p + q sums to nothing; with it each entry is at least zero by itself, so that an
    entry or a tail that is left out can't make the sum negative.

    Args:
        given: log p of each entry, -inf allowed.
        decoded: log q of each entry.
    """
    some = np.isfinite(given) & np.isfinite(decoded)
    log_p, log_q = given[some].astype(np.float64), decoded[some].astype(np.float64)
    p = np.exp(log_p)
    return float((p * (log_p - log_q) - p + np.exp(log_q)).sum())


def restore_mass(logprobs: np.ndarray, counts: np.ndarray, log_tail: np.ndarray) -> np.ndarray:
    """Shift each position's kept log-probs so that their mass is one minus the tail.

    Args:
        logprobs: Log-probs of the kept ids, position after position `[S]`.
        counts: Kept ids of each position `[T]`.
        log_tail: Log of the probability not kept `[T]`.

    Returns:
        The shifted log-probs, at most 0, float64 `[S]`.
    """
    kept = logprobs.astype(np.float64)
    some = np.flatnonzero(counts)
    if some.size == 0:
        return kept
    starts = (np.cumsum(counts) - counts)[some]
    with np.errstate(divide="ignore", invalid="ignore"):
        mass = np.add.reduceat(np.exp(kept), starts)
        shift = np.log(-np.expm1(log_tail[some].astype(np.float64))) - np.log(mass)
    # Where all kept log-probs are -inf, or the tail rounded to everything, they stay as they are.
    shift[~np.isfinite(shift)] = 0.0
    shifted: np.ndarray = np.minimum(kept + np.repeat(shift, counts[some]), 0.0)
    return shifted
