"""What student and teacher say of each position, in figures: entropies, ranks, divergence, gradients at the logits."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from pd_lightning.context import IGNORE_INDEX, Progress
from pd_lightning.losses.alignment import AnyTargets, align, widened
from pd_lightning.losses.kullback_leibler import kl
from pd_lightning.objective.objective import Objective
from pd_lightning.targets import DenseTargets, SparseTargets
from pd_lightning.targets.blockwise import dot, entropy
from pd_lightning.transforms.shared_vocabulary import SharedVocabulary

# What is not known of a position: NaN is what a training that has diverged gives, and shall be seen.
UNKNOWN = -torch.inf
MASS_AT = (1, 10, 50, 100)
LOGITS_PER_POSITION = 64
_SIDE = ("entropy", "effective_support", "max_probability", "label_rank", "logit_mean", "logit_std")
_SIDE_FIGURES = (*_SIDE, *(f"mass_at_{k}" for k in MASS_AT))
_OF_BOTH = ("tail_mass", "kept_ids", "kl", "lm_gradient", "kd_gradient", "gradient_product")
# Every figure, with how many numbers it has for a position.
WIDTHS: dict[str, int] = {
    **{f"{side}_{name}": 1 for side in ("student", "teacher") for name in _SIDE_FIGURES},
    **dict.fromkeys(_OF_BOTH, 1),
    **{f"{side}_logits": LOGITS_PER_POSITION for side in ("student", "teacher")},
}


@dataclass(frozen=True)
class Asked:
    """What is compared how.

    Args:
        objective: Its transforms and its loss make the KD loss.
        shared_vocab_size: Ids that student and teacher have in common, where their widths differ by padding.
        gradients: Whether gradients are asked for; not possible in inference mode.
    """

    objective: Objective
    shared_vocab_size: int | None = None
    gradients: bool = True


def logits_figures(
    asked: Asked, logits: Tensor, labels: Tensor, said: AnyTargets | None, progress: Progress | None = None
) -> dict[str, Tensor]:
    """Compute figures of n positions.

    Args:
        asked: What is compared how.
        logits: The student's, float `[n, V]`.
        labels: The next token of each position, int64 `[n]`; -100 where there is none, of which nothing is known.
        said: What the teacher says of them, if there is a teacher.
        progress: How far the run has come, for transforms.

    Returns:
        Figures by the names of `WIDTHS`, float `[n]` or `[n, width]`, detached; `UNKNOWN` where a figure is not known
        of a position, and without the figures that no position has. A rank is infinite where a label is not among the
        ids that a store kept. Of gradients: the squares of their norms at the logits, and their inner product.

    Raises:
        ValueError: If the widths of the logits differ by more than padding.
    """
    logits = widened(logits.detach())
    with torch.no_grad():
        figures = _named("student", _of_distribution(logits.log_softmax(dim=-1), labels))
        figures |= _named("student", _of_logits(logits))
        if said is not None:
            size = asked.shared_vocab_size
            # Without the context, which it makes no use of.
            said = said if size is None else SharedVocabulary(size).teacher(said, None)  # type: ignore[arg-type]
            figures |= _of_teacher(logits[:, :size], labels, said)
    figures |= _of_losses(asked, logits, labels, said, progress)
    counted = labels != IGNORE_INDEX
    taught = counted if said is None or said.missing is None else counted & ~said.missing
    own = {"lm_gradient", *(name for name in figures if name.startswith("student"))}
    return {name: _where(counted if name in own else taught, values) for name, values in figures.items()}


def _of_distribution(logprobs: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Figures of log-probabilities over all ids, float `[n, V]`."""
    V = logprobs.shape[-1]
    masses = logprobs.topk(min(max(MASS_AT), V), dim=-1).values.exp().cumsum(dim=-1)
    entropies = entropy(logprobs)
    return {
        "entropy": entropies,
        "effective_support": entropies.exp(),
        "max_probability": masses[:, 0],
        "label_rank": _rank(logprobs, logprobs.gather(-1, labels.clamp(0, V - 1).unsqueeze(-1))),
        **{f"mass_at_{k}": masses[:, min(k, V) - 1] for k in MASS_AT},
    }


def _of_logits(logits: Tensor) -> dict[str, Tensor]:
    """Figures of logits, float `[n, V]`, and some of them: of evenly spaced ids."""
    some = logits[:, :: -(-logits.shape[-1] // LOGITS_PER_POSITION)]
    return {
        "logit_mean": logits.mean(dim=-1),
        "logit_std": logits.std(dim=-1, correction=0),
        "logits": F.pad(some, (0, LOGITS_PER_POSITION - some.shape[-1]), value=UNKNOWN),
    }


def _of_teacher(logits: Tensor, labels: Tensor, said: AnyTargets) -> dict[str, Tensor]:
    """What the teacher says before any transform, and the divergence of the student from it, at temperature 1."""
    figures: dict[str, Tensor] = {}
    if isinstance(said, DenseTargets):
        if said.logprobs.shape[-1] != logits.shape[-1]:
            raise ValueError(_OTHER_WIDTHS.format(logits.shape[-1], said.logprobs.shape[-1]))
        figures |= _of_distribution(said.logprobs, labels)
        if "log_z" in said.statistics:
            figures |= _of_logits(said.logprobs + said.statistics["log_z"].unsqueeze(-1))
    else:
        figures |= _of_columns(said)
        if said.kind == "bucket":
            figures["max_probability"] = said.logprobs.amax(dim=-1).exp()
            figures["label_rank"] = _kept_rank(said, labels)
    found = _named("teacher", figures)
    if said.kind in ("dense", "bucket"):
        log_q, log_p = align(logits, said)
        found["kl"] = kl(log_p, log_q)
    return found


_OTHER_WIDTHS = (
    "Teacher and student must share a vocabulary, got logits of {} ids of the student and {} of the teacher. Set "
    "teacher of LogitsStatistics to a model with the student's tokenizer."
)


def _of_columns(said: SparseTargets) -> dict[str, Tensor]:
    """What a store keeps of each position beside ids."""
    known = said.statistics
    figures: dict[str, Tensor] = {}
    if "entropy" in known:
        figures |= {"entropy": known["entropy"], "effective_support": known["entropy"].exp()}
    if {"mean", "log_z"} <= known.keys():
        figures["logit_mean"] = known["mean"] + known["log_z"]
    if "std" in known:
        figures["logit_std"] = known["std"]
    return figures


def _of_losses(
    asked: Asked, logits: Tensor, labels: Tensor, said: AnyTargets | None, progress: Progress | None
) -> dict[str, Tensor]:
    """What transforms leave of the teacher, and the gradients of the two losses at the student's logits."""
    with torch.set_grad_enabled(asked.gradients):
        leaf = logits.detach().requires_grad_(asked.gradients)
        treated = None
        if said is not None:
            kd_loss, treated = asked.objective.kd_loss(leaf, labels, said, progress)
        figures = {} if said is None or treated is None else _of_kept(said, treated)
        if not asked.gradients:
            return figures
        lm_loss = F.cross_entropy(leaf, labels, ignore_index=IGNORE_INDEX, reduction="sum")
        (of_lm,) = torch.autograd.grad(lm_loss, leaf)
        figures["lm_gradient"] = dot(of_lm, of_lm)
        if treated is not None:
            (of_kd,) = torch.autograd.grad(kd_loss.sum(), leaf)
            figures["kd_gradient"] = dot(of_kd, of_kd)
            figures["gradient_product"] = dot(of_lm, of_kd)
    return figures


@torch.no_grad()
def _of_kept(said: AnyTargets, treated: AnyTargets) -> dict[str, Tensor]:
    """How many ids the loss sees of the teacher, and what probability the teacher gives to all others together."""
    if not isinstance(treated, SparseTargets):
        return {}
    used = treated.logprobs > -torch.inf
    figures = {"kept_ids": used.sum(dim=-1).to(treated.logprobs.dtype)}
    if said.kind in ("dense", "bucket"):
        if isinstance(said, SparseTargets):
            width = int(max(said.ids.max(), treated.ids.max())) + 1
            empty = said.logprobs.new_full((len(said), width), -torch.inf)
            whole = empty.scatter_reduce(-1, said.ids, said.logprobs, "amax")  # an unused slot repeats a kept id
        else:
            whole = said.logprobs
        kept = whole.gather(-1, treated.ids).exp().masked_fill(~used, 0.0).sum(dim=-1)
        figures["tail_mass"] = (1.0 - kept).clamp(min=0.0)
    return figures


def _rank(logprobs: Tensor, label: Tensor) -> Tensor:
    """Rank of a label whose log-probability is given, float `[n, 1]`: 1 for the most probable id."""
    rank = (logprobs > label).sum(dim=-1).to(logprobs.dtype) + 1.0
    return torch.where(label.squeeze(-1).isnan(), label.squeeze(-1), rank)


def _kept_rank(said: SparseTargets, labels: Tensor) -> Tensor:
    of_label = (said.ids == labels.unsqueeze(-1)) & (said.logprobs > -torch.inf)
    label = said.logprobs.masked_fill(~of_label, -torch.inf).amax(dim=-1, keepdim=True)
    return _rank(said.logprobs, label).masked_fill(~of_label.any(dim=-1), torch.inf)


def _named(side: str, figures: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"{side}_{name}": values for name, values in figures.items()}


def _where(known: Tensor, values: Tensor) -> Tensor:
    return torch.where(known if values.dim() == 1 else known.unsqueeze(-1), values, UNKNOWN)
