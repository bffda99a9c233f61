"""Sums over an optimizer step: all its micro-batches, all ranks."""

from collections.abc import Callable

import torch
from torch import Tensor

from pd_lightning.objective import Terms

_NAMES = ("loss", "lm_loss", "kd_loss", "top1_agreement", "dropped_mass")


class Totals:
    """Adds up the terms of micro-batches, so that one reduction gives the means over the labelled positions."""

    def __init__(self) -> None:
        self._sums: Tensor | None = None
        self._has_targets = False
        self._drops = False
        self._balances = False

    def add(self, terms: Terms, router_loss: Tensor | None = None) -> None:
        """Add the terms of a micro-batch, and its load balancing loss where there is one, scalar, a mean."""
        zero = torch.zeros_like(terms.lm_loss)
        values = [
            terms.loss.detach(),
            terms.lm_loss,
            terms.kd_loss,
            terms.agreement,
            terms.dropped_mass,
            terms.num_targets,
            None if router_loss is None else router_loss.detach() * terms.num_tokens,
            terms.num_tokens,
        ]
        # A step of 1e8 tokens has more digits than float32 keeps; MPS has no float64.
        dtype = torch.float32 if zero.device.type == "mps" else torch.float64
        sums = torch.stack([(zero if value is None else value).to(dtype) for value in values])
        self._sums = sums if self._sums is None else self._sums + sums
        self._has_targets |= terms.kd_loss is not None
        self._drops |= terms.dropped_mass is not None
        self._balances |= router_loss is not None

    def reduce(self, reduce: Callable[[Tensor], Tensor]) -> tuple[dict[str, Tensor], Tensor]:
        """Sum over ranks, and start anew.

        Args:
            reduce: Sums a tensor over all ranks.

        Returns:
            Means by name, of the two losses over the labelled positions and of what tells of the teacher over those
            with targets; and the number of labelled positions, scalars.
        """
        assert self._sums is not None, "add comes first"
        sums = reduce(self._sums)
        num_targets, router_loss, num_tokens = sums[-3], sums[-2], sums[-1]
        means = torch.cat([sums[:2] / num_tokens.clamp(min=1.0), sums[2:-3] / num_targets.clamp(min=1.0)])
        names = _NAMES[: 5 if self._drops else 4 if self._has_targets else 2]
        named = {name: means[index].float() for index, name in enumerate(names)}
        if self._balances:
            named["router_aux_loss"] = (router_loss / num_tokens.clamp(min=1.0)).float()
        self._sums, self._has_targets, self._drops, self._balances = None, False, False, False
        return named, num_tokens


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
        gradient.mul_(scale)
