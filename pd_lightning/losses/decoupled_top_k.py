"""Decoupled top-k divergence: how much is kept, and what is kept, apart."""

import torch
from torch import Tensor

from pd_lightning.losses.alignment import AnyStudent, AnyTargets, CrossEntropies, align, divided
from pd_lightning.losses.base import Loss
from pd_lightning.losses.kullback_leibler import kl


class DecoupledTopK(Loss):
    """KL(m_T ‖ m_S) + m_T τ² KL(p_T ‖ p_S), m the probability of the kept ids, p the distribution within them.

    The temperature acts within the kept ids alone: that of all others together has no meaning at another temperature.
    At temperature 1 it is the forward KL of targets with a bucket.

    Args:
        student_temperature: Divide the student's logits of the kept ids by the targets' temperature too.
        temperature_squared: Multiply the second term by τ², the temperature's square.

    Source: Liquid AI, LFM2 (arXiv 2511.23404).
    """

    kinds = ("bucket",)
    aligned = True
    instead = (
        "Put pd_lightning.transforms.TopK with init_args.tail bucket into model.transforms, or set model.loss to "
        "pd_lightning.losses.ForwardKL."
    )

    def __call__(self, student: AnyStudent, targets: AnyTargets) -> Tensor:
        """Compare n positions, see Loss."""
        assert not isinstance(student, CrossEntropies)
        (kept_q, tail_q), (kept_p, tail_p) = ((x[:, :-1], x[:, -1:]) for x in align(student, targets))
        mass_q, mass_p = (x.logsumexp(dim=-1, keepdim=True) for x in (kept_q, kept_p))
        masses = kl(torch.cat([mass_p, tail_p], dim=-1), torch.cat([mass_q, tail_q], dim=-1))
        student_temperature, temperature = self.temperatures(targets)
        within_q = divided(kept_q, student_temperature).log_softmax(dim=-1)
        within_p = divided(kept_p, temperature).log_softmax(dim=-1)
        return masses + mass_p.squeeze(-1).exp() * self.compensation(targets) * kl(within_p, within_q)
