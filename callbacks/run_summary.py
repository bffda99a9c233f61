"""What a finished run was: sizes, FLOPs, tokens, seconds and its last validation, in one JSON file."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from torch import nn

from pd_lightning.callbacks.distilling import distilling, live_models
from pd_lightning.data.inputs import as_mapping
from pd_lightning.flops import count_parameters, flops_per_token
from pd_lightning.store.durable import write_durably

SUMMARY = "summary.json"


class RunSummary(pl.Callback):
    """Writes `summary.json` into the run folder at the end of `fit`.

    It holds the steps and tokens of training, parameters and FLOPs per token of student and live teacher, the seconds
    that training took, and the figures of the last validation with the step it was made at. `pd-lightning study` adds
    it to each of its trials, and `pd-lightning scaling-law fit` reads it.
    """

    def __init__(self) -> None:
        self._metrics: dict[str, float] = {}
        self._validated_step = -1
        self._positions = 0

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, *_: Any) -> None:
        """Look at the length of a block."""
        self._positions = as_mapping(batch)["input_ids"].shape[-1]

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keep the figures of a validation during training."""
        if trainer.state.fn != "fit" or trainer.sanity_checking:
            return
        figures = {name: float(value) for name, value in trainer.callback_metrics.items()}
        self._metrics = {name: value for name, value in figures.items() if name.startswith("val/")}
        self._validated_step = trainer.global_step

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the file, also where a run that goes on turns out to be finished."""
        if not trainer.is_global_zero:
            return
        held = distilling(trainer, pl_module)
        teachers = live_models(None if held is None else held.teacher)
        summary = {
            "steps": trainer.global_step,
            "tokens": getattr(pl_module, "num_tokens", None),
            "student": _sizes([pl_module], self._positions),
            "teacher": _sizes(teachers, self._positions) if teachers else None,
            "train_seconds": getattr(pl_module, "train_seconds", None),
            "teacher_seconds": getattr(pl_module, "teacher_seconds", None),
            "validated_step": self._validated_step,
            "metrics": {name: value if math.isfinite(value) else None for name, value in self._metrics.items()},
        }
        content = json.dumps(summary, indent=1) + "\n"
        write_durably(Path(trainer.default_root_dir) / SUMMARY, content.encode())

    def state_dict(self) -> dict[str, Any]:
        """Keep the last validation: a run that goes on after its last step validates no more."""
        return {"metrics": self._metrics, "validated_step": self._validated_step, "positions": self._positions}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the last validation from a checkpoint."""
        self._metrics, self._validated_step = state_dict["metrics"], state_dict["validated_step"]
        self._positions = state_dict["positions"]


def _sizes(models: list[nn.Module], positions: int) -> dict[str, float]:
    counts = [count_parameters(model) for model in models]
    return {
        "params": sum(total for total, _ in counts),
        "params_non_embedding": sum(inner for _, inner in counts),
        "flops_per_token": sum(flops_per_token(model, positions) for model in models),
    }
