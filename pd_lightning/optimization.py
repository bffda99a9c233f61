"""The optimizer over the student's parameters, and the learning rate as a schedule in absolute values."""

from collections.abc import Callable, Iterable
from typing import Any

from torch import nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from pd_lightning.schedules import Schedule

OptimizerCallable = Callable[[Iterable], Optimizer]


def default_optimizer(params: Iterable[Any]) -> Optimizer:
    """Make AdamW as language models are pre-trained with it: betas 0.9 and 0.95, weight decay 0.1."""
    return AdamW(params, betas=(0.9, 0.95), weight_decay=0.1)


def parameter_groups(module: nn.Module) -> list[dict[str, Any]]:
    """Split the trainable parameters into matrices, which decay, and vectors (biases, norms), which do not."""
    trainable = [parameter for parameter in module.parameters() if parameter.requires_grad]
    matrices = [parameter for parameter in trainable if parameter.ndim >= 2]
    vectors = [parameter for parameter in trainable if parameter.ndim < 2]
    groups: list[dict[str, Any]] = [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def scheduled(optimizer: Optimizer, lr: Schedule, total_steps: int) -> LambdaLR:
    """Let a schedule give the learning rate of every group, whatever the optimizer's own setting."""
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] = 1.0
    return LambdaLR(optimizer, lambda step: lr(min(step, total_steps - 1), total_steps))
