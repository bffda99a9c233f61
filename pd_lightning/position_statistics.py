"""Figures of each position that must be known before the loss is formed: a pass over the chunks, without gradients."""

from collections.abc import Set

import torch
from torch import Tensor
from torch.nn import functional as F

from pd_lightning.chunking import rows_per_chunk
from pd_lightning.targets import Head, Targets

FIGURES = frozenset({"teacher_entropy", "student_entropy", "student_loss"})


@torch.no_grad()
def position_statistics(
    needs: Set[str], hidden: Tensor, head: Head, labels: Tensor, targets: Targets
) -> dict[str, Tensor]:
    """Compute figures of N positions.

    Args:
        needs: Their names, some of `FIGURES`.
        hidden: The student's hidden states, float `[N, D]`.
        head: The student's head.
        labels: The next token of each position, int64 `[N]`; the loss of -100 is 0.
        targets: The teacher's targets of the same positions.

    Returns:
        The figures in nats, float `[N]` each.
    """
    size = rows_per_chunk(head.vocab_size or hidden.shape[-1], hidden.device)
    parts: dict[str, list[Tensor]] = {name: [] for name in needs}
    for start in range(0, hidden.shape[0], size):
        rows = slice(start, start + size)
        figures = _of_student(head(hidden[rows]), labels[rows]) if needs - {"teacher_entropy"} else {}
        if "teacher_entropy" in needs:
            figures["teacher_entropy"] = targets.rows(rows).statistic("entropy")
        for name in needs:
            parts[name].append(figures[name])
    return {name: torch.cat(values) for name, values in parts.items()}


def _of_student(logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
    logprobs = logits.log_softmax(dim=-1, dtype=torch.promote_types(logits.dtype, torch.float32))
    entropy = -torch.where(logprobs > -torch.inf, logprobs.exp() * logprobs, 0.0).sum(dim=-1)
    return {"student_entropy": entropy, "student_loss": F.nll_loss(logprobs, labels, reduction="none")}
