"""Sums over an optimizer step: all its micro-batches, all ranks."""

from collections.abc import Callable

import torch
from torch import Tensor

from pd_lightning.objective import Terms

_NAMES = ("loss", "lm_loss", "kd_loss", "top1_agreement")


class Totals:
    """Adds up the terms of micro-batches, so that one reduction gives the means over the labelled positions."""

    def __init__(self) -> None:
        self._sums: Tensor | None = None
        self._has_targets = False

    def add(self, terms: Terms) -> None:
        """Add the terms of a micro-batch."""
        zero = torch.zeros_like(terms.lm_loss)
        values = [terms.loss.detach(), terms.lm_loss, terms.kd_loss, terms.agreement, terms.num_tokens]
        # A step of 1e8 tokens has more digits than float32 keeps; MPS has no float64.
        dtype = torch.float32 if zero.device.type == "mps" else torch.float64
        sums = torch.stack([(zero if value is None else value).to(dtype) for value in values])
        self._sums = sums if self._sums is None else self._sums + sums
        self._has_targets |= terms.kd_loss is not None

    def reduce(self, reduce: Callable[[Tensor], Tensor]) -> tuple[dict[str, Tensor], Tensor]:
        """Sum over ranks, and start anew.

        Args:
            reduce: Sums a tensor over all ranks.

        Returns:
            Means over the labelled positions by name, and the number of those positions, scalars.
        """
        assert self._sums is not None, "add comes first"
        sums = reduce(self._sums)
        num_tokens = sums[-1]
        means = sums[:-1] / num_tokens.clamp(min=1.0)
        names = _NAMES if self._has_targets else _NAMES[:2]
        self._sums, self._has_targets = None, False
        return {name: means[index].float() for index, name in enumerate(names)}, num_tokens
