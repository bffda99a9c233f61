"""Schedules: one family of functions of progress, for the KD weight, the temperature and the learning rate."""

from pd_lightning.schedules.base import Schedule, check_schedules, grid
from pd_lightning.schedules.constant import Constant, as_schedule
from pd_lightning.schedules.cosine import Cosine
from pd_lightning.schedules.linear import Linear
from pd_lightning.schedules.one_minus import OneMinus
from pd_lightning.schedules.periodic import Periodic
from pd_lightning.schedules.piecewise import Part, Piecewise
from pd_lightning.schedules.wsd import WSD

__all__ = [
    "WSD",
    "Constant",
    "Cosine",
    "Linear",
    "OneMinus",
    "Part",
    "Periodic",
    "Piecewise",
    "Schedule",
    "as_schedule",
    "check_schedules",
    "grid",
]
