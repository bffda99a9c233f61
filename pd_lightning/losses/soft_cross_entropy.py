"""Cross-entropy with the teacher's probabilities as soft labels."""

from torch import Tensor

from pd_lightning.losses.alignment import CrossEntropies
from pd_lightning.losses.linear import Linear


class SoftCrossEntropy(Linear):
    """-Σ p log q: forward KL plus the entropy of the targets, so with the gradients of forward KL.

    It is no divergence: where both sides are equal it is their entropy, not 0.

    Args:
        student_temperature: Divide the student's logits by the targets' temperature too.
        temperature_squared: Multiply the loss by the temperature's square.

    Source: Peng et al. (arXiv 2410.16215), NLL.
    """

    def divergence(self, log_q: Tensor, log_p: Tensor) -> Tensor:
        """Compute -Σ p log q over the outcomes."""
        return -(log_p.exp() * log_q).sum(dim=-1)

    def of_entropies(self, student: CrossEntropies) -> Tensor:
        """Leave the cross-entropy as it is."""
        return student.values
