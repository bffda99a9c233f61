"""What others do on the inputs of objective.py: their packages where they are installed, else their formulas."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

if TYPE_CHECKING:
    from objective import Inputs

KD_WEIGHT = 0.9


def lm(x: Inputs) -> Tensor:
    return F.cross_entropy((x.hidden @ x.weight.T).float(), x.labels)


def naive_sparse(x: Inputs) -> Tensor:
    """The LM loss and forward KL with a bucket of stored targets, out of one log-softmax of all logits."""
    log_q = (x.hidden @ x.weight.T).float().log_softmax(-1)
    kept = log_q.gather(-1, x.stored.ids)
    log_t = x.stored.log_tail
    assert log_t is not None
    tail = torch.log1p(-kept.exp().sum(-1).clamp(max=1 - 1e-7))
    kl = (x.stored.logprobs.exp() * (x.stored.logprobs - kept)).sum(-1) + log_t.exp() * (log_t - tail)
    return (1 - KD_WEIGHT) * F.nll_loss(log_q, x.labels) + KD_WEIGHT * kl.mean()


def distillkit_sparse(x: Inputs) -> Tensor:
    """DistillKit's sparse KL with the missing probability as one outcome, and the model's own cross-entropy."""
    logits = x.hidden @ x.weight.T
    cross_entropy = F.cross_entropy(logits.float(), x.labels)
    student = logits.gather(-1, x.stored.ids) - torch.logsumexp(logits.float(), -1, keepdim=True).to(logits.dtype)
    teacher = x.stored.logprobs.to(logits.dtype)
    inner = (teacher.exp() * (teacher - student)).sum(-1)
    log_teacher, log_student = (
        torch.log1p(-side.float().exp().sum(-1).clamp(min=1e-8, max=1 - 1e-8)) for side in (teacher, student)
    )
    kl = inner + log_teacher.exp() * (log_teacher - log_student)
    return (1 - KD_WEIGHT) * cross_entropy + KD_WEIGHT * kl.mean()


def naive_dense(x: Inputs) -> Tensor:
    with torch.no_grad():
        log_p = (x.teacher_hidden @ x.teacher_weight.T).float().log_softmax(-1)
    return F.kl_div((x.hidden @ x.weight.T).float().log_softmax(-1), log_p, reduction="batchmean", log_target=True)


def torchtune_dense(x: Inputs, chunks: int = 8) -> Tensor:
    """Torchtune's chunked forward KL: -Σ p log q, a chunk of both sides' logits at a time."""
    with torch.no_grad():
        teacher = (x.teacher_hidden @ x.teacher_weight.T).chunk(chunks)
    total = x.hidden.new_zeros((), dtype=torch.float32)
    for student, one in zip((x.hidden @ x.weight.T).chunk(chunks), teacher, strict=True):
        total = total - (one.float().softmax(-1) * student.float().log_softmax(-1)).sum()
    return total / len(x.labels)


def liger(x: Inputs) -> Tensor:
    from liger_kernel.chunked_loss import LigerFusedLinearJSDLoss

    settings: Any = {"weight_hard_loss": 0.0, "weight_soft_loss": 1.0, "beta": 0.0, "compiled": False}
    loss = LigerFusedLinearJSDLoss(**settings, ignore_index=-100, temperature=1.0, chunk_size=128)
    result = loss(x.hidden, x.weight, x.teacher_hidden, x.teacher_weight, x.labels, None, None)
    return result[0] if isinstance(result, tuple) else result


def trl(x: Inputs) -> Tensor:
    from trl.kernels.chunked_divergence import ChunkedDivergenceFunction

    both = (x.hidden, x.weight, None, x.teacher_hidden, x.teacher_weight, None)
    return ChunkedDivergenceFunction.apply(*both, 0.0, 1.0, 1.0, None, 1.0, None)[0].sum() / len(x.labels)


def liger_jsd_triton(x: Inputs) -> Tensor:
    from liger_kernel.transformers import LigerFusedLinearJSD

    loss = LigerFusedLinearJSD(jsd_beta=0.0)
    return loss(x.hidden, x.weight, x.teacher_hidden, x.teacher_weight, None)


def liger_lm_triton(x: Inputs) -> Tensor:
    from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss

    return LigerFusedLinearCrossEntropyLoss()(x.weight, x.hidden, x.labels)


def cut_cross_entropy_lm(x: Inputs) -> Tensor:
    from cut_cross_entropy import linear_cross_entropy

    return linear_cross_entropy(x.hidden, x.weight, x.labels)
