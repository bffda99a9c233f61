"""Sums over positions without all logits at once: each chunk's gradients are formed while its logits are there."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pd_lightning.objective.projection import Projection
from pd_lightning.targets.heads import Head

Sums = tuple[Tensor, ...]
Compute = Callable[[Projection | None, Tensor, slice], Sums]

# Logits of a chunk: matrix products with few rows are slow, and more memory than this makes them no faster.
_CPU_BYTES = 64 * 2**20
_DEVICE_BYTES = 256 * 2**20
_FEWEST_ROWS = 128


def rows_per_chunk(vocab_size: int, hidden: Tensor) -> int:
    """Give the rows of a chunk: a function of the vocabulary, the data type and the kind of device alone.

    Free memory as a criterion would break exact resume.
    """
    budget = _CPU_BYTES if hidden.device.type == "cpu" else _DEVICE_BYTES
    return max(_FEWEST_ROWS, budget // (max(4, hidden.element_size()) * vocab_size))


def chunked_sums(compute: Compute, hidden: Tensor, head: Head, chunk_size: int | None = None) -> Sums:
    """Sum over N positions, chunk by chunk.

    Args:
        compute: Gives sums over some rows, from a projection where the head is linear, their hidden states and their
            slice; the first is differentiable, the others are detached.
        hidden: Hidden states, float `[N, D]`.
        head: The head that `compute` uses; its parameters get gradients.
        chunk_size: Positions of a chunk; by default `rows_per_chunk`.

    Returns:
        The sums over all rows; the first can be back-propagated once.
    """
    size = chunk_size or rows_per_chunk(head.vocab_size or hidden.shape[-1], hidden)
    rows = [slice(start, start + size) for start in range(0, max(1, len(hidden)), size)]
    if not torch.is_grad_enabled():
        projection = None if head.linear is None else Projection(head.linear, hidden)
        return _add([compute(projection, hidden[part], part) for part in rows])
    trained = [parameter for parameter in head.parameters if parameter.requires_grad]
    return _ChunkedSums.apply(compute, rows, head, hidden, *trained)  # type: ignore[no-any-return, no-untyped-call]


class _ChunkedSums(torch.autograd.Function):
    """Runs autograd inside each chunk in the forward, and scales the gradients in the backward."""

    @staticmethod
    def forward(ctx: Any, compute: Compute, rows: list[slice], head: Head, hidden: Tensor, *parameters: Tensor) -> Sums:
        hidden_grad = torch.empty_like(hidden)
        # Thousands of chunks add up: in float32 even where the head is in bfloat16.
        grads = [torch.zeros_like(p, dtype=torch.promote_types(p.dtype, torch.float32)) for p in parameters]
        projection = None
        if head.linear is not None:
            # By identity: comparing tensors would compare their values.
            of = {id(parameter): grad for parameter, grad in zip(parameters, grads, strict=True)}
            linear = head.linear
            projection = Projection(linear, hidden, of.get(id(linear.weight)), of.get(id(linear.bias)))
        sums = []
        for part in rows:
            with torch.enable_grad():
                leaf = hidden[part].detach().requires_grad_()
                first, *others = compute(projection, leaf, part)
            # The projection adds to the gradients of the parameters by itself, which then are not in the graph.
            leaf_grad, *chunk_grads = torch.autograd.grad(first, (leaf, *parameters), allow_unused=True)
            hidden_grad[part] = leaf_grad
            for total, grad in zip(grads, chunk_grads, strict=True):
                if grad is not None:
                    total.add_(grad)
            sums.append((first.detach(), *others))
        ctx.grads = [hidden_grad, *(g.to(p.dtype) for g, p in zip(grads, parameters, strict=True))]
        first, *others = _add(sums)
        ctx.mark_non_differentiable(*others)
        return first, *others

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Any, ...]:
        if torch.is_grad_enabled() or ctx.grads is None:
            raise RuntimeError(
                "The objective can be differentiated once, got create_graph=True or a second backward pass: its "
                "gradients are formed in the forward. Compute second derivatives from the model's logits, or keep the "
                "graph with retain_graph=True."
            )
        if _keeps_graph():
            return None, None, None, *(g * grad for g in ctx.grads)
        # Given away, not copied: that of the head is as large as the head.
        grads, ctx.grads = ctx.grads, None
        return None, None, None, *(g.mul_(grad) for g in grads)


# Whether this backward pass leaves the graph for another one; PyTorch tells it nowhere else.
_keeps_graph: Callable[[], bool] = getattr(torch._C._autograd, "_get_current_graph_task_keep_graph", lambda: True)


def _add(parts: list[Sums]) -> Sums:
    return tuple(torch.stack(values).sum(dim=0) for values in zip(*parts, strict=True))
