"""The last step of a language model, from hidden states to logits."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn


@dataclass(frozen=True)
class LinearHead:
    """Logits as scale · (weight · hidden + bias).

    Args:
        weight: Float `[V, D]`.
        bias: Float `[V]`, or None.
        scale: Factor of all logits.
    """

    weight: Tensor
    bias: Tensor | None = None
    scale: float = 1.0


@dataclass(frozen=True)
class Head:
    """The last step of a language model, from hidden states to logits.

    Args:
        project: Maps hidden states `[n, D]` to logits `[n, V]`, each row by itself.
        parameters: The parameters that it uses, to be trained or not.
        vocab_size: V, or None where it is not known beforehand.
        linear: What it comes to, where it is no more than that: its gradients have a closed form then.
    """

    project: Callable[[Tensor], Tensor]
    parameters: tuple[nn.Parameter | Tensor, ...] = ()
    vocab_size: int | None = None
    linear: LinearHead | None = None

    def __call__(self, hidden: Tensor) -> Tensor:
        """Map hidden states `[n, D]` to logits `[n, V]`."""
        return self.project(hidden)
