"""Callbacks for any Lightning Trainer; installed as `pd_lightning.callbacks`."""

if __name__ == "callbacks":
    raise ImportError("Import these callbacks as pd_lightning.callbacks, not as a top-level module.")

from pd_lightning.callbacks.distill import Distill
from pd_lightning.callbacks.evaluation import Evaluation
from pd_lightning.callbacks.export_hf import ExportHF
from pd_lightning.callbacks.lm_eval_tasks import LMEval
from pd_lightning.callbacks.logits_recorder import LogitsRecorder
from pd_lightning.callbacks.logits_statistics import LogitsStatistics
from pd_lightning.callbacks.loss_spike import LossSpike
from pd_lightning.callbacks.progress import RunProgress
from pd_lightning.callbacks.run_summary import RunSummary
from pd_lightning.callbacks.stalled_loader import StalledLoader
from pd_lightning.callbacks.throughput import Throughput
from pd_lightning.guards.skip_non_finite import SkipNonFinite

__all__ = [
    "Distill",
    "Evaluation",
    "ExportHF",
    "LMEval",
    "LogitsRecorder",
    "LogitsStatistics",
    "LossSpike",
    "RunProgress",
    "RunSummary",
    "SkipNonFinite",
    "StalledLoader",
    "Throughput",
]
