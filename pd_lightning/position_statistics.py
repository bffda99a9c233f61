"""Figures of each position that must be known before the loss is formed: a pass over the chunks, without gradients."""

from collections.abc import Set

import torch
from torch import Tensor

from pd_lightning.chunking import rows_per_chunk
from pd_lightning.heads import Head
from pd_lightning.targets import Targets, entropy

FIGURES = frozenset({"teacher_entropy", "student_entropy"})


@torch.no_grad()
def position_statistics(needs: Set[str], hidden: Tensor, head: Head, targets: Targets) -> dict[str, Tensor]:
    """Compute figures of N positions.

    Args:
        needs: Their names, some of `FIGURES`.
        hidden: The student's hidden states, float `[N, D]`.
        head: The student's head.
        targets: The teacher's targets of the same positions.

    Returns:
        The figures in nats, float `[N]` each.
    """
    size = rows_per_chunk(head.vocab_size or hidden.shape[-1], hidden.device)
    parts: dict[str, list[Tensor]] = {name: [] for name in needs}
    for start in range(0, hidden.shape[0], size):
        rows = slice(start, start + size)
        if "student_entropy" in needs:
            logits = head(hidden[rows])
            dtype = torch.promote_types(logits.dtype, torch.float32)
            parts["student_entropy"].append(entropy(logits.log_softmax(dim=-1, dtype=dtype)))
        if "teacher_entropy" in needs:
            parts["teacher_entropy"].append(targets.rows(rows).statistic("entropy"))
    return {name: torch.cat(values) for name, values in parts.items()}
