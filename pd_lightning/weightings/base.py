"""The interface of a weighting."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor


class Weights(NamedTuple):
    """Weights of the two losses at each position, float `[B, T]` each: 1 - kd_weight and kd_weight to begin with."""

    lm: Tensor
    kd: Tensor


@dataclass(frozen=True)
class Positions:
    """What is known of the positions of B blocks.

    Args:
        counted: Where there is a label, and the teacher said something, bool `[B, T]`.
        document_ids: Which document of its block each of the block's T+1 tokens belongs to, int64 `[B, T+1]`: those
            that are read, and the last one's label. None where the data don't tell.
        statistics: The figures that weightings need, by name, float `[B, T]` each.
    """

    counted: Tensor
    document_ids: Tensor | None = None
    statistics: dict[str, Tensor] = field(default_factory=dict)

    def lowest(self, name: str, fraction: float) -> Tensor:
        """Find the positions of each block where a figure is lowest.

        Args:
            name: Name of the figure.
            fraction: Share of the block's counted positions to find, in (0, 1].

        Returns:
            Where they are, bool `[B, T]`; of equal ones the first.
        """
        return self._first(self.statistics[name], fraction)

    def highest(self, name: str, fraction: float) -> Tensor:
        """Find the positions of each block where a figure is highest; as `lowest`."""
        return self._first(-self.statistics[name], fraction)

    def _first(self, values: Tensor, fraction: float) -> Tensor:
        order = values.masked_fill(~self.counted, torch.inf).argsort(dim=-1, stable=True)
        # A fraction of each block, so that it does not depend on the micro-batch.
        wanted = (fraction * self.counted.sum(dim=-1, keepdim=True)).round()
        chosen = torch.arange(values.shape[-1], device=values.device) < wanted
        return torch.zeros_like(self.counted).scatter(-1, order, chosen)


class Weighting(ABC):
    """A change to the weights of the two losses, position by position.

    Weights change sums of losses alone: they are still divided by the number of labelled positions.

    Attributes:
        needs: Names of the figures that it looks at: `teacher_entropy` or `student_entropy`, in nats. They cost a pass
            over the logits of that side before the one of the loss, but for a teacher's entropy that is stored.
            Weightings that need a figure take no part where the LM loss alone is trained on.
    """

    needs: ClassVar[frozenset[str]] = frozenset()

    @abstractmethod
    def __call__(self, weights: Weights, positions: Positions) -> Weights:
        """Change the weights.

        Args:
            weights: The weights so far.
            positions: What is known of the positions.

        Returns:
            The changed weights; those given are left as they are.
        """


def check_fraction(fraction: float, who: str) -> None:
    """Refuse what is no fraction.

    Raises:
        ValueError: If it is outside (0, 1].
    """
    if not 0 < fraction <= 1:
        raise ValueError(f"fraction must be in (0, 1], got {fraction}. Set init_args.fraction of {who}, 0.2 say.")
