"""Metrics as one CSV file that survives a resume.

Lightning's ``CSVLogger`` deletes the file of an earlier start of the same run. This one goes on with it, and drops
the rows that training beyond the checkpoint had written, since they will come again.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from pd_lightning.store.durable import sync

STEP = "step"


class MetricsCSV(Logger):
    """Writes logged metrics to ``<save_dir>/<folder>/metrics.csv``, a row for each call.

    Args:
        save_dir: The folder; the run folder by default.
        folder: The folder in it.
    """

    def __init__(self, save_dir: str | None = None, folder: str = "logs") -> None:
        super().__init__()
        self._save_dir = str(save_dir or "")
        self._folder = folder
        self._columns: list[str] | None = None

    @property
    def name(self) -> str:
        """No folder of its own below the run folder."""
        return ""

    @property
    def version(self) -> str:
        """A run folder is one version."""
        return ""

    @property
    def save_dir(self) -> str:
        """The run folder."""
        return self._save_dir

    def settle(self, root: str) -> None:
        """Take the run folder where no other is set.

        Args:
            root: The run folder.
        """
        self._save_dir = self._save_dir or str(root)

    @property
    def path(self) -> Path:
        """The CSV file."""
        return Path(self._save_dir, self._folder, "metrics.csv")

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Nothing: the settings are in the run folder's ``config.yaml``."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Append a row.

        Args:
            metrics: Values by name.
            step: The optimizer steps done before the values were taken.
        """
        row = {STEP: step, **metrics}
        columns = self._known_columns()
        new = [name for name in row if name not in columns]
        if new:
            self._columns = [*columns, *new]
            self._rewrite(self.rows())
        with self.path.open("a", newline="", encoding="utf-8") as file:
            csv.DictWriter(file, self._columns or []).writerow(row)

    @rank_zero_only
    def rewind(self, step: int) -> None:
        """Drop what was logged from a step on.

        Args:
            step: The first step whose rows will be written again.
        """
        kept = [row for row in self.rows() if not row[STEP] or int(row[STEP]) < step]
        if self.path.is_file():  # anew even if no whole row goes: a crash may have cut the last one
            self._columns = self._known_columns()
            self._rewrite(kept)

    @rank_zero_only
    def sync(self) -> None:
        """Wait until the rows are on the disk, so that a checkpoint which counts on them is not ahead of them."""
        if self.path.is_file():
            sync(self.path)

    def rows(self) -> list[dict[str, str]]:
        """All rows, values as text, an empty text where a row has none.

        Returns:
            The rows in their order; the last one is left out where a crash has cut it.
        """
        if not self.path.is_file():
            return []
        with self.path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        return [row for row in rows if None not in row.values()]

    def _known_columns(self) -> list[str]:
        if self._columns is None:
            rows = self.rows()
            self._columns = list(rows[0]) if rows else []
        return self._columns

    def _rewrite(self, rows: list[dict[str, str]]) -> None:
        """Write the file anew and move it into place, so that a crash leaves the old or the new one."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.path.with_suffix(".tmp")
        with temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self._columns or [])
            writer.writeheader()
            writer.writerows(rows)
        temporary.replace(self.path)
