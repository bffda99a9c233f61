"""One run, one folder: ``trainer.default_root_dir`` holds the logs, the checkpoints and the settings of a run.

```
runs/x/config.yaml               the settings, written when training starts
       starts.jsonl              when and from which state of the project it was started
       checkpoints/last.ckpt …   where training goes on
       logs/metrics.csv, events… what is watched
```
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint
from lightning.pytorch.loggers import Logger
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning.pytorch.utilities import rank_zero_warn

from pd_lightning.checkpoints.files import checkpoints_in, flaw, load_checkpoint, save_checkpoint
from pd_lightning.cli.checkpoint_room import CheckpointRoom
from pd_lightning.cli.stopping import StopBetweenSteps
from pd_lightning.cli.unfinished_step import UnfinishedStep
from pd_lightning.guards.skip_non_finite import SkipNonFinite
from pd_lightning.loggers import MetricsCSV
from pd_lightning.tensorboard import RunTensorBoard

DEFAULT_ROOT = "runs/default"
CHECKPOINTS = "checkpoints"
LAST = "last"
AUTO = "auto"


def run_loggers(root: str, loggers: Logger | Iterable[Logger] | bool | None, *, writes: bool) -> list[Logger]:
    """Loggers as the YAML gives them, those of ours in the run folder.

    Args:
        root: The run folder.
        loggers: The loggers of the YAML. Where it names none: TensorBoard and one CSV file, both in ``logs``.
        writes: Whether there are any where the YAML names none.

    Returns:
        The loggers.
    """
    if loggers is None or isinstance(loggers, bool):
        found: list[Logger] = [RunTensorBoard(), MetricsCSV()] if writes and loggers is not False else []
    else:
        found = [loggers] if isinstance(loggers, Logger) else list(loggers)
    for logger in found:
        if isinstance(logger, RunTensorBoard | MetricsCSV):
            logger.settle(root)
    return found


def run_callbacks(root: str, callbacks: Iterable[Callback], *, checkpoints: bool) -> list[Callback]:
    """Callbacks as the YAML gives them, with those that a run folder needs.

    Args:
        root: The run folder.
        callbacks: The callbacks of the YAML. A ``ModelCheckpoint`` without ``dirpath`` gets the run folder's.
        checkpoints: Whether checkpoints are wanted; if so and no callback writes any, one is added.

    Returns:
        The callbacks.
    """
    folder = Path(root) / CHECKPOINTS
    last = str(folder / f"{LAST}.ckpt") if checkpoints else None
    found = [*callbacks, StopBetweenSteps(last), UnfinishedStep(), FinalCheckpoint(), CheckpointRoom(str(folder))]
    if not any(isinstance(callback, SkipNonFinite) for callback in found):
        found.append(SkipNonFinite())
    if checkpoints and not any(isinstance(callback, Checkpoint) for callback in found):
        # The two of the most steps, so that there is one before last.ckpt. A run that goes on writes over the files
        # that were written beyond its checkpoint: they come again, the same to the bit.
        found.append(
            ModelCheckpoint(
                filename="{step}",
                monitor="step",
                mode="max",
                save_top_k=2,
                save_last=True,
                enable_version_counter=False,
            )
        )
    for callback in found:
        if isinstance(callback, ModelCheckpoint) and callback.dirpath is None:
            callback.dirpath = str(folder)
    return found


class FinalCheckpoint(Callback):
    """Brings ``last.ckpt`` up to the last step, which ``every_n_train_steps`` may have missed."""

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save, unless the last step's checkpoint is there: one from amid the epoch goes on more exactly."""
        for callback in trainer.checkpoint_callbacks:
            # Without last_model_path the callback has saved none in this process, and Lightning does it itself. Its
            # own count of steps: another callback's checkpoint of the last step says nothing of this one's.
            if (
                isinstance(callback, ModelCheckpoint)
                and callback.save_last
                and callback.last_model_path
                and callback._last_global_step_saved != trainer.global_step
            ):
                trainer.save_checkpoint(callback.last_model_path, weights_only=False)


class RunCheckpoints(TorchCheckpointIO):
    """Writes checkpoint files whole or not at all.

    Lightning's own moves them over from the system's temporary folder: on another disk that is a copy, and a full disk
    or a kill leaves half of it under the name of the last checkpoint.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:  # type: ignore[override]
        """Write a file of this machine; Lightning writes to addresses."""
        if storage_options is not None or is_address(path):
            super().save_checkpoint(checkpoint, path, storage_options)
        else:
            save_checkpoint(checkpoint, path)

    def load_checkpoint(  # type: ignore[override]
        self,
        path: str | Path,
        map_location: Any = lambda storage, location: storage,
        weights_only: bool | None = None,
    ) -> dict[str, Any]:
        """Read a file of this machine without pickle; Lightning reads addresses, and what is to be read with it."""
        if weights_only is False or is_address(path):
            return super().load_checkpoint(path, map_location, weights_only)
        return load_checkpoint(path, "--ckpt_path", map_location=map_location)


def is_address(path: str | Path) -> bool:
    """Whether a path is for Lightning to find (s3://…, registry:…)."""
    return "://" in str(path) or str(path).startswith("registry:")


def resolve_checkpoint(ckpt_path: str | None, command: str, root: str, folders: Sequence[str]) -> str | None:
    """The checkpoint that a command starts from, before anything has begun.

    Args:
        ckpt_path: ``last``, ``auto``, a file, an address, or None.
        command: fit, validate, test or predict.
        root: The run folder.
        folders: The folders in which its callbacks keep checkpoints.

    Returns:
        The path of a checkpoint, or None to start anew.

    Raises:
        FileNotFoundError: ``last`` where there is none, or a file that doesn't exist.
        ValueError: ``auto`` for something that is no training, a new training in a used run folder, or none but
            damaged checkpoints.
    """
    if ckpt_path == AUTO and command != "fit":
        raise ValueError(f"--ckpt_path auto is for fit, got it for {command}. Use --ckpt_path last, or a file.")
    found = newest_checkpoints(root, folders)
    if ckpt_path is None and found:
        raise ValueError(_refusal(command, root, found[0]))
    if ckpt_path == LAST and not found:
        remedy = "Use --ckpt_path auto to start, or go on where there is one." if command == "fit" else "Run fit first."
        raise FileNotFoundError(f"--ckpt_path last must find a checkpoint in {', '.join(folders)}, got none. {remedy}")
    if ckpt_path in (AUTO, LAST):
        return _first_whole(found) if found else None
    if ckpt_path is not None and not is_address(ckpt_path) and not Path(ckpt_path).exists():
        raise FileNotFoundError(
            f"--ckpt_path must be last, auto or a checkpoint, got {ckpt_path}, which does not exist."
        )
    return ckpt_path


def newest_checkpoints(root: str, folders: Sequence[str]) -> list[str]:
    """Where a run can go on: its newest ``last.ckpt``, else its checkpoint of the most steps; then those before it.

    Args:
        root: The run folder, which holds the checkpoints of requeued cluster jobs.
        folders: The folders of its callbacks.

    Returns:
        The paths, the one to go on from first.
    """
    found = {path for folder in folders for path in checkpoints_in(folder)}
    lasts = {path for path in found if path.stem.startswith(LAST)} | set(Path(root).glob("hpc_ckpt_*.ckpt"))
    if not lasts:
        return [str(path) for path in sorted(found, key=_steps, reverse=True)]
    newest = max(lasts, key=_written)
    return [str(newest), *(str(path) for path in sorted((found | lasts) - {newest}, key=_written, reverse=True))]


def _first_whole(found: Sequence[str]) -> str:
    """The newest checkpoint that is not damaged. Ranks that see the same folder find the same one."""
    flaws: list[str] = []
    for path in found:
        wrong = flaw(path)
        if wrong is None:
            if flaws:
                rank_zero_warn(f"Passed over {'; '.join(flaws)}. {path} takes its place.")
            return path
        flaws.append(f"{path}, which is {wrong}")
    raise ValueError(
        f"A checkpoint to start from must be whole, got {'; '.join(flaws)}. Restore one of them from a copy, or remove "
        "the run folder and start anew."
    )


def _refusal(command: str, root: str, newest: str) -> str:
    if command == "fit":
        return (
            f"trainer.default_root_dir must be the folder of a new run, got {root}, which holds {newest}. Go on "
            "with --ckpt_path auto, choose another trainer.default_root_dir, or remove the folder."
        )
    return (
        f"{command} must be told what to judge, got no --ckpt_path, though {root} holds {newest}. Set --ckpt_path "
        "last, or a file."
    )


def _written(path: Path) -> tuple[int, str]:
    return path.stat().st_mtime_ns, path.name


def _steps(path: Path) -> tuple[int, int, str]:
    step = re.search(r"step[=_-]?(\d+)", path.stem)
    return int(step[1]) if step else -1, *_written(path)
