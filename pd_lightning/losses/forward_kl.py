"""Forward Kullback–Leibler divergence."""

from torch import Tensor

from pd_lightning.losses.alignment import CrossEntropies
from pd_lightning.losses.kullback_leibler import kl
from pd_lightning.losses.linear import Linear


class ForwardKL(Linear):
    """KL(teacher ‖ student) = Σ p (log p - log q): the student must cover all that the teacher holds likely.

    Args:
        student_temperature: Divide the student's logits by the targets' temperature too.
        temperature_squared: Multiply the loss by the temperature's square.

    Source: Peng et al. (arXiv 2410.16215), KLD; Hinton et al. (arXiv 1503.02531).
    """

    def divergence(self, log_q: Tensor, log_p: Tensor) -> Tensor:
        """Compute Σ p (log p - log q) over the outcomes, where 0 log 0 is 0."""
        return kl(log_p, log_q)

    def of_entropies(self, student: CrossEntropies) -> Tensor:
        """Subtract the teacher's entropy."""
        return student.values - student.entropies
