"""How student and targets are brought onto the same outcomes, at their temperatures."""

from dataclasses import dataclass

import torch
from torch import Tensor

from pd_lightning.targets import AnyTemperature, DenseTargets, SparseTargets

AnyTargets = SparseTargets | DenseTargets
# Log-probability of what cannot be: -inf would give NaN gradients, and the lowest float -inf at a temperature below 1.
IMPOSSIBLE = -1e20


@dataclass(frozen=True)
class KeptLogprobs:
    """What a student says of the ids that sparse targets keep: with a bucket at temperature 1, else at the student's.

    Args:
        kept: Log-probabilities of the kept ids, float `[n, K]`; `IMPOSSIBLE` in unused slots.
        tail: Log of the probability of all other ids together, float `[n]`; `IMPOSSIBLE` where there are none.
    """

    kept: Tensor
    tail: Tensor


@dataclass(frozen=True)
class CrossEntropies:
    """What a student says of dense targets, each side at its temperature.

    Args:
        values: -Σ p log q over all ids, float `[n]`.
        entropies: -Σ p log p, float `[n]`.
    """

    values: Tensor
    entropies: Tensor


AnyStudent = Tensor | KeptLogprobs | CrossEntropies


def align(
    student: Tensor | KeptLogprobs,
    targets: AnyTargets,
    student_temperature: AnyTemperature = 1.0,
    temperature: AnyTemperature = 1.0,
    whole: bool = True,
) -> tuple[Tensor, Tensor]:
    """Bring the student and its targets onto the same outcomes, each at its temperature.

    Dense targets: all V ids. Sparse ones: the K kept ids, and one outcome more for all other ids together where
    something is known of them. With a bucket both sides are made K+1 wide at temperature 1 and only then tempered:
    log Z at temperature 1 does not tell the tail's mass at another, and so equal distributions still compare as equal.
    Renormalised targets hold the other ids to be impossible at any temperature.

    Args:
        student: The student's logits, float `[n, V]`; of sparse targets what it says of the kept ids will do.
        targets: The teacher's targets of the same positions.
        student_temperature: What the student's logits are divided by: a number, or float `[n]`.
        temperature: What the teacher's log-probabilities are divided by, likewise.
        whole: Whether renormalised targets get the outcome of all other ids, which is impossible.

    Returns:
        Log-probabilities of the student and of the teacher, float `[n, W]` each.
    """
    if isinstance(targets, DenseTargets):
        assert isinstance(student, Tensor)
        log_q = divided(widened(student), student_temperature).log_softmax(dim=-1)
        return log_q, _tempered(targets.logprobs, temperature)
    if targets.kind == "bucket":
        assert targets.log_tail is not None
        said = _kept(widened(student), targets) if isinstance(student, Tensor) else student
        # Where every id is kept, what is left of the teacher is rounding.
        log_tail = targets.log_tail.masked_fill(said.tail <= IMPOSSIBLE, -torch.inf)
        log_p = torch.cat([targets.logprobs, log_tail.unsqueeze(-1)], dim=-1)
        return _tempered(_joined(said), student_temperature), _tempered(log_p, temperature)
    log_p = _tempered(targets.logprobs, temperature)
    with_others = whole and targets.kind == "renormalized"
    if isinstance(student, Tensor):
        logits = divided(widened(student), student_temperature)
        if not with_others:
            return logits.log_softmax(dim=-1).gather(-1, targets.ids), log_p
        student = _kept(logits, targets)
    if not with_others:
        return student.kept, log_p
    return _joined(student), torch.cat([log_p, torch.full_like(log_p[:, :1], -torch.inf)], dim=-1)


def kept_mass(student: Tensor | KeptLogprobs, targets: SparseTargets, temperature: AnyTemperature) -> Tensor:
    """Give the probability that the student gives to the kept ids together, float `[n]`.

    Args:
        student: The student's logits, float `[n, V]`, or what it says of the kept ids.
        targets: The targets.
        temperature: What logits are divided by.
    """
    if isinstance(student, Tensor):
        student = _kept(divided(widened(student), temperature), targets)
    return student.kept.exp().sum(dim=-1)


def possible(log_q: Tensor, log_p: Tensor) -> Tensor:
    """Tell the outcomes that at least one side can have, bool `[n, W]`; an unused slot is none."""
    return (log_p > -torch.inf) | (log_q > 1e-5 * IMPOSSIBLE)  # a temperature may have divided it


def widened(logits: Tensor) -> Tensor:
    """Give logits in float32, or as they are where they are wider."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def divided(values: Tensor, temperature: AnyTemperature, out: Tensor | None = None) -> Tensor:
    """Divide values `[n, W]` by a number, or by one of each position, float `[n]`; into `out`, if that is given."""
    if isinstance(temperature, Tensor):
        return torch.div(values, temperature.unsqueeze(-1), out=out)
    return values if out is None and not tempers(temperature) else torch.div(values, temperature, out=out)


def tempers(temperature: AnyTemperature) -> bool:
    """Tell whether dividing by a temperature changes anything; one of each position may."""
    return isinstance(temperature, Tensor) or temperature != 1.0


def _kept(logits: Tensor, targets: SparseTargets) -> KeptLogprobs:
    """Give what logits say of the kept ids, by autograd."""
    # 1 - Σ q over the kept ids is 0 in fp32 where the truth is 1e-8, so the tail's mass is the logsumexp of the
    # logits off the kept ids. Less their maximum, for log Z of large logits has few digits after the point.
    largest = logits.detach().amax(dim=-1, keepdim=True)
    tail = (logits - largest).scatter_(-1, targets.ids, IMPOSSIBLE).logsumexp(dim=-1, keepdim=True)
    # An unused slot repeats a kept id, which on the student's side too must not count twice.
    kept = (logits.gather(-1, targets.ids) - largest).masked_fill(targets.logprobs == -torch.inf, IMPOSSIBLE)
    log_q = torch.cat([kept, tail], dim=-1).log_softmax(dim=-1)
    return KeptLogprobs(log_q[:, :-1], log_q[:, -1])


def _joined(said: KeptLogprobs) -> Tensor:
    return torch.cat([said.kept, said.tail.unsqueeze(-1)], dim=-1)


def _tempered(logprobs: Tensor, temperature: AnyTemperature) -> Tensor:
    return divided(logprobs, temperature).log_softmax(dim=-1) if tempers(temperature) else logprobs
