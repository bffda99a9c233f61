"""Reverse Kullback–Leibler divergence."""

from torch import Tensor

from pd_lightning.losses.base import Divergence
from pd_lightning.losses.kullback_leibler import kl

# Lowest log p, as in torch's binary cross-entropy: a sure teacher's tail is 0 in float32, which shall not stop a run.
FLOOR = -100.0


class ReverseKL(Divergence):
    """KL(student ‖ teacher) = Σ q (log q - log p): the student must avoid what the teacher holds unlikely.

    Infinite where the student gives a chance to what the teacher holds impossible; so log p counts as -100 at least.

    Args:
        student_temperature: Divide the student's logits by the targets' temperature too.
        temperature_squared: Multiply the loss by the temperature's square.

    Source: Gu et al., MiniLLM (arXiv 2306.08543).
    """

    kinds = ("dense", "bucket")
    instead = (
        "The student gives every id a chance, and reverse KL is infinite where the teacher gives none. Set "
        "init_args.tail of the truncation to bucket and leave SampleTokens out, or set model.loss to "
        "pd_lightning.losses.SkewedReverseKL, which stays finite with renormalised targets, or to ForwardKL."
    )

    def divergence(self, log_q: Tensor, log_p: Tensor) -> Tensor:
        """Compute Σ q (log q - log p) over the outcomes, where 0 log 0 is 0."""
        return kl(log_q, log_p.clamp(min=FLOOR))
