"""The projection onto the vocabulary with its gradients in closed form, in one buffer that all chunks share.

Autograd would keep logits, their log-softmax, and a gradient of each: several `[n, V]` tensors for each chunk, made
anew. What losses need of a position is little: the log-probability of its label, those of the ids that the teacher
kept, and that of all other ids together; or Σ p log q where the teacher is dense. These come with a graph, so that any
loss can be formed of them by autograd, and one gradient for each of them is all that the logits' gradient needs.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pd_lightning.losses.alignment import IMPOSSIBLE, AnyTargets, CrossEntropies, KeptLogprobs, divided, tempers
from pd_lightning.objective.closed_form import Dense, Sparse
from pd_lightning.targets import AnyTemperature, DenseTargets
from pd_lightning.targets.blockwise import Workspace, exponentials, log_softmax_
from pd_lightning.targets.heads import LinearHead


@dataclass(frozen=True)
class Asked:
    """What is asked of the student at n positions.

    Args:
        labels: The next token of each, int64 `[n]`; negative where there is none.
        top1: The teacher's most probable id of each, int64 `[n]`.
        vocab_size: Ids that teacher and student share, from 0 on: the teacher is compared over these, dense ones of no
            more.
        temperature: That of the student, for the comparison with the teacher alone: a number, or float `[n]`.
        observed: Whether the student's entropy is asked for.
    """

    labels: Tensor
    top1: Tensor
    vocab_size: int
    temperature: AnyTemperature = 1.0
    observed: bool = False


@dataclass(frozen=True)
class Found:
    """What a student says of n positions.

    Args:
        lm_loss: Minus the log-probability of each label, float `[n]`, in nats; of no meaning where there is no label.
        student: What the loss compares with the targets.
        agrees: Whether the teacher's most probable id is the student's too, bool `[n]`.
        correct: Whether the label is the student's most probable id, bool `[n]`.
        entropy: The student's, float `[n]`, in nats; 0 where it was not asked for.
    """

    lm_loss: Tensor
    student: Tensor | KeptLogprobs | CrossEntropies
    agrees: Tensor
    correct: Tensor
    entropy: Tensor


class Projection:
    """A linear head at work on one chunk of positions after another.

    Each chunk must be back-propagated before the next one is compared. The gradient of the head is summed here, over
    all chunks.

    Args:
        head: The head.
        hidden: Hidden states of any positions, for their device and data type.
        weight_grad: Where the gradient of the weight is added up, float32 or wider `[V, D]`; None where it needs none.
        bias_grad: The same for the bias `[V]`.
    """

    def __init__(
        self,
        head: LinearHead,
        hidden: Tensor,
        weight_grad: Tensor | None = None,
        bias_grad: Tensor | None = None,
    ) -> None:
        kind = hidden.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden.dtype
        self.head = replace(head, weight=head.weight.detach().to(dtype))
        self.workspace = Workspace(hidden.device)
        # On a CPU positions lie side by side in memory, not ids: matrix products with few rows are faster so.
        self.by_column = kind == "cpu"
        self._wide = torch.promote_types(dtype, torch.float32)
        self._weight_grad = weight_grad
        self._bias_grad = bias_grad

    def compare(self, hidden: Tensor, targets: AnyTargets | None, asked: Asked) -> Found:
        """Compare a chunk with its targets.

        Args:
            hidden: Hidden states, float `[n, D]`.
            targets: What the teacher said, if there is one.
            asked: What is asked.

        Returns:
            What the student says of each position.
        """
        if isinstance(targets, DenseTargets):
            probs, own = self._probabilities(targets)
            label, crossed, *seen = Dense.apply(hidden, self, asked, probs)
            return Found(-label, CrossEntropies(-crossed, -own), *seen)
        none = asked.labels.new_empty((len(hidden), 0))
        ids, used = (none, none >= 0) if targets is None else (targets.ids, targets.logprobs > -torch.inf)
        label, kept, tail, *seen = Sparse.apply(hidden, self, asked, ids, used)
        if ids.shape[-1] >= asked.vocab_size:  # where every id is kept, what is left is rounding
            tail = tail.masked_fill(used.sum(dim=-1) >= asked.vocab_size, IMPOSSIBLE)
        return Found(-label, KeptLogprobs(kept.masked_fill(~used, IMPOSSIBLE), tail), *seen)

    def buffer(self, name: str, rows: int, width: int) -> Tensor:
        """Give a tensor of the workspace, float `[rows, width]`."""
        return self.workspace.take(name, rows, width, self._wide, self.by_column)

    def logits(self, hidden: Tensor) -> Tensor:
        """Compute the logits of a chunk, float `[n, V]`, in a buffer."""
        shape = (len(hidden), len(self.head.weight))
        slope = None if self.head.cap is None else self.buffer("slope of the cap", *shape)
        return self.head.write(hidden, self.buffer("student", *shape), slope)

    def back_propagate(self, gradient: Tensor, hidden: Tensor) -> Tensor:
        """Add to the gradients of the head, and give that of the hidden states.

        Args:
            gradient: That of the logits, float `[n, V]`, which is used up.
            hidden: The hidden states of the chunk, float `[n, D]`.

        Returns:
            Float `[n, D]`, in the data type of the hidden states.
        """
        if self.head.cap is not None:
            gradient.mul_(self.buffer("slope of the cap", *gradient.shape))
        if self._bias_grad is not None:
            self._bias_grad.add_(gradient.sum(dim=0), alpha=self.head.scale)
        narrow, scaled = gradient.to(self.head.weight.dtype), self.head.scaled(hidden)
        if self._weight_grad is not None:
            if self._weight_grad.dtype == narrow.dtype:
                self._weight_grad.addmm_(narrow.t(), scaled)
            else:
                self._weight_grad.add_(narrow.t() @ scaled)
        back = narrow @ self.head.weight
        return (back if self.head.scale == 1.0 else back * self.head.scale).to(hidden.dtype)

    def _probabilities(self, targets: DenseTargets) -> tuple[Tensor, Tensor]:
        """Give the teacher's probabilities at its temperature, float `[n, V]`, and Σ p log p, float `[n]`."""
        logprobs = targets.logprobs
        if tempers(targets.temperature):
            logprobs = divided(logprobs, targets.temperature, self.buffer("tempered teacher", *logprobs.shape))
            log_softmax_(logprobs)
        probs = self.buffer("teacher's probabilities", *logprobs.shape)
        return probs, exponentials(logprobs, probs)
