"""Routing by the teacher's entropy."""

import torch

from pd_lightning.weightings.base import Positions, Weighting, Weights, check_fraction


class TeacherEntropy(Weighting):
    """Train on the LM loss alone where the teacher is surest: there its targets say no more than the label.

    Args:
        fraction: Share of each block's positions, those of the lowest teacher entropy, in (0, 1].

    Raises:
        ValueError: If `fraction` is outside (0, 1].

    Source: Distilled Pretraining (arXiv 2509.01649): plain cross-entropy on the surest 15% mends in-context copying.
    """

    needs = frozenset({"teacher_entropy"})

    def __init__(self, fraction: float = 0.15) -> None:
        check_fraction(fraction, "TeacherEntropy")
        self.fraction = fraction

    def __call__(self, weights: Weights, positions: Positions) -> Weights:
        """Give the LM loss all the weight at the positions of lowest entropy."""
        surest = positions.lowest("teacher_entropy", self.fraction)
        return Weights(torch.where(surest, weights.lm + weights.kd, weights.lm), weights.kd.masked_fill(surest, 0.0))
