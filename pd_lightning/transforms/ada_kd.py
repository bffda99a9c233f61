"""AdaKD: a temperature for each position, from how hard it is."""

import math
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from pd_lightning.context import Context
from pd_lightning.targets import Form
from pd_lightning.transforms.base import AnyTargets, Transform
from pd_lightning.transforms.ordering import divided, tempered


class AdaKD(Transform):
    """Temper both sides by how hard a position is, at temperature easy + (hard - easy) · difficulty.

    The loss of a position is multiplied by its temperature's square. Peng et al. name two ways to tell what is hard,
    SD and H, and print no formula: this one is our choice, after the token-adaptive distillation of arXiv 2510.11615,
    where hard tokens get low temperatures, for sharp corrections, and easy ones high temperatures.

    Args:
        by: What is hard. `student_loss`, AdaKD-SD: difficulty 1 - q(label), which is 1 - exp(-loss) of the student;
            0 where there is no label; no gradient flows through it. `teacher_entropy`, AdaKD-H: the teacher's entropy
            over ln V, before truncation.
        easy: Temperature where difficulty is 0.
        hard: Temperature where difficulty is 1.

    Raises:
        ValueError: If `easy` or `hard` is not positive.

    Source: Peng et al. (arXiv 2410.16215), AdaKD-SD and AdaKD-H; arXiv 2510.11615.
    """

    def __init__(
        self,
        by: Literal["student_loss", "teacher_entropy"] = "teacher_entropy",
        easy: float = 2.0,
        hard: float = 0.5,
    ) -> None:
        for name, value in (("easy", easy), ("hard", hard)):
            if not 0 < value < float("inf"):
                raise ValueError(f"{name} must be positive, got {value}. Set init_args.{name} of AdaKD above 0.")
        self.by = by
        self.easy = easy
        self.hard = hard

    def form(self, before: Form) -> Form:
        """Refuse targets without the teacher's entropy where it is asked for, or with adaptive temperatures already.

        Raises:
            ValueError: If the store lacks `entropy`, or what comes before cannot be tempered.
        """
        if self.by == "teacher_entropy":
            before.require_statistic("entropy", "AdaKD by teacher_entropy")
        return tempered(before, "AdaKD", adaptive=True)

    def teacher(self, targets: AnyTargets, ctx: Context) -> AnyTargets:
        """Note the temperatures on the targets; the loss applies them to both sides."""
        if self.by == "student_loss":
            difficulty = 1.0 - label_probability(ctx)
        else:
            difficulty = (targets.statistic("entropy") / math.log(ctx.vocab_size)).clamp(0.0, 1.0)
        tau = self.easy + (self.hard - self.easy) * difficulty
        return replace(divided(targets, tau), compensation=targets.compensation * tau**2)


@torch.no_grad()
def label_probability(ctx: Context) -> Tensor:
    """Give the student's probability of each label, float `[n]`; 1 where there is no label."""
    logits = ctx.student_logits.to(torch.promote_types(ctx.student_logits.dtype, torch.float32))
    labels = ctx.labels.clamp(min=0).unsqueeze(-1)
    logprobs = logits.gather(-1, labels).squeeze(-1) - logits.logsumexp(dim=-1)
    return torch.where(ctx.labels >= 0, logprobs.exp(), 1.0)
