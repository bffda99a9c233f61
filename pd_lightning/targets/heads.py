"""The last step of a language model, from hidden states to logits."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class LinearHead:
    """Logits as scale · (weight · hidden + bias), maybe capped: cap · tanh(logits / cap).

    Args:
        weight: Float `[V, D]`.
        bias: Float `[V]`, or None.
        scale: Factor of all logits.
        cap: What the logits stay below, or None.
    """

    weight: Tensor
    bias: Tensor | None = None
    scale: float = 1.0
    cap: float | None = None

    def write(self, hidden: Tensor, out: Tensor, slope: Tensor | None = None) -> Tensor:
        """Compute logits, without gradients, into a tensor that is there.

        Args:
            hidden: Hidden states, float `[n, D]`.
            out: Where to, float `[n, V]`.
            slope: Where to write the derivative of the cap, float `[n, V]`, if there is a cap and it is asked for.

        Returns:
            `out`.
        """
        weight, hidden = self.weight.detach(), self.scaled(hidden)
        if hidden.dtype == out.dtype:
            torch.mm(hidden, weight.t(), out=out)
        else:
            out.copy_(hidden @ weight.t())
        if self.bias is not None:
            out.add_(self.bias.detach() if self.scale == 1.0 else self.bias.detach() * self.scale)
        if self.cap is not None:
            out.div_(self.cap).tanh_()
            if slope is not None:
                torch.mul(out, out, out=slope).neg_().add_(1.0)
            out.mul_(self.cap)
        return out

    def scaled(self, hidden: Tensor) -> Tensor:
        """Give hidden states that the weight maps to scaled logits: cheaper than scaling the logits."""
        hidden = hidden.detach().to(self.weight.dtype)
        return hidden if self.scale == 1.0 else hidden * self.scale


def is_plain(layer: nn.Module) -> bool:
    """Tell whether a layer is a matrix and no more: no other kind of layer, and no hooks that see or change it.

    Args:
        layer: An output embedding.
    """
    hooks = (layer._forward_hooks, layer._forward_pre_hooks, layer._backward_hooks, layer._backward_pre_hooks)
    return type(layer) is nn.Linear and not any(hooks)


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
