"""Truncation to the most probable ids: top-p, then top-k."""

import sys
import warnings
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from pd_lightning.context import Context
from pd_lightning.targets import DenseTargets, Form, Kind, SparseTargets
from pd_lightning.transforms.base import AnyTargets, Transform
from pd_lightning.transforms.ordering import before_temperatures

Tail = Literal["bucket", "renormalize", "uniform", "none"]
_KINDS: dict[Tail, Kind] = {
    "bucket": "bucket",
    "renormalize": "renormalized",
    "uniform": "dense",
    "none": "none",
}
_ALL = sys.maxsize
_BACK: dict[Kind, Tail] = {"renormalized": "renormalize", "none": "none"}


class TopPK(Transform):
    """Keep the smallest set of ids whose probability reaches p, and of those the k most probable at most.

    Args:
        p: Probability to reach, in (0, 1]; 1 keeps all that k allows.
        k: Most ids to keep at a position; null for no limit.
        min_k: Fewest ids to keep at a position, whatever p says.
        tail: What becomes of the probability that is cut off. `bucket`: it stays as one further outcome, "any other
            id", on both sides, so that equal distributions still give zero. `renormalize`: the kept ones are scaled
            to sum to 1, as Peng et al. do; biased, and worse than no teacher where the teacher is unsure. `uniform`:
            it is spread over all other ids, each the same. `none`: it is forgotten.

    Raises:
        ValueError: If p is outside (0, 1], or k or min_k is no positive number.

    Source: Peng et al. (arXiv 2410.16215), section 3.1; the bucket is known as ghost token.
    """

    def __init__(self, p: float = 1.0, k: int | None = 100, min_k: int = 1, tail: Tail = "bucket") -> None:
        who = type(self).__name__
        if not 0 < p <= 1:
            raise ValueError(f"p must be in (0, 1], got {p}. Set init_args.p of {who}, 0.95 say.")
        if k is not None and k < 1:
            raise ValueError(f"k must be at least 1, got {k}. Set init_args.k of {who}, 50 say.")
        if min_k < 1 or (k is not None and min_k > k):
            raise ValueError(
                f"k and min_k must satisfy 1 <= min_k <= k, got k {k} and min_k {min_k}. Set init_args.k and "
                f"init_args.min_k of {who}."
            )
        self.p = p
        self.k = k
        self.min_k = min_k
        self.tail: Tail = tail

    def form(self, before: Form) -> Form:
        """Refuse to truncate after a temperature, or what is sampled, and to keep more ids than there are.

        Raises:
            ValueError: If a temperature or sampling comes before, or k is above the size of the vocabulary.
        """
        who = type(self).__name__
        before_temperatures(before, who, "Truncation")
        if before.kind == "sampled":
            raise ValueError(
                f"{who} must have the teacher's probabilities, got estimates from samples: truncating them is biased. "
                f"Leave {who} out of model.transforms."
            )
        if before.kind in ("renormalized", "none") and self.tail not in (_BACK[before.kind], "none"):
            raise ValueError(
                f"The tail of {who} must be known, got {self.tail} after a truncation that dropped it. Set "
                f"init_args.tail of both to {self.tail}, or keep one of them in model.transforms."
            )
        if self.k is not None and before.vocab_size is not None and self.k > before.vocab_size:
            raise ValueError(
                f"k must be at most the size of the vocabulary, got {self.k} for {before.vocab_size} ids. Lower "
                f"init_args.k of {who}."
            )
        self._say_what_has_no_effect(before)
        keeps_logits = self.tail in ("bucket", "none")
        return replace(
            before,
            kind=_KINDS[self.tail],
            whole=False,
            selection=(self.p, self.k or _ALL, self.min_k),
            has_logits=before.has_logits and keeps_logits,
        )

    def teacher(self, targets: AnyTargets, ctx: Context) -> AnyTargets:
        """Truncate the targets of n positions."""
        kept = self._narrow(targets) if isinstance(targets, SparseTargets) else self._cut(targets)
        return self._treat_tail(kept, ctx.vocab_size)

    def _cut(self, targets: DenseTargets) -> SparseTargets:
        size = targets.logprobs.shape[-1]
        logprobs, ids = targets.logprobs.topk(min(self.k or size, size), dim=-1)
        ids, logprobs = cut(ids, logprobs, self.p, self.min_k)
        log_tail = targets.logprobs.scatter(-1, ids, -torch.inf).logsumexp(dim=-1)
        return replace(targets.keep(ids, logprobs), log_tail=log_tail, kind="bucket")

    def _narrow(self, targets: SparseTargets) -> SparseTargets:
        logprobs, order = targets.logprobs.sort(dim=-1, descending=True)
        k = min(self.k or _ALL, logprobs.shape[-1])
        ids, kept = cut(targets.ids.gather(-1, order)[..., :k], logprobs[..., :k], self.p, self.min_k)
        left = torch.cat([logprobs[..., :k].masked_fill(kept > -torch.inf, -torch.inf), logprobs[..., k:]], dim=-1)
        log_tail = left.logsumexp(dim=-1)
        if targets.log_tail is not None:
            log_tail = torch.logaddexp(log_tail, targets.log_tail)
        return replace(targets, ids=ids, logprobs=kept, log_tail=log_tail, kind="bucket")

    def _treat_tail(self, targets: SparseTargets, vocab_size: int) -> AnyTargets:
        if self.tail == "bucket":
            return targets
        if self.tail == "uniform":
            return targets.spread(vocab_size)
        if self.tail == "renormalize":
            logprobs = targets.logprobs.log_softmax(dim=-1)
            return replace(targets, logprobs=logprobs, log_tail=None, kind="renormalized")
        return replace(targets, log_tail=None, kind="none")

    def _say_what_has_no_effect(self, before: Form) -> None:
        """Warn where less is known already than is asked for."""
        if before.selection is None:
            return
        p, k, min_k = before.selection
        beyond = {
            "p": (self.p, p) if p < self.p < 1 else None,
            "k": (self.k, k) if self.k is not None and self.k > k else None,
            "min_k": (self.min_k, min_k) if self.min_k > min_k and p < 1 else None,
        }
        for name, pair in beyond.items():
            if pair is not None:
                warnings.warn(
                    f"{name} {pair[0]:g} of {type(self).__name__} has no effect beyond {pair[1]:g}, up to which ids "
                    f"were kept before it. Lower its init_args.{name}, or record with model.selection.{name} "
                    f"{pair[0]:g} if it is the store's.",
                    stacklevel=1,
                )


class TopK(TopPK):
    """Keep the k most probable ids.

    Args:
        k: Ids to keep at a position.
        tail: What becomes of the probability that is cut off, see TopPK.

    Raises:
        ValueError: If k is no positive number.
    """

    def __init__(self, k: int, tail: Tail = "bucket") -> None:
        super().__init__(1.0, k, 1, tail)


class TopP(TopPK):
    """Keep the smallest set of ids whose probability reaches p.

    Args:
        p: Probability to reach, in (0, 1].
        min_k: Fewest ids to keep at a position, whatever p says.
        tail: What becomes of the probability that is cut off, see TopPK.

    Raises:
        ValueError: If p is outside (0, 1], or min_k is no positive number.
    """

    def __init__(self, p: float, min_k: int = 1, tail: Tail = "bucket") -> None:
        super().__init__(p, None, min_k, tail)


def cut(ids: Tensor, logprobs: Tensor, p: float, min_k: int) -> tuple[Tensor, Tensor]:
    """Cut rows that are sorted by probability where they reach p.

    Args:
        ids: Token ids, most probable first, int64 `[n, K]`.
        logprobs: Their log-probabilities, float `[n, K]`.
        p: Probability to reach, in (0, 1].
        min_k: Fewest ids to keep.

    Returns:
        Ids and log-probabilities with unused slots where ids were cut, see SparseTargets.
    """
    probs = logprobs.exp()
    # Not cumsum - probs: rounding would cut ids where p is 1.
    before = F.pad(probs.cumsum(dim=-1)[..., :-1], (1, 0))
    keep = before < p if p < 1 else torch.ones_like(probs, dtype=torch.bool)
    keep[..., :min_k] = True
    keep &= probs > 0
    # An unused slot repeats the first id: scatters over the row's ids then touch kept ids alone.
    return torch.where(keep, ids, ids[..., :1]), logprobs.masked_fill(~keep, -torch.inf)
