"""The settings of a training, kept with its run: in its folder, and with its loggers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.cli import SaveConfigCallback

from pd_lightning.cli.starts import record_start
from pd_lightning.redaction import redact, redacted_yaml


class SaveRunConfig(SaveConfigCallback):
    """Writes the settings of a training to ``config.yaml`` in its run folder, and gives them to its loggers."""

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Do so when training starts; validating a run must not overwrite how it was trained."""
        if stage != "fit":
            return
        folder = Path(trainer.default_root_dir)
        folder.mkdir(parents=True, exist_ok=True)
        settings = self.parser.dump(self.config, skip_none=False)
        (folder / self.config_filename).write_text(redacted_yaml(settings), encoding="utf-8")
        record_start(folder)
        if trainer.loggers and trainer.enable_autolog_hparams:
            parameters = hyperparameters(yaml.safe_load(settings))
            for logger in trainer.loggers:
                logger.log_hyperparams(parameters)


def hyperparameters(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings by the names that the command line has for them.

    Args:
        settings: All settings of a command, nested.

    Returns:
        ``{"model.lr.init_args.peak": 0.001, …}`` without what is not set, ``***`` in place of secrets, lists of plain
        values as text.
    """
    return {name: value for name, value in _flat(redact(settings), "") if not name.startswith("trainer.logger")}


def _flat(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, list) and any(isinstance(entry, dict | list) for entry in value):
        value = dict(enumerate(value))
    if isinstance(value, dict):
        for key, entry in value.items():
            yield from _flat(entry, f"{name}.{key}" if name else str(key))
    elif value is not None:
        yield name, json.dumps(value) if isinstance(value, list) else value
