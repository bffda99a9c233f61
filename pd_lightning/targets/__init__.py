"""What a teacher says of each position: the one currency between teachers, transforms and losses."""

from pd_lightning.targets.targets import (
    STATISTICS,
    AnyTemperature,
    DenseTargets,
    Form,
    HiddenTargets,
    Kind,
    SparseTargets,
    Targets,
)

__all__ = ["STATISTICS", "AnyTemperature", "DenseTargets", "Form", "HiddenTargets", "Kind", "SparseTargets", "Targets"]
