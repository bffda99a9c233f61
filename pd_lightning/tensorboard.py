"""TensorBoard's events of a run, with its settings beside what came of them."""

from __future__ import annotations

from argparse import Namespace
from typing import Any

from lightning.fabric.utilities.cloud_io import get_filesystem
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only

OUTCOMES = ("val/lm_loss", "val/perplexity", "val/top1_agreement")


class RunTensorBoard(TensorBoardLogger):
    """Lightning's TensorBoardLogger for one run in one folder.

    Lightning's own shows settings under HPARAMS beside a metric that it makes up, ``hp_metric``; here they stand beside
    the last validation.

    Args:
        save_dir: The folder; the run folder by default.
        folder: The folder in it.
    """

    def __init__(self, save_dir: str | None = None, folder: str = "logs") -> None:
        # With empty name and version, Lightning's own folder for checkpoints is the run folder, too.
        super().__init__(save_dir or "", name="", version="", sub_dir=folder, default_hp_metric=False)

    def settle(self, root: str) -> None:
        """Take the run folder where no other is set.

        Args:
            root: The run folder.
        """
        if not self._root_dir:
            self._root_dir = root
            self._fs = get_filesystem(root)

    @rank_zero_only
    def log_hyperparams(
        self, params: dict[str, Any] | Namespace, metrics: dict[str, Any] | None = None, step: int | None = None
    ) -> None:
        """Write settings for TensorBoard's HPARAMS tab.

        Args:
            params: Settings by name.
            metrics: Values to log with them.
            step: The step of the values.
        """
        super().log_hyperparams(params, metrics, step)
        if metrics:
            return
        from torch.utils.tensorboard import summary

        flat = self._sanitize_params(dict(self.hparams))
        outcomes = dict.fromkeys(OUTCOMES, 0.0)  # only the names are written
        write: Any = summary.hparams
        for part in write(flat, outcomes):
            self.experiment._get_file_writer().add_summary(part)
