"""Skewed forward Kullback–Leibler divergence."""

from torch import Tensor

from pd_lightning.losses.base import Divergence
from pd_lightning.losses.kullback_leibler import kl, mixture


class SkewedForwardKL(Divergence):
    """KL(p ‖ λ p + (1 - λ) q): forward KL whose gradients stay bounded where the student's q is near 0.

    Args:
        skew: λ, above 0 and below 1: the teacher's share in what it is compared with. The loss is -log λ at most.
        student_temperature: Divide the student's logits by the targets' temperature too.
        temperature_squared: Multiply the loss by the temperature's square.

    Raises:
        ValueError: If skew is not above 0 and below 1.

    Source: Ko et al., DistiLLM (arXiv 2402.03898), SKL.
    """

    whole = False

    def __init__(self, skew: float = 0.1, student_temperature: bool = True, temperature_squared: bool = True) -> None:
        super().__init__(student_temperature, temperature_squared)
        if not 0 < skew < 1:
            raise ValueError(
                f"skew must be above 0 and below 1, got {skew}. Set model.loss.init_args.skew to 0.1, or model.loss to "
                "pd_lightning.losses.ForwardKL for no skew."
            )
        self.skew = skew

    def divergence(self, log_q: Tensor, log_p: Tensor) -> Tensor:
        """Compute KL(p ‖ λ p + (1 - λ) q) over the outcomes."""
        return kl(log_p, mixture(log_p, log_q, self.skew))
