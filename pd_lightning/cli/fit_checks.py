"""Parse the settings of many runs of `fit` in one process, for a study.

Names of settings and classes are checked, and the types of values; nothing is built, no data is read.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lightning.pytorch.cli import ArgsType, LightningArgumentParser

from pd_lightning.cli.errors import CommandLineError
from pd_lightning.cli.trainer_checks import check_sections
from pd_lightning.composition.compose import as_arguments
from pd_lightning.module import DistillationModule
from pd_lightning.trainer import TrainerCLI


class FitChecks(TrainerCLI):
    """Parses settings as `fit` would, and ends there.

    Args:
        runs: Settings of `fit`, by the names that errors give them.
    """

    def __init__(self, runs: dict[str, dict[str, Any]]) -> None:
        self._runs = runs
        super().__init__("fit", DistillationModule, [])

    def parse_arguments(self, parser: LightningArgumentParser, _: ArgsType) -> None:
        """Parse all of them."""
        for name, settings in self._runs.items():
            try:
                check_sections(settings)
                super().parse_arguments(parser, ["fit", *as_arguments(settings, [])])
            except (CommandLineError, ValueError) as error:
                raise CommandLineError(f"{name} must be settings of fit: {error}") from error
        raise SystemExit(0)  # as --print_config does: the rest of LightningCLI would build the last of them


def check(file: str) -> None:
    """Refuse the first run whose settings `fit` would refuse.

    Args:
        file: JSON: settings of `fit` by name.

    Raises:
        CommandLineError: `fit` would refuse one.
    """
    FitChecks(json.loads(Path(file).read_text(encoding="utf-8")))
