"""`pd-lightning inspect`: what a data folder holds, and whether it is whole."""

from pd_lightning.inspection.inspection import describe, inspect

__all__ = ["describe", "inspect"]
