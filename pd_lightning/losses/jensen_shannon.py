"""Generalised Jensen–Shannon divergence."""

from torch import Tensor

from pd_lightning.losses.base import Divergence
from pd_lightning.losses.kullback_leibler import kl, mixture


class JensenShannon(Divergence):
    """β KL(p ‖ m) + (1 - β) KL(q ‖ m) with m = β p + (1 - β) q: bounded, between forward and reverse KL.

    As β goes to 0, the loss divided by β goes to forward KL; as it goes to 1, divided by 1 - β, to reverse KL. Its
    gradients shrink with β (1 - β) likewise.

    Args:
        beta: β, above 0 and below 1; 0.5 is the symmetric divergence.
        student_temperature: Divide the student's logits by the targets' temperature too.
        temperature_squared: Multiply the loss by the temperature's square.

    Raises:
        ValueError: If beta is not above 0 and below 1.

    Source: Agarwal et al., GKD (arXiv 2306.13649).
    """

    def __init__(self, beta: float = 0.5, student_temperature: bool = True, temperature_squared: bool = True) -> None:
        super().__init__(student_temperature, temperature_squared)
        if not 0 < beta < 1:
            raise ValueError(
                f"beta must be above 0 and below 1, got {beta}. Set model.loss.init_args.beta to 0.5, or model.loss to "
                "pd_lightning.losses.ForwardKL or ReverseKL, its limits at 0 and 1."
            )
        self.beta = beta

    def divergence(self, log_q: Tensor, log_p: Tensor) -> Tensor:
        """Compute β KL(p ‖ m) + (1 - β) KL(q ‖ m) over the outcomes."""
        log_m = mixture(log_p, log_q, self.beta)
        return self.beta * kl(log_p, log_m) + (1 - self.beta) * kl(log_q, log_m)
