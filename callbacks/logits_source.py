"""Where a module in training makes its logits."""

from collections.abc import Callable, Mapping
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from pd_lightning.callbacks.submodules import submodule


def hook_logits(pl_module: pl.LightningModule, module: str | None, take: Callable[..., None]) -> RemovableHandle:
    """Let `take` see logits as they are made.

    Args:
        pl_module: The module in training.
        module: Dotted name of the submodule whose output the logits are; None for the student of a DistillationModule.
        take: Called with logits, or with hidden states and the head that maps them to logits.

    Returns:
        What removes the hook.

    Raises:
        ValueError: If there is no such submodule, or no student.
    """
    if module is not None:
        return _hook(submodule(pl_module, module, "module of LogitsRecorder"), take)
    student: Any = getattr(pl_module, "student", None)
    if not hasattr(student, "body"):
        raise ValueError(
            f"LogitsRecorder must know where the logits of {type(pl_module).__name__} are, got neither module nor "
            "output. Set module to the name of the submodule that makes them, or output to their key in what "
            "training_step returns."
        )
    return _hook(student.body, take, student.head)


def returned_logits(outputs: Any, key: str) -> Tensor:
    """Find the logits in what `training_step` returned.

    Raises:
        ValueError: If they are not there.
    """
    logits = outputs.get(key) if isinstance(outputs, Mapping) else None
    if not isinstance(logits, Tensor):
        raise ValueError(
            f"training_step must return a dictionary with the logits as {key!r}, got "
            f"{sorted(outputs) if isinstance(outputs, Mapping) else type(outputs).__name__}. Return them, or set "
            "module of LogitsRecorder."
        )
    return logits


def _hook(source: nn.Module, take: Callable[..., None], *head: Any) -> RemovableHandle:
    def taken(_module: nn.Module, _inputs: Any, output: Any) -> None:
        # Within a backward pass, checkpointed activations are computed once more.
        if torch._C._current_graph_task_id() == -1:
            take(output, *head)

    if getattr(source, "_compiled_call_impl", None) is not None:
        # Else what it does would be compiled too, anew for many a batch.
        taken = torch.compiler.disable(taken)  # type: ignore[no-untyped-call]
    return source.register_forward_hook(taken)
