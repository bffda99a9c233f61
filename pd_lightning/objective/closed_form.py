"""What a loss needs of a chunk's logits, and the gradient of the logits in closed form, in the logits' own buffer."""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pd_lightning.losses.alignment import divided, tempers
from pd_lightning.targets.blockwise import dot, entropy

if TYPE_CHECKING:
    from pd_lightning.objective.projection import Asked, Projection


class Sparse(torch.autograd.Function):
    """Log-probabilities of labels, kept ids and all others together; exponentials of the others stay in the buffer."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, projection: "Projection", asked: "Asked", ids: Tensor, used: Tensor
    ) -> tuple[Tensor, ...]:
        """Give the label's log-probability, those of kept ids, that of all others, and what `_Start` has seen."""
        start = _Start(projection, hidden, asked)
        logits, columns = start.tempered, asked.vocab_size
        kept = logits.gather(-1, ids)
        if ids.shape[-1]:
            # Out of the sum: not 1 - Σ q over the kept ids, which is 0 in float32 where the truth is 1e-8. An unused
            # slot repeats a kept id; where no slot is used, none is taken out.
            logits.scatter_(-1, ids, kept.masked_fill(used.any(dim=-1, keepdim=True), -torch.inf))
        rest = logits.exp_()[:, :columns].sum(dim=-1).clamp_(min=torch.finfo(logits.dtype).tiny)
        total = rest + kept.exp().masked_fill(~used, 0.0).sum(dim=-1)
        kept = kept - total.log().unsqueeze(-1)
        label = start.label_logprob(total)
        ctx.projection, ctx.start = projection, start
        ctx.save_for_backward(hidden, ids, used, kept, total, rest)
        ctx.mark_non_differentiable(*start.seen)
        return label, kept, rest.log() - total.log(), *start.seen

    @staticmethod
    def backward(ctx: Any, label: Tensor, kept: Tensor, tail: Tensor, *_: Tensor) -> tuple[Any, ...]:
        """Form the gradient of the logits, and of that all others."""
        hidden, ids, used, logprobs, total, rest = ctx.saved_tensors
        start = ctx.start
        # d log q(k) / dz = onehot(k) - q; d log q(others) / dz = q / q(others) - q, off the kept ids alone.
        of_all = start.of_label(label, -(kept.sum(dim=-1) + tail) / total)
        gradient = start.scale(of_all + tail / rest, label)
        # The kept ids were left at 0: what they would have of the others' share need not be taken off again, which
        # would cancel where the others have next to no probability. An unused slot adds nothing.
        at_kept = start.divided(kept + logprobs.exp() * (total * of_all).unsqueeze(-1))
        gradient.scatter_add_(-1, ids, at_kept.masked_fill(~used, 0.0))
        start.add_labels(gradient, label)
        return ctx.projection.back_propagate(gradient, hidden), *(None,) * 4


class Dense(torch.autograd.Function):
    """Log-probabilities of labels, and Σ p log q; the student's exponentials stay in the buffer."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, projection: "Projection", asked: "Asked", probs: Tensor
    ) -> tuple[Tensor, ...]:
        """Give the label's log-probability, Σ p log q, and what `_Start` has seen."""
        start = _Start(projection, hidden, asked)
        logits, columns = start.tempered, asked.vocab_size
        crossed, mass = dot(probs, logits[:, :columns]), probs.sum(dim=-1)
        total = logits.exp_()[:, :columns].sum(dim=-1)
        label = start.label_logprob(total)
        ctx.projection, ctx.start = projection, start
        ctx.save_for_backward(hidden, probs, mass, total)
        ctx.mark_non_differentiable(*start.seen)
        return label, crossed - mass * total.log(), *start.seen

    @staticmethod
    def backward(ctx: Any, label: Tensor, crossed: Tensor, *_: Tensor) -> tuple[Any, ...]:
        """Form the gradient of the logits, and of that all others."""
        hidden, probs, mass, total = ctx.saved_tensors
        start = ctx.start
        gradient = start.scale(start.of_label(label, -crossed * mass / total), label)
        gradient[:, : probs.shape[-1]].addcmul_(probs, start.divided(crossed.unsqueeze(-1)))
        start.add_labels(gradient, label)
        return ctx.projection.back_propagate(gradient, hidden), *(None,) * 3


class _Start:
    """Logits less their largest, and what is the same whatever the targets are.

    The LM loss is of the whole vocabulary at temperature 1, the comparison with the teacher of its first ids at the
    student's temperature. Where that is 1 both are of the same exponentials.
    """

    def __init__(self, projection: "Projection", hidden: Tensor, asked: "Asked") -> None:
        logits = projection.logits(hidden)
        largest = logits.amax(dim=-1, keepdim=True)
        self.labels = asked.labels.clamp(min=0).unsqueeze(-1)
        agrees = are_largest(asked.top1, logits, largest)
        logits.sub_(largest)
        self._columns, self._temperature = asked.vocab_size, asked.temperature
        self._label = logits.gather(-1, self.labels).squeeze(-1)
        entropies = entropy(logits) if asked.observed else torch.zeros_like(self._label)
        self.seen = (agrees, self._label >= 0.0, entropies)
        self._own, self.tempered = logits, logits
        self._is_tempered = tempers(asked.temperature)
        if self._is_tempered:
            shared = logits[:, : self._columns]
            self.tempered = divided(shared, asked.temperature, projection.buffer("tempered", *shared.shape))
            self._whole = logits.exp_().sum(dim=-1)

    def divided(self, values: Tensor) -> Tensor:
        """Divide by the student's temperature."""
        return divided(values, self._temperature)

    def label_logprob(self, total: Tensor) -> Tensor:
        """Give the log-probability of the label, from the sum of exponentials over the first ids."""
        if not self._is_tempered:
            rest = self._own[:, self._columns :]
            self._whole = total + rest.sum(dim=-1) if rest.shape[-1] else total
        return self._label - self._whole.log()

    def of_label(self, label: Tensor, of_teacher: Tensor) -> Tensor:
        """Give what the exponentials of the first ids are multiplied by, float `[n]`, for the terms in -q."""
        return of_teacher if self._is_tempered else of_teacher - label / self._whole

    def scale(self, first: Tensor, label: Tensor) -> Tensor:
        """Turn the exponentials into the gradient of the logits, but for the terms of single ids.

        Args:
            first: Factor of the exponentials of the first ids, float `[n]`.
            label: Gradient of the label's log-probability, float `[n]`.

        Returns:
            Float `[n, V]`.
        """
        others, columns = (-label / self._whole).unsqueeze(-1), self._columns
        if self._is_tempered:
            self._own.mul_(others)
            self._own[:, :columns].addcmul_(self.tempered, self.divided(first.unsqueeze(-1)))
            return self._own
        self._own[:, :columns].mul_(first.unsqueeze(-1))
        if columns < self._own.shape[-1]:
            self._own[:, columns:].mul_(others)
        return self._own

    def add_labels(self, gradient: Tensor, label: Tensor) -> None:
        """Add the terms of the labels."""
        gradient.scatter_add_(-1, self.labels, label.unsqueeze(-1))


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
