"""A weighted sum of losses."""

import math
from collections.abc import Mapping

from torch import Tensor

from pd_lightning.losses.alignment import AnyStudent, AnyTargets
from pd_lightning.losses.base import Loss
from pd_lightning.targets import AnyTemperature, Form


class WeightedSum(Loss):
    """Σ weight · loss. Each loss is told by itself whether to temper the student and to multiply by the square.

    Args:
        losses: Losses by name, so that an overlay can change one.
        weights: Weights by the same names, 0 or more; 1 for what is not named. They need not sum to 1.

    Raises:
        ValueError: If there are no losses, a weight names none of them or is negative or infinite, or all are 0.
    """

    def __init__(self, losses: dict[str, Loss], weights: dict[str, float] | None = None) -> None:
        super().__init__()
        if not losses:
            raise ValueError(
                "losses must have at least one entry, got none. Add one to model.loss.init_args.losses, kl: "
                "pd_lightning.losses.ForwardKL say."
            )
        self.losses = dict(losses)
        self.weights = dict.fromkeys(losses, 1.0) | _checked(weights or {}, losses)
        if not any(self.weights.values()):
            raise ValueError(
                "weights must have one above 0, got 0 for all. Set model.loss.init_args.weights, or kd_weight to 0."
            )

    def check(self, form: Form) -> None:
        """Refuse targets that one of the losses cannot work with.

        Raises:
            ValueError: Naming that loss, and what to use instead.
        """
        for name, loss in self.losses.items():
            try:
                loss.check(form)
            except ValueError as error:
                raise ValueError(f"model.loss.init_args.losses.{name}: {error}") from None

    def does_without_logits_at(self, targets: AnyTargets) -> AnyTemperature | None:
        """Give the temperature at which less than logits will do for all losses, see Loss."""
        first, *others = (loss.does_without_logits_at(targets) for loss in self.losses.values())
        same = all(one is first or (isinstance(one, float) and one == first) for one in others)
        return first if same else None

    def __call__(self, student: AnyStudent, targets: AnyTargets) -> Tensor:
        """Compare n positions, see Loss."""
        terms = [self.weights[name] * loss(student, targets) for name, loss in self.losses.items()]
        return sum(terms[1:], terms[0])


def _checked(weights: Mapping[str, float], losses: Mapping[str, Loss]) -> dict[str, float]:
    for name, weight in weights.items():
        if name not in losses:
            raise ValueError(
                f"weights must name losses, got {name} beside {', '.join(losses)}. Correct "
                f"model.loss.init_args.weights.{name}."
            )
        if not 0 <= weight < math.inf:
            raise ValueError(
                f"A weight must be a number of at least 0, got {weight}. Set model.loss.init_args.weights.{name}."
            )
    return dict(weights)
