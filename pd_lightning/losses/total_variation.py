"""Total variation distance."""

from torch import Tensor

from pd_lightning.losses.base import Divergence


class TotalVariation(Divergence):
    """½ Σ |p - q|, between 0 and 1: the most by which the two can differ on the probability of any event.

    Args:
        student_temperature: Divide the student's logits by the targets' temperature too.
        temperature_squared: Multiply the loss by the temperature's square. Gradients of this loss shrink as
            1/temperature alone, so that with the square they grow with the temperature.

    Source: Wen et al., f-Distill (arXiv 2307.15190).
    """

    def divergence(self, log_q: Tensor, log_p: Tensor) -> Tensor:
        """Compute ½ Σ |p - q| over the outcomes."""
        return 0.5 * (log_p.exp() - log_q.exp()).abs().sum(dim=-1)
