"""How far the logits of a position spread: their standard deviation over the vocabulary."""

import torch
from torch import Tensor

from pd_lightning.context import Context
from pd_lightning.transforms.base import AnyTargets

# Keeps a temperature above 0 where all logits are equal, as logit standardisation has it.
_LEAST = 1e-7


def teacher_deviation(targets: AnyTargets) -> Tensor:
    """Give the deviation of the teacher's logits, float `[n]`, that `Form.require_statistic` asked for."""
    return targets.statistic("std") + _LEAST


def student_deviation(ctx: Context) -> Tensor:
    """Give the deviation of the student's logits, float `[n]`, with its graph: the student also learns its spread."""
    logits = ctx.student_logits.to(torch.promote_types(ctx.student_logits.dtype, torch.float32))
    return logits.std(dim=-1, correction=0) + _LEAST
