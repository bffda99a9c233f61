"""Sums over an optimizer step: all its micro-batches, all ranks."""

from collections.abc import Callable

import torch
from torch import Tensor

from pd_lightning.objective.terms import Terms

# What sums over a micro-batch are divided by before Lightning and DDP see them: a power of two, so that multiplying it
# back costs no bit.
NOMINAL_TOKENS = 4096
# Names of the means, by the fields of Terms: over the labelled positions, and over those with targets.
_PER_TOKEN = {name: name for name in ("loss", "lm_loss", "student_entropy", "top1_accuracy", "router_aux_loss")}
_PER_TARGET = {
    "kd_loss": "kd_loss",
    "agreement": "top1_agreement",
    "dropped_mass": "dropped_mass",
    "student_kept_mass": "student_kept_mass",
}
_MEANS = _PER_TOKEN | _PER_TARGET
_FIELDS = (*_MEANS, "num_targets", "num_tokens")


class Totals:
    """Adds up the terms of micro-batches, so that one reduction gives the means over the labelled positions."""

    def __init__(self) -> None:
        self._sums: Tensor | None = None
        self._known: set[str] = set()

    def add(self, terms: Terms) -> None:
        """Add the terms of a micro-batch."""
        zero = torch.zeros_like(terms.lm_loss)
        values = {name: getattr(terms, name) for name in _FIELDS}
        self._known |= {name for name, value in values.items() if value is not None}
        # A step of 1e8 tokens has more digits than float32 keeps; MPS has no float64.
        dtype = torch.float32 if zero.device.type == "mps" else torch.float64
        sums = torch.stack([(zero if value is None else value.detach()).to(dtype) for value in values.values()])
        self._sums = sums if self._sums is None else self._sums + sums

    def reduce(self, reduce: Callable[[Tensor], Tensor]) -> tuple[dict[str, Tensor], Tensor]:
        """Sum over ranks, and start anew.

        Args:
            reduce: Sums a tensor over all ranks.

        Returns:
            Means by name, of what was known of any micro-batch; and the number of labelled positions, scalars.
        """
        assert self._sums is not None, "add comes first"
        sums = reduce(self._sums)
        num_targets, num_tokens = sums[-2:].clamp(min=1.0)
        per_token, per_target = sums[: len(_PER_TOKEN)] / num_tokens, sums[len(_PER_TOKEN) : -2] / num_targets
        means = torch.cat([per_token, per_target]).float()
        known = self._known
        self._sums, self._known = None, set()
        return {name: means[i] for i, (field, name) in enumerate(_MEANS.items()) if field in known}, sums[-1]


def rescale(gradients: list[Tensor], divided_by: int, num_tokens: Tensor) -> None:
    """Give every labelled position of an optimizer step the same weight.

    Lightning divides each micro-batch by the number of micro-batches, DDP and FSDP by the number of ranks, and later
    counts are not known at the first backward: so it is sums that they divide, and the division by the number of
    tokens comes here, before gradients are clipped.

    Args:
        gradients: The gradients, changed in place.
        divided_by: What the sums were divided by: nominal tokens × micro-batches × ranks.
        num_tokens: Labelled positions of the whole step, scalar.
    """
    scale = divided_by / num_tokens.clamp(min=1.0)
    for gradient in gradients:
        gradient.mul_(scale.to(gradient.device))  # those of a student in the host's memory are there
