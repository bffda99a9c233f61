"""Whether the disk has room for a checkpoint is looked at when training starts, not after its first hour."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor
from torch.optim import SGD

from pd_lightning.checkpoints.files import remove_unfinished
from pd_lightning.store.space import check_estimate, stored_bytes

# Of AdamW, and of most others.
_STATES_PER_WEIGHT = 2


class CheckpointRoom(pl.Callback):
    """Refuses a training whose weights the disk has no room for, and warns where weights and optimizer won't fit.

    One checkpoint more is looked for, however many are kept. Each one is looked at again when it is written.

    Args:
        folder: The run's own folder of checkpoints, where nothing else writes: what killed writes left there goes.
    """

    def __init__(self, folder: str) -> None:
        self._folder = folder

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Clear the run's own folder of what killed writes left, then look at all; on the process that writes them.

        Raises:
            ValueError: On all ranks, if the weights alone don't fit.
        """
        if trainer.is_global_zero:
            remove_unfinished(self._folder)
        message = trainer.strategy.broadcast(_complaint(trainer, pl_module) if trainer.is_global_zero else None)
        if message is not None:
            raise ValueError(message)


def _complaint(trainer: pl.Trainer, pl_module: pl.LightningModule) -> str | None:
    weights = sum(_bytes(tensor) for tensor in {id(tensor): tensor for tensor in _tensors(pl_module)}.values())
    states = sum(map(_state_bytes, trainer.optimizers))
    remedy = "Make room there, or set trainer.default_root_dir to another disk."
    try:
        for folder in _folders(trainer):
            check_estimate(folder, weights, weights + states, "a checkpoint", remedy)
    except ValueError as error:
        return str(error)
    return None


def _tensors(module: pl.LightningModule) -> Iterator[Tensor]:
    yield from module.parameters()
    yield from module.buffers()


def _state_bytes(optimizer: Any) -> int:
    """What an optimizer's state takes, or will after its first step."""
    if optimizer.state:
        return stored_bytes(dict(optimizer.state))
    groups = optimizer.param_groups
    if isinstance(optimizer, SGD) and not any(group.get("momentum") for group in groups):
        return 0
    return _STATES_PER_WEIGHT * sum(_bytes(parameter) for group in groups for parameter in group["params"])


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _folders(trainer: pl.Trainer) -> Iterator[Path]:
    """Folders of checkpoints on this machine."""
    for callback in trainer.checkpoint_callbacks:
        if isinstance(callback, ModelCheckpoint) and callback.dirpath and "://" not in str(callback.dirpath):
            yield Path(callback.dirpath)
