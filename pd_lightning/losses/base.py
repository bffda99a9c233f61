"""The interface of a loss, and how student and targets are brought onto the same outcomes."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from pd_lightning.targets import DenseTargets, SparseTargets


class Loss(ABC):
    """A divergence between the student's and the teacher's distribution at each position.

    Args:
        student_temperature: Divide the student's logits by the targets' temperature too.
        temperature_squared: Multiply the loss by the temperature's square. With both sides tempered, gradients shrink
            as 1/temperature²; this undoes it, so that kd_weight keeps its meaning. Not for an untempered student.

    Raises:
        ValueError: If the square is asked for without tempering the student.
    """

    def __init__(self, student_temperature: bool = True, temperature_squared: bool = True) -> None:
        if temperature_squared and not student_temperature:
            raise ValueError(
                "temperature_squared must be false where student_temperature is, got true: an untempered student's "
                "gradients do not shrink. Set model.loss.init_args.temperature_squared to false."
            )
        self.student_temperature = student_temperature
        self.temperature_squared = temperature_squared

    def __call__(self, student_logits: Tensor, targets: SparseTargets | DenseTargets) -> Tensor:
        """Compare n positions.

        Args:
            student_logits: The student's logits, float `[n, V]`.
            targets: What the teacher says of the same positions, over the same vocabulary.

        Returns:
            The divergence of each position in nats, float `[n]`.
        """
        log_q, log_p = align(student_logits, targets, self.student_temperature)
        divergence = self.divergence(log_q, log_p)
        return divergence * targets.temperature**2 if self.temperature_squared else divergence

    @abstractmethod
    def divergence(self, log_q: Tensor, log_p: Tensor) -> Tensor:
        """Compare log-probabilities over the same W outcomes.

        Args:
            log_q: The student's, float `[n, W]`.
            log_p: The teacher's, float `[n, W]`; -inf where an outcome is impossible or a slot unused.

        Returns:
            The divergence of each position in nats, float `[n]`.
        """


def align(
    student_logits: Tensor, targets: SparseTargets | DenseTargets, student_temperature: bool = True
) -> tuple[Tensor, Tensor]:
    """Bring the student and its targets onto the same outcomes, at the targets' temperature.

    Dense targets: all V ids. Sparse ones: the K kept ids, and one outcome more for all other ids together where the
    targets know their tail. With a tail both sides are made K+1 wide at temperature 1 and only then tempered: log Z
    at temperature 1 does not tell the tail's mass at another, and so equal distributions still compare as equal.

    Args:
        student_logits: The student's logits, float `[n, V]`.
        targets: The teacher's targets of the same positions.
        student_temperature: Temper the student too.

    Returns:
        Log-probabilities of the student and of the teacher, float `[n, W]` each.
    """
    tau = targets.temperature
    student_tau = tau if student_temperature else 1.0
    logits = student_logits.to(torch.promote_types(student_logits.dtype, torch.float32))
    if isinstance(targets, DenseTargets):
        return (logits / student_tau).log_softmax(dim=-1), _temper(targets.logprobs, tau)
    if targets.log_tail is None:
        log_q = (logits / student_tau).log_softmax(dim=-1).gather(-1, targets.ids)
        return log_q, _temper(targets.logprobs, tau)
    log_q, log_p = _with_tail(logits, targets, targets.log_tail)
    return _temper(log_q, student_tau), _temper(log_p, tau)


def _with_tail(logits: Tensor, targets: SparseTargets, log_tail: Tensor) -> tuple[Tensor, Tensor]:
    """Make both sides K+1 wide at temperature 1."""
    log_z = logits.logsumexp(dim=-1, keepdim=True)
    # 1 - Σ q over the kept ids is 0 in fp32 where the truth is 1e-8, so the tail's mass is the logsumexp of the
    # logits off the kept ids. A large finite number, not -inf: where every id is kept, -inf would give NaN gradients.
    used = targets.logprobs > -torch.inf
    lowest = torch.finfo(logits.dtype).min / 4
    off_kept = logits.scatter(-1, targets.ids, lowest)
    log_q_tail = off_kept.logsumexp(dim=-1, keepdim=True)
    if targets.ids.shape[-1] == logits.shape[-1]:
        log_tail = log_tail.masked_fill(used.all(dim=-1), -torch.inf)
    log_q = torch.cat([logits.gather(-1, targets.ids), log_q_tail], dim=-1) - log_z
    log_p = torch.cat([targets.logprobs, log_tail.unsqueeze(-1)], dim=-1)
    # An unused slot repeats a kept id; on the student's side too it must not count twice when it is tempered.
    slots = torch.cat([used, torch.ones_like(used[..., :1])], dim=-1)
    return log_q.masked_fill(~slots, lowest), log_p


def _temper(logprobs: Tensor, tau: float) -> Tensor:
    return logprobs if tau == 1.0 else (logprobs / tau).log_softmax(dim=-1)
