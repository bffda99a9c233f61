"""Divergences between student and teacher: one class a file."""

from pd_lightning.losses.base import Loss
from pd_lightning.losses.forward_kl import ForwardKL

__all__ = ["ForwardKL", "Loss"]
