"""Figures of each position that must be known before the loss is formed: a pass over the chunks, without gradients."""

from collections.abc import Set

import torch
from torch import Tensor

from pd_lightning.objective.chunking import rows_per_chunk
from pd_lightning.targets import Targets
from pd_lightning.targets.blockwise import entropy
from pd_lightning.targets.heads import Head

FIGURES = frozenset({"teacher_entropy", "student_entropy"})


@torch.no_grad()
def position_statistics(
    needs: Set[str], hidden: Tensor, head: Head, targets: Targets, chunk_size: int | None = None
) -> dict[str, Tensor]:
    """Compute figures of N positions.

    Args:
        needs: Their names, some of `FIGURES`.
        hidden: The student's hidden states, float `[N, D]`.
        head: The student's head.
        targets: The teacher's targets of the same positions.
        chunk_size: Positions whose logits are there at once; by default `rows_per_chunk`.

    Returns:
        The figures in nats, float `[N]` each.
    """
    size = chunk_size or rows_per_chunk(head.vocab_size or hidden.shape[-1], hidden)
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
