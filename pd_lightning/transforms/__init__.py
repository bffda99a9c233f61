"""Transforms of the teacher's targets: F of Peng et al., one class a file."""

from pd_lightning.transforms.ada_kd import AdaKD
from pd_lightning.transforms.base import Transform
from pd_lightning.transforms.clip import Clip
from pd_lightning.transforms.label_smoothing import LabelSmoothing
from pd_lightning.transforms.norm_kd import NormKD
from pd_lightning.transforms.sample_tokens import SampleTokens
from pd_lightning.transforms.standardize import Standardize
from pd_lightning.transforms.temperature import Temperature
from pd_lightning.transforms.top_pk import TopK, TopP, TopPK
from pd_lightning.transforms.wttm import WTTM

__all__ = [
    "WTTM",
    "AdaKD",
    "Clip",
    "LabelSmoothing",
    "NormKD",
    "SampleTokens",
    "Standardize",
    "Temperature",
    "TopK",
    "TopP",
    "TopPK",
    "Transform",
]
