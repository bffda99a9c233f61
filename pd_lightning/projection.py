"""The projection onto the vocabulary with its gradients in closed form, in one buffer that all chunks share.

Autograd would keep logits, their log-softmax, and a gradient of each: several `[n, V]` tensors for each chunk, made
anew. What losses need of a position is little: the log-probability of its label, those of the ids that the teacher
kept, and that of all other ids together; or Σ p log q where the teacher is dense. These come with a graph, so that any
loss can be formed of them by autograd, and one gradient for each of them is all that the logits' gradient needs.
"""

from typing import Any

import torch
from torch import Tensor

from pd_lightning.heads import LinearHead
from pd_lightning.losses.alignment import IMPOSSIBLE, AnyTargets, CrossEntropies, KeptLogprobs
from pd_lightning.targets import DenseTargets

_VAST = 1e30


class Projection:
    """A linear head at work on one chunk of positions after another.

    Each chunk must be back-propagated before the next one is compared. The gradient of the head is summed here, over
    all chunks.

    Args:
        head: The head.
        rows: Positions of the largest chunk.
        hidden: Hidden states of any positions, for their device and data type.
        weight_grad: Where the gradient of the weight is added up, float32 or wider `[V, D]`; None where it needs none.
        bias_grad: The same for the bias `[V]`.
    """

    def __init__(
        self,
        head: LinearHead,
        rows: int,
        hidden: Tensor,
        weight_grad: Tensor | None = None,
        bias_grad: Tensor | None = None,
    ) -> None:
        self.head = head
        kind = hidden.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden.dtype
        self.weight = head.weight.detach().to(dtype)
        self.bias = None if head.bias is None else head.bias.detach()
        wide = torch.promote_types(dtype, torch.float32)
        V = self.weight.shape[0]
        # On a CPU positions lie side by side in memory, not ids: matrix products with few rows are faster so.
        by_column = kind == "cpu"
        buffer = hidden.new_empty((V, rows) if by_column else (rows, V), dtype=wide)
        self._buffer = buffer.t() if by_column else buffer
        self._scratch: Tensor | None = None
        self._weight_grad = weight_grad
        self._bias_grad = bias_grad

    def compare(
        self, hidden: Tensor, labels: Tensor, targets: AnyTargets | None, top1: Tensor, vocab_size: int
    ) -> tuple[Tensor, KeptLogprobs | CrossEntropies, Tensor]:
        """Compare a chunk with its targets.

        Args:
            hidden: Hidden states, float `[n, D]`.
            labels: The next token of each position, int64 `[n]`; negative where there is none.
            targets: What the teacher said, if there is one.
            top1: The teacher's most probable id of each position, int64 `[n]`.
            vocab_size: Ids that teacher and student share, from 0 on: the teacher is compared over these, dense ones
                of no more.

        Returns:
            The log-probability of each label, float `[n]`; what is said of the targets; and whether `top1` is the
            student's most probable id too, bool `[n]`.
        """
        labels = labels.clamp(min=0)
        if isinstance(targets, DenseTargets):
            probs, own = self._weigh(targets.logprobs)
            label, crossed, agrees = _Dense.apply(hidden, self, labels, probs, top1, vocab_size)
            return label, CrossEntropies(-crossed, -own), agrees
        ids = labels.new_empty((len(labels), 0)) if targets is None else targets.ids
        used = ids >= 0 if targets is None else targets.logprobs > -torch.inf
        label, kept, tail, agrees = _Sparse.apply(hidden, self, labels, ids, used, top1, vocab_size)
        if ids.shape[-1] >= vocab_size:  # where every id is kept, what is left is rounding
            tail = tail.masked_fill(used.sum(dim=-1) >= vocab_size, IMPOSSIBLE)
        return label, KeptLogprobs(kept.masked_fill(~used, IMPOSSIBLE), tail), agrees

    def _weigh(self, logprobs: Tensor) -> tuple[Tensor, Tensor]:
        """Give probabilities, float `[n, V]`, and Σ p log p, float `[n]`, in buffers that are made once too."""
        if self._scratch is None:
            self._scratch = self._buffer.new_empty((2, *self._buffer.shape))
        probs, finite = (part.flatten()[: logprobs.numel()].view(logprobs.shape) for part in self._scratch)
        finite.copy_(logprobs).clamp_(min=-_VAST)  # 0 log 0 is 0
        torch.exp(finite, out=probs)
        return probs, torch.linalg.vecdot(probs, finite)

    def logits(self, hidden: Tensor) -> Tensor:
        """Compute the logits of a chunk, float `[n, V]`, in the buffer."""
        logits, hidden = self._buffer[: len(hidden)], self._scaled(hidden)
        if hidden.dtype == logits.dtype:
            torch.mm(hidden, self.weight.t(), out=logits)
        else:
            logits.copy_(hidden @ self.weight.t())
        if self.bias is not None:
            logits.add_(self.bias if self.head.scale == 1.0 else self.bias * self.head.scale)
        return logits

    def back_propagate(self, gradient: Tensor, hidden: Tensor) -> Tensor:
        """Add to the gradients of the head, and give that of the hidden states.

        Args:
            gradient: That of the logits, float `[n, V]`.
            hidden: The hidden states of the chunk, float `[n, D]`.

        Returns:
            Float `[n, D]`, in the data type of the hidden states.
        """
        if self._bias_grad is not None:
            self._bias_grad.add_(gradient.sum(dim=0), alpha=self.head.scale)
        narrow, scaled = gradient.to(self.weight.dtype), self._scaled(hidden)
        if self._weight_grad is not None:
            if self._weight_grad.dtype == narrow.dtype:
                self._weight_grad.addmm_(narrow.t(), scaled)
            else:
                self._weight_grad.add_(narrow.t() @ scaled)
        return self._scale(narrow @ self.weight).to(hidden.dtype)

    def _scaled(self, hidden: Tensor) -> Tensor:
        """Hidden states that the weight maps to scaled logits: cheaper than scaling the logits."""
        return self._scale(hidden.to(self.weight.dtype))

    def _scale(self, values: Tensor) -> Tensor:
        return values if self.head.scale == 1.0 else values * self.head.scale


class _Sparse(torch.autograd.Function):
    """Log-probabilities of labels, kept ids and all others together; exponentials of the others stay in the buffer."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        projection: Projection,
        labels: Tensor,
        ids: Tensor,
        used: Tensor,
        top1: Tensor,
        columns: int,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        logits, label, labels, agrees = _started(projection, hidden, labels, top1)
        kept = logits.gather(-1, ids)
        exps, total, whole = _exponentials(logits, columns)
        # Not 1 - Σ q over the kept ids, which is 0 in float32 where the truth is 1e-8.
        rest = exps[:, :columns].scatter_(-1, ids, 0.0).sum(dim=-1) if ids.shape[-1] else total
        rest = rest.clamp(min=torch.finfo(rest.dtype).tiny)
        kept = kept - total.log().unsqueeze(-1)
        ctx.projection, ctx.exps, ctx.columns = projection, exps, columns
        ctx.save_for_backward(hidden, labels, ids, used, kept, whole, total, rest)
        ctx.mark_non_differentiable(agrees)
        return label - whole.log(), kept, rest.log() - total.log(), agrees

    @staticmethod
    def backward(ctx: Any, label: Tensor, kept: Tensor, tail: Tensor, _: Tensor) -> tuple[Any, ...]:
        hidden, labels, ids, used, logprobs, whole, total, rest = ctx.saved_tensors
        # d log q(k) / dz = onehot(k) - q; d log q(others) / dz = q / q(others) - q, off the kept ids alone.
        of_label = -label / whole
        of_all = of_label - (kept.sum(dim=-1) + tail) / total
        gradient = _scaled(ctx.exps, ctx.columns, of_all + tail / rest, of_label)
        # The kept ids were left at 0: what they would have of the others' share need not be taken off again, which
        # would cancel where the others have next to no probability. An unused slot adds nothing.
        at_kept = kept + logprobs.exp() * (total * of_all).unsqueeze(-1)
        gradient.scatter_add_(-1, ids, at_kept.masked_fill(~used, 0.0))
        gradient.scatter_add_(-1, labels, label.unsqueeze(-1))
        return ctx.projection.back_propagate(gradient, hidden), *(None,) * 6


class _Dense(torch.autograd.Function):
    """Log-probabilities of labels, and Σ p log q; the student's exponentials stay in the buffer."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, projection: Projection, labels: Tensor, probs: Tensor, top1: Tensor, columns: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        logits, label, labels, agrees = _started(projection, hidden, labels, top1)
        crossed, mass = torch.linalg.vecdot(probs, logits[:, :columns]), probs.sum(dim=-1)
        exps, total, whole = _exponentials(logits, columns)
        ctx.projection, ctx.exps, ctx.columns = projection, exps, columns
        ctx.save_for_backward(hidden, labels, probs, mass, whole, total)
        ctx.mark_non_differentiable(agrees)
        return label - whole.log(), crossed - mass * total.log(), agrees

    @staticmethod
    def backward(ctx: Any, label: Tensor, crossed: Tensor, _: Tensor) -> tuple[Any, ...]:
        hidden, labels, probs, mass, whole, total = ctx.saved_tensors
        of_label = -label / whole
        gradient = _scaled(ctx.exps, ctx.columns, of_label - crossed * mass / total, of_label)
        gradient[:, : ctx.columns].addcmul_(probs, crossed.unsqueeze(-1))
        gradient.scatter_add_(-1, labels, label.unsqueeze(-1))
        return ctx.projection.back_propagate(gradient, hidden), *(None,) * 5


def are_largest(ids: Tensor, logits: Tensor, largest: Tensor) -> Tensor:
    """Tell whether ids have the largest logit of their position.

    Args:
        ids: One id of each position, int64 `[n]`; a teacher's padding may be beyond the student's.
        logits: The logits, float `[n, V]`.
        largest: The largest of them, float `[n, 1]`.

    Returns:
        Bool `[n]`; true for each of several that have it.
    """
    ids, V = ids.unsqueeze(-1), logits.shape[-1]
    return ((logits.gather(-1, ids.clamp(max=V - 1)) >= largest) & (ids < V)).squeeze(-1)


def _started(
    projection: Projection, hidden: Tensor, labels: Tensor, top1: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Give logits less their largest `[n, V]`, the label's `[n]`, labels `[n, 1]`, and where `top1` has the largest."""
    logits, labels = projection.logits(hidden), labels.unsqueeze(-1)
    largest = logits.amax(dim=-1, keepdim=True)
    agrees = are_largest(top1, logits, largest)
    logits.sub_(largest)
    return logits, logits.gather(-1, labels).squeeze(-1), labels, agrees


def _exponentials(logits: Tensor, columns: int) -> tuple[Tensor, Tensor, Tensor]:
    """Give exponentials in place of logits `[n, V]`, and their sums over the first columns and over all `[n]`."""
    exps = logits.exp_()
    total = exps[:, :columns].sum(dim=-1)
    return exps, total, total if columns >= exps.shape[-1] else total + exps[:, columns:].sum(dim=-1)


def _scaled(exps: Tensor, columns: int, first: Tensor, others: Tensor) -> Tensor:
    """Multiply each row, in place, by one number in its first columns and by another one in the others."""
    exps[:, :columns].mul_(first.unsqueeze(-1))
    if columns < exps.shape[-1]:
        exps[:, columns:].mul_(others.unsqueeze(-1))
    return exps
