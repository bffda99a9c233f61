"""Losses that are linear in log q."""

from abc import abstractmethod

from torch import Tensor

from pd_lightning.losses.alignment import AnyStudent, AnyTargets, CrossEntropies
from pd_lightning.losses.base import Divergence
from pd_lightning.targets import AnyTemperature, SparseTargets


class Linear(Divergence):
    """-Σ p log q plus what depends on the teacher alone: also of sampled targets an unbiased estimate.

    Args:
        student_temperature: Divide the student's logits by the targets' temperature too.
        temperature_squared: Multiply the loss by the temperature's square.
    """

    kinds = ("dense", "bucket", "renormalized", "none", "sampled")
    whole = False

    def does_without_logits_at(self, targets: AnyTargets) -> AnyTemperature | None:
        """Give the temperature at which less than logits will do, see Loss: of dense targets, their cross-entropy."""
        if isinstance(targets, SparseTargets):
            return super().does_without_logits_at(targets)
        return self.temperatures(targets)[0]

    def __call__(self, student: AnyStudent, targets: AnyTargets) -> Tensor:
        """Compare n positions, see Loss."""
        if isinstance(student, CrossEntropies):
            return self.of_entropies(student) * self.compensation(targets)
        return super().__call__(student, targets)

    @abstractmethod
    def of_entropies(self, student: CrossEntropies) -> Tensor:
        """Give the loss of each position, float `[n]`, from -Σ p log q and -Σ p log p over all ids."""
