"""Teacher, transforms, loss and schedule as one object, for a training step of one's own."""

from pd_lightning.distiller.distiller import Distiller

__all__ = ["Distiller"]
