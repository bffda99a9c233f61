"""The load balancing loss of mixture-of-experts models, which the whole model would add to its own loss."""

import copy
import warnings
from typing import Any

from torch import Tensor, nn


def router_coefficient(model: nn.Module) -> float | None:
    """Give the share of the load balancing loss in the model's loss, or None where the architecture has no such loss.

    Args:
        model: A Hugging Face causal model, or any other module.
    """
    coefficient = getattr(model, "router_aux_loss_coef", None)
    if coefficient is None:
        coefficient = getattr(model, "aux_loss_coef", None)  # JetMoe
    return None if coefficient is None else float(coefficient)


def router_loss(model: Any, outputs: Any, input_ids: Tensor) -> Tensor | None:
    """Give the load balancing loss, scalar, without its coefficient.

    Args:
        model: A Hugging Face causal model with a base model.
        outputs: What its base model gave for `input_ids`, router logits included.
        input_ids: Token ids, int64 `[B, T]`.

    Returns:
        The mean over the batch's positions; None unless the model adds it, by `output_router_logits` of its config.

    Source: Fedus et al. (arXiv 2101.03961), equations 4 to 6.
    """
    if router_coefficient(model) is None or not _adds(model):
        return None
    # The model's own lines after its base model, run over outputs that are there: architectures differ in what they
    # hand to their loss, and in what they call it. Logits of one position are the fewest they make.
    rest = copy.copy(model)
    rest._modules = {**model._modules, model.base_model_prefix: _Given(outputs)}
    loss = rest.forward(input_ids, logits_to_keep=1, use_cache=False).aux_loss  # past hooks on the whole
    return loss if isinstance(loss, Tensor) else None  # 0 where no layer has a router


def warn_of_lost_router_loss(model: Any, split: bool) -> None:
    """Warn where a model would be trained without the load balancing loss that it has a coefficient for.

    Args:
        model: A Hugging Face causal model, or any other module.
        split: Whether it is used as base model and head.
    """
    coefficient = router_coefficient(model)
    adds = _adds(model)
    if coefficient and not (adds and split):
        remedy = (
            "Set model.student to an architecture whose logits are its head of its hidden states"
            if adds
            else "Set model.student.init_args.config.output_router_logits to true (for a pretrained student, "
            "output_router_logits in its config.json)"
        )
        warnings.warn(
            f"{type(model).__name__} must add its load balancing loss for router_aux_loss_coef to have an effect, got "
            f"{coefficient:g} with output_router_logits {str(adds).lower()}. {remedy}, or router_aux_loss_coef to 0.",
            stacklevel=2,
        )


def _adds(model: Any) -> bool:
    return bool(getattr(getattr(model, "config", None), "output_router_logits", False))


class _Given(nn.Module):
    """Gives what was computed before, whatever it is asked."""

    def __init__(self, outputs: Any) -> None:
        super().__init__()
        self.outputs = outputs

    def forward(self, *args: object, **kwargs: object) -> Any:
        return self.outputs
