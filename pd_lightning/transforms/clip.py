"""Logit clipping: no logit further from the middle, or from the largest, than a bound."""

from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from pd_lightning.context import Context
from pd_lightning.targets import DenseTargets, Form, SparseTargets
from pd_lightning.transforms.base import AnyTargets, Transform
from pd_lightning.transforms.ordering import before_temperatures

_STILL_KNOWN = frozenset({"log_z", "label_logprob"})


class Clip(Transform):
    """Clip the teacher's logits to [c - value, c + value] and normalise them again.

    Dense targets are exact. Of stored ones the kept ids are exact, and the others share a bucket of which only the sum
    is known: its probability is brought within that of as many ids at the lower and at the upper bound. That is exact
    where the smallest kept logit reaches the lower bound, for then all others do; else, around the maximum, it is the
    least that it can be. Of renormalised targets the kept ids alone are clipped.

    Args:
        value: How far a logit may be from c, above 0.
        around: What c is at each position: its largest logit, `max`, below which nothing but the lower bound acts, or
            the mean of all its logits, `mean`.
        unit: What `value` counts: `nats`, or `std`, standard deviations of the position's logits.

    Raises:
        ValueError: If `value` is not positive.

    Source: one of the forms that F, the logits processing of Peng et al. (arXiv 2410.16215), can take.
    """

    def __init__(
        self, value: float, around: Literal["max", "mean"] = "max", unit: Literal["nats", "std"] = "nats"
    ) -> None:
        if not 0 < value < float("inf"):
            raise ValueError(f"value must be positive, got {value}. Set init_args.value of Clip, 10 say.")
        self.value = value
        self.around = around
        self.unit = unit

    def form(self, before: Form) -> Form:
        """Refuse to clip after a temperature, estimates, what does not sum to 1, or around a mean that is not known.

        Raises:
            ValueError: Saying what to use instead.
        """
        before_temperatures(before, "Clip", "Clipping")
        first = "Name the entry of Clip first in model.transforms."
        before.require_kind(("dense", "bucket", "renormalized"), "Clip", first)
        if before.kind == "renormalized" and self.around == "mean":
            raise ValueError(f"Clip around mean must have the logits of all ids, got renormalised targets. {first}")
        if self.around == "mean":
            before.require_statistic("mean", "Clip around mean")
        if self.unit == "std":
            before.require_statistic("std", "Clip in standard deviations")
        if before.kind == "dense" or before.statistics is None:
            return before
        return replace(before, statistics=before.statistics & _STILL_KNOWN)

    def teacher(self, targets: AnyTargets, ctx: Context) -> AnyTargets:
        """Clip the targets of n positions."""
        centre = targets.logprobs.amax(dim=-1) if self.around == "max" else targets.statistic("mean")
        reach = self.value * targets.statistic("std") if self.unit == "std" else self.value
        low, high = (centre - reach).unsqueeze(-1), (centre + reach).unsqueeze(-1)
        clipped = targets.logprobs.clamp(low, high)
        if isinstance(targets, DenseTargets):
            log_mass = clipped.logsumexp(dim=-1, keepdim=True)
            statistics = _log_z(targets, log_mass)
            return replace(targets, logprobs=clipped - log_mass, statistics=statistics, origin=None)
        clipped = clipped.masked_fill(targets.logprobs == -torch.inf, -torch.inf)
        tail = _clipped_tail(targets, low, high, ctx.vocab_size)
        log_mass = torch.cat([clipped, tail], dim=-1).logsumexp(dim=-1, keepdim=True)
        statistics = _log_z(targets, log_mass)
        if targets.knows("label_logprob"):
            label = targets.statistic("label_logprob", ctx.labels).unsqueeze(-1)
            statistics["label_logprob"] = (label.clamp(low, high) - log_mass).squeeze(-1)
        log_tail = None if targets.log_tail is None else (tail - log_mass).squeeze(-1)
        return replace(targets, logprobs=clipped - log_mass, log_tail=log_tail, statistics=statistics, origin=None)


def _clipped_tail(targets: SparseTargets, low: Tensor, high: Tensor, vocab_size: int) -> Tensor:
    """Bring the log-probability of all other ids within that of as many at the bounds, float `[n, 1]`."""
    if targets.log_tail is None:
        return torch.full_like(low, -torch.inf)
    others = vocab_size - (targets.logprobs > -torch.inf).sum(dim=-1, keepdim=True)
    each = others.to(low.dtype).log()
    return targets.log_tail.unsqueeze(-1).clamp(each + low, each + high)


def _log_z(targets: AnyTargets, log_mass: Tensor) -> dict[str, Tensor]:
    """Keep log-probability + log Z what it is: a logit, now a clipped one."""
    known = targets.statistics.get("log_z")
    return {} if known is None else {"log_z": known + log_mass.squeeze(-1)}
