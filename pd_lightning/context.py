"""What transforms know of positions beside the teacher's targets."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

IGNORE_INDEX = -100  # the label of a position that has none


@dataclass(frozen=True)
class Progress:
    """How far a run has come.

    Args:
        step: Optimizer steps taken so far.
        total_steps: Optimizer steps of the whole run.
        draw: Numbers that no two micro-batches of a run share: random draws are seeded with them, so that a resumed
            run draws the same.
    """

    step: int = 0
    total_steps: int = 1
    draw: tuple[int, ...] = (0,)


class Context:
    """What is known of n positions.

    Args:
        student_logits: The student's logits, float `[n, V]`, with their graph; or what computes them when they are
            first asked for: most transforms do without, and none are made then.
        labels: The next token of each position, int64 `[n]`; -100 where there is none.
        progress: How far the run has come. `draw` also tells chunks of a micro-batch apart.
        vocab_size: V, where the logits are yet to be computed.
    """

    def __init__(
        self,
        student_logits: Tensor | Callable[[], Tensor],
        labels: Tensor,
        progress: Progress | None = None,
        vocab_size: int | None = None,
    ) -> None:
        self.labels = labels
        self.progress = progress or Progress()
        self._logits = student_logits
        # Who asks first may want no gradients of them, and the loss still does.
        self._with_graph = torch.is_grad_enabled()
        self._vocab_size = vocab_size

    @property
    def student_logits(self) -> Tensor:
        """The student's logits, float `[n, V]`, with their graph."""
        if not isinstance(self._logits, Tensor):
            with torch.set_grad_enabled(self._with_graph):
                self._logits = self._logits()
        return self._logits

    @property
    def has_logits(self) -> bool:
        """Whether the logits are there: given, or asked for."""
        return isinstance(self._logits, Tensor)

    @property
    def vocab_size(self) -> int:
        """V, the width of the student's logits."""
        return self.student_logits.shape[-1] if self._vocab_size is None else self._vocab_size

    def narrowed(self, vocab_size: int) -> "Context":
        """Give the same over the first ids alone."""
        if vocab_size >= self.vocab_size:
            return self
        return Context(lambda: self.student_logits[..., :vocab_size], self.labels, self.progress, vocab_size)

    def with_logits(self, logits: Tensor) -> "Context":
        """Give the same with other logits."""
        return Context(logits, self.labels, self.progress)
