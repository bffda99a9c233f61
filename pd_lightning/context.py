"""What transforms know of positions beside the teacher's targets."""

from dataclasses import dataclass, field

from torch import Tensor


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


@dataclass(frozen=True)
class Context:
    """What is known of n positions.

    Args:
        student_logits: The student's logits, float `[n, V]`, with their graph.
        labels: The next token of each position, int64 `[n]`; -100 where there is none.
        progress: How far the run has come. `draw` also tells chunks of a micro-batch apart.
    """

    student_logits: Tensor
    labels: Tensor
    progress: Progress = field(default_factory=Progress)
