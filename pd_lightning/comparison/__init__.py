"""`pd-lightning compare`: what a student costs in use, beside its teacher, on this machine."""

from pd_lightning.comparison.comparison import compare

__all__ = ["compare"]
