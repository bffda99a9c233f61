"""Transforms of the teacher's targets: F of Peng et al., one class a file."""

from pd_lightning.transforms.base import Transform
from pd_lightning.transforms.temperature import Temperature
from pd_lightning.transforms.top_pk import TopPK

__all__ = ["Temperature", "TopPK", "Transform"]
