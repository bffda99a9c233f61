"""Weights of the two losses at each position: routing and masks, one class a file."""

from pd_lightning.weightings.base import Positions, Weighting, Weights
from pd_lightning.weightings.mask_first_tokens import MaskDocumentStarts, MaskFirstTokens
from pd_lightning.weightings.student_entropy import StudentEntropy
from pd_lightning.weightings.teacher_entropy import TeacherEntropy

__all__ = [
    "MaskDocumentStarts",
    "MaskFirstTokens",
    "Positions",
    "StudentEntropy",
    "TeacherEntropy",
    "Weighting",
    "Weights",
]
