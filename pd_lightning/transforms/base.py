"""The interface of a transform."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

from pd_lightning.targets import DenseTargets, SparseTargets

AnyTargets = SparseTargets | DenseTargets


class Transform(ABC):
    """A change to the teacher's targets before the loss sees them. It acts on each position by itself."""

    def check(self, before: "Sequence[Transform]") -> None:
        """Refuse an order that contradicts itself, when the objective is put together.

        Args:
            before: The transforms that come before this one.

        Raises:
            ValueError: If this one cannot follow them.
        """

    @abstractmethod
    def teacher(self, targets: AnyTargets) -> AnyTargets:
        """Change the targets of n positions.

        Args:
            targets: Sparse or dense targets of n positions.

        Returns:
            The changed targets; the ones given are left as they are.
        """
