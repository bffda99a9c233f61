"""The weights of the two losses position by position, before any chunk is looked at."""

from collections.abc import Collection

import torch
from torch import Tensor

from pd_lightning.context import IGNORE_INDEX
from pd_lightning.objective.position_statistics import position_statistics
from pd_lightning.targets import Targets
from pd_lightning.targets.heads import Head
from pd_lightning.weightings import Positions, Weighting, Weights


@torch.no_grad()
def position_weights(
    weightings: Collection[Weighting],
    hidden: Tensor,
    head: Head,
    labels: Tensor,
    targets: Targets | None,
    kd_weight: float,
    document_ids: Tensor | None = None,
    chunk_size: int | None = None,
) -> Weights:
    """Give the weights of the two losses at each of N = B·T positions.

    Args:
        weightings: What is done to them, in order.
        hidden: The student's hidden states, float `[N, D]`.
        head: The student's head.
        labels: The next token of each position, int64 `[B, T]`; -100 where there is none.
        targets: The teacher's targets, if there are any.
        kd_weight: Share of the KD loss.
        document_ids: Which document each of a block's tokens belongs to, int64 `[B, T+1]`.
        chunk_size: Positions whose logits are there at once.

    Returns:
        Float `[N]` each.
    """
    dtype = torch.promote_types(hidden.dtype, torch.float32)
    lm = torch.full(labels.shape, 1.0 - kd_weight, dtype=dtype, device=hidden.device)
    weights = Weights(lm, torch.full_like(lm, kd_weight))
    counted = labels != IGNORE_INDEX
    if targets is not None and targets.missing is not None:
        missing = targets.missing.view(labels.shape)
        weights = Weights(lm.masked_fill(missing, 1.0), weights.kd.masked_fill(missing, 0.0))
        counted = counted & ~missing
    # Nor where the loss is only looked at, with a KD weight of 0: what they need costs a pass over the logits.
    acting = [weighting for weighting in weightings if kd_weight > 0 or not weighting.needs]
    needs = frozenset().union(*(weighting.needs for weighting in acting))
    statistics = {}
    if needs:
        assert targets is not None, "what needs figures does not act without targets"
        statistics = position_statistics(needs, hidden, head, targets, chunk_size)
    shaped = {name: values.view(labels.shape) for name, values in statistics.items()}
    positions = Positions(counted, document_ids, shaped)
    for weighting in acting:
        weights = weighting(weights, positions)
    return Weights(weights.lm.flatten(), weights.kd.flatten())
