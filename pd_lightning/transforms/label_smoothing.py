"""Label smoothing of the teacher: a share of its probability goes elsewhere."""

import math
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from pd_lightning.context import Context
from pd_lightning.targets import DenseTargets, Form, Kind
from pd_lightning.transforms.base import AnyTargets, Transform
from pd_lightning.transforms.ordering import before_temperatures


class LabelSmoothing(Transform):
    """Mix the teacher's probabilities p with others: (1 - ε) p + ε / V, or (1 - ε) p + ε · onehot(label).

    Exact on all targets: a bucket gets its part of what is spread evenly, and loses a label that was in it to a slot of
    its own; renormalised targets become dense when ε is spread over the vocabulary. The teacher's deviation and
    entropy, for adaptive temperatures after it, stay those before smoothing.

    Args:
        epsilon: The share ε, in [0, 1).
        towards: Where it goes: `uniform`, over the vocabulary, or `label`, to the next token of the text; positions
            without label are left as they are.

    Raises:
        ValueError: If `epsilon` is outside [0, 1).

    Source: Szegedy et al. (arXiv 1512.00567), of one-hot labels; here of the teacher's distribution.
    """

    def __init__(self, epsilon: float, towards: Literal["uniform", "label"] = "uniform") -> None:
        if not 0 <= epsilon < 1:
            raise ValueError(
                f"epsilon must be in [0, 1), got {epsilon}. Set init_args.epsilon of LabelSmoothing, 0.1 say."
            )
        self.epsilon = epsilon
        self.towards = towards

    def form(self, before: Form) -> Form:
        """Refuse to smooth after a temperature, what does not sum to 1, and a label that cannot be told from the tail.

        Raises:
            ValueError: Saying what to use instead.
        """
        who = "LabelSmoothing"
        before_temperatures(before, who, "Smoothing")
        first = f"Name the entry of {who} first in model.transforms, or set init_args.tail of the truncation to bucket."
        before.require_kind(("dense", "bucket", "renormalized"), who, first)
        if self.towards == "label":
            if before.kind == "bucket":
                before.require_statistic("label_logprob", f"{who} towards label")
            return replace(before, has_logits=False)
        kind: Kind = "bucket" if before.kind == "bucket" else "dense"
        return replace(before, has_logits=False, kind=kind)

    def teacher(self, targets: AnyTargets, ctx: Context) -> AnyTargets:
        """Smooth the targets of n positions."""
        vocab_size = ctx.vocab_size
        if self.towards == "uniform":
            return self._towards_uniform(targets, ctx.labels, vocab_size)
        return self._towards_label(targets, ctx.labels, vocab_size) if self.epsilon > 0 else targets

    def _towards_uniform(self, targets: AnyTargets, labels: Tensor, vocab_size: int) -> AnyTargets:
        each = self.epsilon / vocab_size
        if isinstance(targets, DenseTargets):
            mixed = self._mixed(targets.logprobs, _log(each, targets.logprobs))
            return replace(targets, logprobs=mixed, origin=targets.source)
        used = targets.logprobs > -torch.inf
        tail = torch.full_like(targets.logprobs[:, 0], -torch.inf) if targets.log_tail is None else targets.log_tail
        statistics = dict(targets.statistics)
        if targets.knows("label_logprob"):  # of a label in the tail, should smoothing towards it follow
            label_logprob = targets.statistic("label_logprob", labels)
            statistics["label_logprob"] = self._mixed(label_logprob, _log(each, label_logprob))
        smoothed = replace(
            targets,
            logprobs=self._mixed(targets.logprobs, _log(each, tail)).masked_fill(~used, -torch.inf),
            log_tail=self._mixed(tail, (each * (vocab_size - used.sum(dim=-1).to(tail))).log()),
            kind="bucket",
            statistics=statistics,
        )
        return smoothed if targets.kind == "bucket" else smoothed.spread(vocab_size)

    def _towards_label(self, targets: AnyTargets, labels: Tensor, vocab_size: int) -> AnyTargets:
        label = labels.unsqueeze(-1)
        labelled = label >= 0
        if isinstance(targets, DenseTargets):
            ids = torch.arange(vocab_size, device=label.device)
            return replace(
                targets, logprobs=self._raised(targets.logprobs, ids == label, labelled), origin=targets.source
            )
        used = targets.logprobs > -torch.inf
        kept = (targets.ids == label) & used
        new = labelled & ~kept.any(dim=-1, keepdim=True)
        own = torch.full_like(targets.logprobs[:, :1], -torch.inf)
        log_tail = None
        if targets.log_tail is not None:
            tail = targets.log_tail.unsqueeze(-1)
            in_tail = torch.minimum(targets.statistic("label_logprob", labels).unsqueeze(-1), tail)
            own = torch.where(new, in_tail, own)
            rest = (tail.exp() - own.exp()).clamp(min=0.0).log()
            # With all ids kept, what rounding left in the tail is no outcome.
            rest = rest.masked_fill(used.sum(dim=-1, keepdim=True) + new == vocab_size, -torch.inf)
            log_tail = self._raised(rest, torch.zeros_like(new), labelled).squeeze(-1)
        return replace(
            targets,
            ids=torch.cat([targets.ids, torch.where(new, label, targets.ids[:, :1])], dim=-1),
            logprobs=self._raised(torch.cat([targets.logprobs, own], dim=-1), torch.cat([kept, new], dim=-1), labelled),
            log_tail=log_tail,
        )

    def _mixed(self, logprobs: Tensor, log_share: Tensor) -> Tensor:
        """Log of (1 - ε) p + a share."""
        return torch.logaddexp(logprobs + math.log1p(-self.epsilon), log_share)

    def _raised(self, logprobs: Tensor, is_label: Tensor, labelled: Tensor) -> Tensor:
        """Log of (1 - ε) p, plus ε at the label; p itself in rows without one."""
        others = logprobs + math.log1p(-self.epsilon)
        return torch.where(
            labelled, torch.where(is_label, self._mixed(logprobs, _log(self.epsilon, logprobs)), others), logprobs
        )


def _log(share: float, like: Tensor) -> Tensor:
    """A scalar made on the device: one that is copied there would wait for it."""
    return like.new_full((), math.log(share) if share > 0 else -math.inf)
