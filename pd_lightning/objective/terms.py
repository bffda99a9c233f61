"""What the objective gives: sums over the labelled positions of a batch."""

from dataclasses import dataclass, replace

from torch import Tensor


@dataclass
class Terms:
    """Sums over the labelled positions of a batch; all but `loss` are detached scalars.

    Args:
        loss: The mixed loss, scalar, in nats; the only one with a graph.
        lm_loss: The LM loss in nats, minus the log-probabilities of the labels; every labelled position counts alike.
        num_tokens: Labelled positions.
        kd_loss: The KD loss in nats, likewise; None without targets.
        agreement: Positions where the teacher's most probable id is the student's too; None without targets.
        dropped_mass: Probability that the teacher gives to ids that the student lacks; None if it lacks none.
        num_targets: Labelled positions that the teacher said something of; None without targets.
        student_entropy: The student's entropy in nats; None where it was not asked for.
        top1_accuracy: Positions whose label is the student's most probable id; None where it was not asked for.
        student_kept_mass: Probability that the student gives to the ids that the targets keep, where the teacher said
            something; None where it was not asked for, and of dense targets.
        router_aux_loss: The load balancing loss of a mixture of experts, a mean, times the labelled positions; None
            where there is none.
    """

    loss: Tensor
    lm_loss: Tensor
    num_tokens: Tensor
    kd_loss: Tensor | None = None
    agreement: Tensor | None = None
    dropped_mass: Tensor | None = None
    num_targets: Tensor | None = None
    student_entropy: Tensor | None = None
    top1_accuracy: Tensor | None = None
    student_kept_mass: Tensor | None = None
    router_aux_loss: Tensor | None = None

    def balanced(self, router_loss: Tensor, coefficient: float) -> "Terms":
        """Add the load balancing loss of a mixture of experts, scalar, a mean over the batch, times its coefficient."""
        total = router_loss * self.num_tokens
        return replace(self, loss=self.loss + coefficient * total, router_aux_loss=total.detach())
