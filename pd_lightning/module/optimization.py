"""The optimizer over the student's parameters, and the learning rate as a schedule in absolute values."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from pd_lightning.schedules import Schedule

OptimizerCallable = Callable[[Iterable], Optimizer]


def default_optimizer(params: Iterable[Any]) -> Optimizer:
    """Make AdamW as language models are pre-trained with it: betas 0.9 and 0.95, weight decay 0.1."""
    return AdamW(params, betas=(0.9, 0.95), weight_decay=0.1)


def build_optimizer(make: OptimizerCallable, module: nn.Module) -> Optimizer:
    """Make an optimizer over a module's parameter groups.

    Raises:
        ValueError: If it does not take its settings, or no groups.
    """
    try:
        return make(parameter_groups(module))
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"model.optimizer must be able to take its settings and groups of parameters, got: "
            f"{' '.join(str(error).split()).rstrip('.')}. Correct model.optimizer."
        ) from error


def parameter_groups(module: nn.Module) -> list[dict[str, Any]]:
    """Split the trainable parameters: matrices decay, vectors (biases, norms) do not.

    Args:
        module: The student.

    Returns:
        Up to three groups: the matrices of hidden layers, marked with `hidden`; embeddings and output embeddings;
        vectors.
    """
    trainable = [parameter for parameter in module.parameters() if parameter.requires_grad]
    embeddings = {id(weight) for weight in _embeddings(module)}
    hidden = [p for p in trainable if p.ndim >= 2 and id(p) not in embeddings]
    outer = [p for p in trainable if p.ndim >= 2 and id(p) in embeddings]
    vectors = [p for p in trainable if p.ndim < 2]
    groups: list[dict[str, Any]] = [
        {"params": hidden, "hidden": True},
        {"params": outer},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def _embeddings(module: nn.Module) -> Iterator[Tensor]:
    for part in module.modules():
        if isinstance(part, nn.Embedding):
            yield part.weight
        get_output: Any = getattr(part, "get_output_embeddings", lambda: None)
        output = get_output()
        if output is not None:
            yield output.weight


def length_of_run(steps: float) -> int:
    """Give the optimizer steps of a run, out of Lightning's estimate.

    Raises:
        ValueError: If there is no end to them, or none.
    """
    if steps in (float("inf"), -1):  # -1 of data that don't know their length
        raise ValueError(
            f"The length of the run must be known to its schedules, got {steps}. Set trainer.max_steps or "
            "trainer.max_epochs."
        )
    if steps < 1:
        raise ValueError(f"The run must take a step at least, got {steps}. Raise trainer.max_steps.")
    return int(steps)


def scheduled(optimizer: Optimizer, lr: Schedule, total_steps: int) -> LambdaLR:
    """Let a schedule give the learning rate of every group, whatever the optimizer's own setting."""
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] = 1.0
    return LambdaLR(optimizer, lambda step: lr(min(step, total_steps - 1), total_steps))


def catch_up(schedulers: Iterable[object]) -> None:
    """Set the learning rates of the step that comes next: those in a checkpoint may be of a shorter run.

    Args:
        schedulers: Those that `scheduled` made, and others, which are left alone.
    """
    for scheduler in schedulers:
        if isinstance(scheduler, LambdaLR):
            groups = scheduler.optimizer.param_groups
            for group, base, schedule in zip(groups, scheduler.base_lrs, scheduler.lr_lambdas, strict=True):
                group["lr"] = base * schedule(scheduler.last_epoch)


def total_norm(gradients: list[Tensor]) -> Tensor:
    """Give the norm of all gradients together, scalar, also of such as are spread over devices."""
    norm = torch.nn.utils.get_total_norm(gradients)
    return norm.full_tensor() if isinstance(norm, DTensor) else norm
