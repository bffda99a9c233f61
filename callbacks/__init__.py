"""Callbacks for any Lightning Trainer; installed as `pd_lightning.callbacks`."""

if __name__ == "callbacks":
    raise ImportError("Import these callbacks as pd_lightning.callbacks, not as a top-level module.")

from pd_lightning.callbacks.distill import Distill
from pd_lightning.callbacks.logits_recorder import LogitsRecorder
from pd_lightning.callbacks.loss_spike import LossSpike
from pd_lightning.callbacks.progress import RunProgress
from pd_lightning.callbacks.stalled_loader import StalledLoader
from pd_lightning.skip_non_finite import SkipNonFinite

__all__ = ["Distill", "LogitsRecorder", "LossSpike", "RunProgress", "SkipNonFinite", "StalledLoader"]
