"""Routing by the student's entropy."""

from typing import Literal

import torch

from pd_lightning.weightings.base import Positions, Weighting, Weights, check_fraction


class StudentEntropy(Weighting):
    """Train on the KD loss only where the student is least sure.

    Args:
        fraction: Share of each block's positions, those of the highest student entropy, in (0, 1].
        elsewhere: What becomes of the KD loss's weight at the other positions: `drop` it, or give it to the LM loss
            (`lm`).

    Raises:
        ValueError: If `fraction` is outside (0, 1].

    Source: SE-KD (arXiv 2602.01395), with the 20% of highest entropy.
    """

    needs = frozenset({"student_entropy"})

    def __init__(self, fraction: float = 0.2, elsewhere: Literal["drop", "lm"] = "drop") -> None:
        check_fraction(fraction, "StudentEntropy")
        self.fraction = fraction
        self.elsewhere = elsewhere

    def __call__(self, weights: Weights, positions: Positions) -> Weights:
        """Take the KD loss's weight away but at the positions of highest entropy."""
        others = ~positions.highest("student_entropy", self.fraction)
        lm = torch.where(others, weights.lm + weights.kd, weights.lm) if self.elsewhere == "lm" else weights.lm
        return Weights(lm, weights.kd.masked_fill(others, 0.0))
