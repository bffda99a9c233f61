"""Tail-aware divergence: what happens among the ids off the top k has a weight of its own."""

import math

import torch
from torch import Tensor

from pd_lightning.losses.alignment import IMPOSSIBLE
from pd_lightning.losses.base import Divergence
from pd_lightning.losses.kullback_leibler import kl
from pd_lightning.targets import Form


class TailAware(Divergence):
    """Forward KL over the teacher's top k ids and all others together, plus a weight times KL within the others.

    With t the teacher's probability of the others, the second term is tail_weight · t · KL(p | others ‖ q | others).

    Args:
        k: Ids in the top, by the teacher's probability.
        tail_weight: Weight of the second term: 0 leaves it out, 1 gives forward KL, more looks at the tail more.
        student_temperature: Divide the student's logits by the targets' temperature too.
        temperature_squared: Multiply the loss by the temperature's square.

    Raises:
        ValueError: If k is below 1, or tail_weight is negative or infinite.

    Source: TAD (arXiv 2602.20816).
    """

    kinds = ("dense",)
    instead = (
        "Set model.teacher to pd_lightning.teachers.FrozenTeacher and leave the truncation out of model.transforms, or "
        "set model.loss to pd_lightning.losses.ForwardKL with init_args.tail of the truncation bucket."
    )
    whole = False

    def __init__(
        self,
        k: int = 10,
        tail_weight: float = 1.0,
        student_temperature: bool = True,
        temperature_squared: bool = True,
    ) -> None:
        super().__init__(student_temperature, temperature_squared)
        if k < 1:
            raise ValueError(f"k must be at least 1, got {k}. Set model.loss.init_args.k, 10 say.")
        if not 0 <= tail_weight < math.inf:
            raise ValueError(
                f"tail_weight must be a number of at least 0, got {tail_weight}. Set model.loss.init_args.tail_weight, "
                "1 say."
            )
        self.k = k
        self.tail_weight = tail_weight

    def check(self, form: Form) -> None:
        """Refuse targets that know of a few ids alone, and a top that is larger than the vocabulary.

        Raises:
            ValueError: Saying what to use instead.
        """
        super().check(form)
        if not form.whole:
            raise ValueError(f"TailAware must have the teacher's own tail, got one that was cut off. {self.instead}")
        if form.vocab_size is not None and self.k > form.vocab_size:
            raise ValueError(
                f"k must be at most the size of the vocabulary, got {self.k} for {form.vocab_size} ids. Lower "
                "model.loss.init_args.k."
            )

    def divergence(self, log_q: Tensor, log_p: Tensor) -> Tensor:
        """Compute the two terms over all ids."""
        top = log_p.topk(self.k, dim=-1).indices
        tail_q, tail_p = log_q.scatter(-1, top, IMPOSSIBLE), log_p.scatter(-1, top, -torch.inf)
        masses = kl(tail_p.logsumexp(dim=-1, keepdim=True), tail_q.logsumexp(dim=-1, keepdim=True))
        # t · KL(p | others ‖ q | others) is KL over the others less what their masses have of it.
        within = kl(tail_p, tail_q) - masses
        return kl(log_p.gather(-1, top), log_q.gather(-1, top)) + masses + self.tail_weight * within
