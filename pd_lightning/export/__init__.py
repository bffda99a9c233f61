"""Export: from a checkpoint to a folder that other tools load."""

from pd_lightning.export.exporting import export, load_student

__all__ = ["export", "load_student"]
