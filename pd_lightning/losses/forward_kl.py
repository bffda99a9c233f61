"""Forward Kullback–Leibler divergence."""

import torch
from torch import Tensor

from pd_lightning.losses.base import Loss


class ForwardKL(Loss):
    """KL(teacher ‖ student) = Σ p (log p - log q): the student must cover all that the teacher holds likely.

    Args:
        student_temperature: Divide the student's logits by the targets' temperature too.
        temperature_squared: Multiply the loss by the temperature's square.

    Source: Peng et al. (arXiv 2410.16215), KLD; Hinton et al. (arXiv 1503.02531).
    """

    def divergence(self, log_q: Tensor, log_p: Tensor) -> Tensor:
        """Compute Σ p (log p - log q) over the outcomes, where 0 log 0 is 0."""
        terms = log_p.exp() * (log_p - log_q)
        return torch.where(log_p > -torch.inf, terms, 0.0).sum(dim=-1)
