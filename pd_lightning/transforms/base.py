"""The interface of a transform."""

from abc import ABC, abstractmethod
from typing import TypeVar

from pd_lightning.targets import DenseTargets, SparseTargets

AnyTargets = SparseTargets | DenseTargets
T = TypeVar("T", SparseTargets, DenseTargets)


class Transform(ABC):
    """A change to the teacher's targets before the loss sees them. It acts on each position by itself."""

    @abstractmethod
    def teacher(self, targets: AnyTargets) -> AnyTargets:
        """Change the targets of n positions.

        Args:
            targets: Sparse or dense targets of n positions.

        Returns:
            The changed targets; the ones given are left as they are.
        """
