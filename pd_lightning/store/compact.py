"""The coding of `values: compact` and `values: counts`: about 1.5 bytes for each kept id of a large language model.

Compact targets are the step of the quantiser (float32) and the matrix of levels; counts are the matrix of draws alone.
"""

from __future__ import annotations

import struct

import numpy as np

from pd_lightning.store.damage import require
from pd_lightning.store.levels import from_levels, highest_level, to_levels
from pd_lightning.store.rounding import divergence, restore_mass
from pd_lightning.store.sparse_matrix import decode_matrix, encode_matrix

KL_BUDGET = 1e-4  # nats

_STEP = struct.Struct("<f")
_FINEST, _COARSEST = 2.0**-14, 2.0**-5  # range of the step at p = 1


def encode_compact(
    tokens: np.ndarray,
    counts: np.ndarray,
    ids: np.ndarray,
    logprobs: np.ndarray,
    log_tail: np.ndarray,
    kl_budget: float = KL_BUDGET,
) -> tuple[bytes, np.ndarray]:
    """Encode kept ids and their log-probabilities.

    Args:
        tokens: Input token of each position `[T]`.
        counts: Kept entries of each position `[T]`.
        ids: Kept ids, position after position, none twice in a position `[S]`.
        logprobs: Their log-probabilities in nats, over the whole vocabulary `[S]`; -inf is allowed.
        log_tail: Log of the probability not kept, rounded as the reader will have it `[T]`.
        kl_budget: Largest mean over the positions of the KL divergence from what is given to what is decoded, all
            other ids taken as one, in nats. It is measured here, and the step made finer until it holds, down to
            2^-14 nats.

    Returns:
        The bytes, and the log-probabilities that they decode to, in the order given, float64 `[S]`.

    Raises:
        ValueError: A position keeps an id twice.
    """
    # Rounding to steps of s/√p adds s²/24 for each entry; the widest steps add less, so start above that.
    step = 1.2 * float(np.sqrt(24 * kl_budget / max(float(counts.mean()), 1.0)))
    while True:
        step = float(np.float32(np.clip(step, _FINEST, _COARSEST)))
        levels = to_levels(logprobs, step)
        decoded = restore_mass(from_levels(levels, step), counts, log_tail)
        error = divergence(logprobs, decoded) / counts.size
        if error <= kl_budget or step == _FINEST:
            return _STEP.pack(step) + encode_matrix(tokens, counts, ids, levels), decoded
        step *= 0.985 * float(np.sqrt(kl_budget / error))


def decode_compact(
    data: bytes, tokens: np.ndarray, log_tail: np.ndarray, vocab_size: int, most: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Decode what `encode_compact` gave.

    Args:
        data: The bytes.
        tokens: Input token of each position `[T]`.
        log_tail: Log of the probability not kept `[T]`.
        vocab_size: V; all ids are below.
        most: Entries of a position at most.

    Returns:
        Counts int64 `[T]`, ids int64 `[S]` and log-probs float32 `[S]`, the most probable of each position first.
        A log-prob above -100 is off by at most 0.13 nats, and by a shift of its whole position of at most as much,
        which makes the kept mass one minus the tail.

    Raises:
        ValueError: The bytes are damaged.
    """
    require(len(data) > _STEP.size, "its targets are cut off")
    (step,) = _STEP.unpack_from(data)
    require(_FINEST <= step <= _COARSEST, f"its quantiser has a step of {step}")
    counts, ids, levels = decode_matrix(data[_STEP.size :], tokens, vocab_size, most)
    highest = highest_level(step)
    require(int(levels.max(initial=0)) <= highest, f"its levels go beyond {highest}")
    logprobs = restore_mass(from_levels(levels, step), counts, log_tail)
    return counts, ids, logprobs.astype(np.float32)
