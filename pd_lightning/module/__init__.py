"""The LightningModule of pre-training distillation."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pd_lightning.module.distillation_module import DistillationModule

__all__ = ["DistillationModule"]


def __getattr__(name: str) -> Any:
    # The files beside it serve the Trainer and other modules too, which need not load students and teachers for them.
    if name == "DistillationModule":
        from pd_lightning.module.distillation_module import DistillationModule

        return DistillationModule
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
