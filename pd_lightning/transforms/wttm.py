"""WTTM: a power of the teacher's probabilities, weighted by how smooth it is."""

from dataclasses import replace

import torch

from pd_lightning.context import Context
from pd_lightning.targets import Form, SparseTargets
from pd_lightning.transforms.base import AnyTargets, Transform
from pd_lightning.transforms.ordering import tempered


class WTTM(Transform):
    """Weighted transformed teacher matching: the student matches p^γ / Σ p^γ, at weight Σ p^γ.

    The power is a temperature of 1/γ on the teacher alone; the student has none, and so the loss is not multiplied
    by a square. With γ below 1 the weight is larger where the teacher is unsure: 1 where it is certain, V^(1-γ)
    where all ids are alike. A bucket counts as one outcome.

    Args:
        gamma: The power γ, above 0; below 1 it makes the teacher softer. The paper tunes it for each pair of models,
            and Peng et al. do not print theirs.

    Raises:
        ValueError: If `gamma` is not positive.

    Source: Zheng and Yang, Transformed Teacher Matching (arXiv 2402.11148).
    """

    def __init__(self, gamma: float = 0.5) -> None:
        if not 0 < gamma < float("inf"):
            raise ValueError(f"gamma must be positive, got {gamma}. Set init_args.gamma of WTTM, 0.5 say.")
        self.gamma = gamma

    def form(self, before: Form) -> Form:
        """Refuse targets with a temperature: γ is the only one.

        Raises:
            ValueError: If a temperature comes before, or the targets cannot be tempered.
        """
        if before.tempered:
            raise ValueError(
                "WTTM must have targets at temperature 1, got a temperature before it: its power gamma is a "
                "temperature of 1/gamma. Keep one of them in model.transforms."
            )
        return replace(tempered(before, "WTTM", adaptive=True), final="WTTM")

    def teacher(self, targets: AnyTargets, ctx: Context) -> AnyTargets:
        """Note temperatures and weights on the targets; the loss applies the first, the objective the second."""
        log_p = targets.logprobs
        if isinstance(targets, SparseTargets) and targets.log_tail is not None:
            log_p = torch.cat([log_p, targets.log_tail.unsqueeze(-1)], dim=-1)
        weight = (self.gamma * log_p).exp().sum(dim=-1)
        return replace(
            targets,
            temperature=1.0 / self.gamma,
            student_temperature=1.0,
            weight=weight if targets.weight is None else targets.weight * weight,
        )
