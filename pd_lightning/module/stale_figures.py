"""Figures that a step no longer has: Lightning would give loggers the last ones again, as if they were measured."""

from collections.abc import Collection

import lightning.pytorch as pl

# What there is where a step has targets alone.
_OF_TARGETS = ("kd_loss", "top1_agreement", "dropped_mass", "student_kept_mass")


def leave_gaps(trainer: pl.Trainer, known: Collection[str]) -> None:
    """Forget what was logged as `train/…` of the teacher's targets in earlier steps, where this step had none.

    Args:
        trainer: Logs.
        known: Names of the figures of this step, without `train/`.
    """
    gone = {f"train/{name}" for name in _OF_TARGETS if name not in known}
    results: dict[str, object] = trainer._results or {}
    for key in [key for key in results if key.partition(".")[2] in gone]:
        del results[key]
    for name in gone:
        trainer._logger_connector._callback_metrics.pop(name, None)
