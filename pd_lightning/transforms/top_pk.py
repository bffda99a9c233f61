"""Truncation to the most probable ids: top-p, then top-k."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from pd_lightning.targets import SparseTargets
from pd_lightning.transforms.base import AnyTargets, Transform
from pd_lightning.transforms.temperature import Temperature

Tail = Literal["bucket", "renormalize", "none"]


class TopPK(Transform):
    """Keep the smallest set of ids whose probability reaches p, and of those the k most probable at most.

    Args:
        p: Probability to reach, in (0, 1]; 1 keeps all that k allows.
        k: Most ids to keep at a position.
        min_k: Fewest ids to keep at a position, whatever p says.
        tail: What becomes of the probability that is cut off. `bucket`: it stays as one further outcome, "any other
            id", on both sides, so that equal distributions still give zero. `renormalize`: the kept ones are scaled
            to sum to 1, as Peng et al. do; biased, and worse than no teacher where the teacher is unsure. `none`: it
            is forgotten.

    Raises:
        ValueError: If p is outside (0, 1], or k or min_k is no positive number.

    Source: Peng et al. (arXiv 2410.16215), section 3.1; the bucket is known as ghost token.
    """

    def __init__(self, p: float = 1.0, k: int = 100, min_k: int = 1, tail: Tail = "bucket") -> None:
        if not 0 < p <= 1:
            raise ValueError(f"p must be in (0, 1], got {p}. Set init_args.p of TopPK, 0.95 say.")
        if not 1 <= min_k <= k:
            raise ValueError(
                f"k and min_k must satisfy 1 <= min_k <= k, got k {k} and min_k {min_k}. Set init_args.k and "
                "init_args.min_k of TopPK."
            )
        self.p = p
        self.k = k
        self.min_k = min_k
        self.tail: Tail = tail

    def check(self, before: Sequence[Transform]) -> None:
        """Refuse to truncate after a temperature.

        Raises:
            ValueError: If a temperature comes before.
        """
        if any(isinstance(transform, Temperature) for transform in before):
            raise ValueError(
                "Truncation must come before temperature, as in softmax(truncate(z) / temperature). Name the entry "
                "of TopPK before that of Temperature in model.transforms."
            )

    def teacher(self, targets: AnyTargets) -> AnyTargets:
        """Truncate the targets of n positions."""
        if isinstance(targets, SparseTargets):
            kept = self._narrow(targets)
        else:
            logprobs, ids = targets.logprobs.topk(min(self.k, targets.logprobs.shape[-1]), dim=-1)
            kept = cut(SparseTargets(ids, logprobs), self.p, self.min_k)
        return self._treat_tail(kept)

    def _narrow(self, targets: SparseTargets) -> SparseTargets:
        logprobs, order = targets.logprobs.topk(min(self.k, targets.ids.shape[-1]), dim=-1)
        sorted_targets = replace(targets, ids=targets.ids.gather(-1, order), logprobs=logprobs)
        return cut(sorted_targets, self.p, self.min_k)

    def _treat_tail(self, targets: SparseTargets) -> SparseTargets:
        if self.tail == "bucket":
            return targets
        if self.tail == "renormalize":
            return replace(targets, logprobs=targets.logprobs.log_softmax(dim=-1), log_tail=None)
        return replace(targets, log_tail=None)


def cut(targets: SparseTargets, p: float, min_k: int) -> SparseTargets:
    """Cut rows that are sorted by probability where they reach p, and find the mass that is cut off.

    Args:
        targets: Targets whose slots are sorted, most probable first.
        p: Probability to reach, in (0, 1].
        min_k: Fewest ids to keep.

    Returns:
        The targets with unused slots where ids were cut, and their new tail.
    """
    probs = targets.logprobs.exp()
    # Not cumsum - probs: rounding would cut ids where p is 1.
    before = F.pad(probs.cumsum(dim=-1)[..., :-1], (1, 0))
    keep = before < p if p < 1 else torch.ones_like(probs, dtype=torch.bool)
    keep[..., :min_k] = True
    keep &= probs > 0
    logprobs = targets.logprobs.masked_fill(~keep, -torch.inf)
    # An unused slot repeats the first id: scatters over the row's ids then touch kept ids alone.
    ids = torch.where(keep, targets.ids, targets.ids[..., :1])
    return replace(targets, ids=ids, logprobs=logprobs, log_tail=_log_rest(logprobs, targets.log_tail))


def _log_rest(logprobs: Tensor, log_tail: Tensor | None) -> Tensor:
    """Log of one minus the kept mass; float64, for what is left is a small difference of large numbers."""
    wide = logprobs.dtype if logprobs.device.type == "mps" else torch.float64
    rest = (1.0 - logprobs.to(wide).exp().sum(dim=-1)).clamp(min=0.0)
    if log_tail is not None:
        rest = torch.maximum(rest, log_tail.to(wide).exp())
    return rest.log().to(logprobs.dtype)
