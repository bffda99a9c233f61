"""What sets student and teacher apart: one class a file."""

from pd_lightning.losses.base import Divergence, Loss
from pd_lightning.losses.decoupled_top_k import DecoupledTopK
from pd_lightning.losses.forward_kl import ForwardKL
from pd_lightning.losses.jensen_shannon import JensenShannon
from pd_lightning.losses.mean_squared_error import MeanSquaredError
from pd_lightning.losses.reverse_kl import ReverseKL
from pd_lightning.losses.skewed_forward_kl import SkewedForwardKL
from pd_lightning.losses.skewed_reverse_kl import SkewedReverseKL
from pd_lightning.losses.soft_cross_entropy import SoftCrossEntropy
from pd_lightning.losses.tail_aware import TailAware
from pd_lightning.losses.total_variation import TotalVariation
from pd_lightning.losses.weighted_sum import WeightedSum

__all__ = [
    "DecoupledTopK",
    "Divergence",
    "ForwardKL",
    "JensenShannon",
    "Loss",
    "MeanSquaredError",
    "ReverseKL",
    "SkewedForwardKL",
    "SkewedReverseKL",
    "SoftCrossEntropy",
    "TailAware",
    "TotalVariation",
    "WeightedSum",
]
