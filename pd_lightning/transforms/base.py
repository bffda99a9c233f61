"""The interface of a transform."""

from abc import ABC, abstractmethod
from collections.abc import Mapping

from torch import Tensor

from pd_lightning.context import Context
from pd_lightning.schedules import Schedule
from pd_lightning.targets import DenseTargets, Form, SparseTargets

AnyTargets = SparseTargets | DenseTargets


class Transform(ABC):
    """A change to the teacher's targets before the loss sees them. It acts on each position by itself."""

    def form(self, before: Form) -> Form:
        """Say what becomes of targets of some form, when the objective is put together.

        Args:
            before: Form of the targets that this transform is given.

        Returns:
            Form of the targets that it gives.

        Raises:
            ValueError: If it cannot work with them, or contradicts the transforms that made them.
        """
        return before

    def student(self, logits: Tensor, ctx: Context) -> Tensor:
        """Change the student's logits, float `[n, V]`; the identity unless both sides take part.

        Args:
            logits: The student's logits.
            ctx: What else is known of these positions.

        Returns:
            The changed logits.
        """
        return logits

    @abstractmethod
    def teacher(self, targets: AnyTargets, ctx: Context) -> AnyTargets:
        """Change the targets of n positions.

        Args:
            targets: Sparse or dense targets of n positions.
            ctx: What else is known of these positions.

        Returns:
            The changed targets; the ones given are left as they are.
        """

    def schedules(self) -> Mapping[str, Schedule]:
        """Give the schedules among the settings, by the setting's name; their values must be positive."""
        return {}
