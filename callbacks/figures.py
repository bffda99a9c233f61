"""How a student compares with labels and teacher over a domain: sums over positions, and the figures made of them."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from pd_lightning.context import IGNORE_INDEX, Context
from pd_lightning.losses import ForwardKL, TotalVariation
from pd_lightning.losses.alignment import AnyTargets, widened
from pd_lightning.objective.chunking import rows_per_chunk
from pd_lightning.objective.closed_form import are_largest
from pd_lightning.targets import DenseTargets, Targets
from pd_lightning.targets.heads import Head
from pd_lightning.transforms.shared_vocabulary import SharedVocabulary

BINS = 15
_SLOTS = BINS + 1  # a confidence of exactly 1 is in a bin of its own, as in torchmetrics
_TOP = 5
_SUMS = ("tokens", "nats", "text_nats", "bytes", "correct", "targets", "top1", "top5", "kl", "overlap")
_KL, _VARIATION = ForwardKL(temperature_squared=False), TotalVariation(temperature_squared=False)


def no_sums() -> Tensor:
    """Give the sums over no position, float64."""
    return torch.zeros(len(_SUMS) + 3 * _SLOTS, dtype=torch.float64)


@torch.no_grad()
def sums(
    hidden: Tensor,
    head: Head,
    labels: Tensor,
    targets: Targets | None,
    token_bytes: Tensor | None = None,
    shared: int | None = None,
) -> Tensor:
    """Compare N positions with their labels and with what a teacher says of them, some at a time.

    Args:
        hidden: The student's hidden states, float `[N, D]`.
        head: Its head.
        labels: Int64 `[N]`; -100 where nothing is compared.
        targets: The teacher's; None where there is none.
        token_bytes: Bytes that each token stands for, int64 `[V]`: of a domain that is scored in bits per byte of its
            scored tokens. None where all scored tokens are text, whose bytes are known.
        shared: Ids that teacher and student have in common, where that is not all.

    Returns:
        Sums, float64, to be added to others: see `figures`.
    """
    size = rows_per_chunk(head.vocab_size or hidden.shape[-1], hidden)
    total = no_sums()
    for start in range(0, len(hidden), size):
        rows = slice(start, start + size)
        said = None if targets is None else targets.rows(rows)
        total += _of_rows(head(hidden[rows]), labels[rows], said, token_bytes, shared)
    return total


def figures(total: Tensor, form: str | None, num_bytes: int | None, num_words: int | None) -> dict[str, float]:
    """Make figures of sums.

    Args:
        total: What `sums` gave, all together, of one scored position at least.
        form: `dense` or `bucket` targets; None where there are none.
        num_bytes: UTF-8 bytes of the texts, or None where the scored tokens tell.
        num_words: Words of the texts, or None.

    Returns:
        By name: `lm_loss` in nats, `perplexity`, `bits_per_byte`, `word_perplexity`, `top1_accuracy`,
        `calibration_error`; and against a teacher `top1_agreement`, `top5_agreement`, `kl` in nats and `acceptance`,
        the last two with `_bucket` where the teacher's tail is one outcome. Those that are not known are left out.
    """
    found = dict(zip(_SUMS, total.tolist(), strict=False))
    tokens, text = found["tokens"], num_bytes if num_bytes is not None else found["bytes"]
    assert tokens, "a domain without labels is refused"
    loss = found["nats"] / tokens
    made = {"lm_loss": loss, "perplexity": _exp(loss), "top1_accuracy": found["correct"] / tokens}
    if text:
        made["bits_per_byte"] = found["text_nats"] / text / math.log(2)
    if num_words:
        made["word_perplexity"] = _exp(found["nats"] / num_words)
    made["calibration_error"] = _calibration_error(total[len(_SUMS) :].view(3, _SLOTS))
    if form is None or not found["targets"]:
        return made
    means = {name: found[name] / found["targets"] for name in ("top1", "top5", "kl", "overlap")}
    suffix = "" if form == "dense" else "_bucket"
    against = {"top1_agreement": means["top1"], "top5_agreement": means["top5"]}
    return made | against | {f"kl{suffix}": means["kl"], f"acceptance{suffix}": means["overlap"]}


def _of_rows(
    logits: Tensor, labels: Tensor, said: AnyTargets | None, token_bytes: Tensor | None, shared: int | None
) -> Tensor:
    logits = widened(logits)
    log_q = logits.log_softmax(dim=-1)
    counted = labels != IGNORE_INDEX
    some = labels.clamp(min=0)
    nats = torch.where(counted, -log_q.gather(-1, some[:, None])[:, 0], 0.0)
    best, top1 = log_q.max(dim=-1)
    correct = (top1 == labels) & counted
    values: dict[str, Tensor] = {"tokens": counted, "nats": nats, "text_nats": nats, "correct": correct}
    if token_bytes is not None:
        values["bytes"] = token_bytes[some] * counted
        values["text_nats"] = torch.where(values["bytes"] > 0, nats, 0.0)
    if said is not None:
        values |= _against(logits, said, counted, shared)
    values["confidence"] = best.exp()
    # On the CPU, for not every device has float64.
    found = {name: value.cpu().double() for name, value in values.items()}
    bins = _bins(found.pop("confidence"), found["correct"], found["tokens"])
    none = torch.zeros(1, dtype=torch.float64)
    return torch.cat([torch.stack([found.get(name, none).sum() for name in _SUMS]), bins.flatten()])


def _against(logits: Tensor, said: AnyTargets, counted: Tensor, shared: int | None) -> Mapping[str, Tensor]:
    if shared is not None:
        said = SharedVocabulary(shared).teacher(said, Context(logits, counted.long()))
        logits = logits[..., :shared]
    assert isinstance(said, DenseTargets) or said.kind == "bucket"
    counted = counted if said.missing is None else counted & ~said.missing
    chosen = said.top1()
    five = logits.topk(min(_TOP, logits.shape[-1]), dim=-1)[1]
    return {
        "targets": counted,
        "top1": are_largest(chosen, logits, logits.amax(dim=-1, keepdim=True)) & counted,
        "top5": (five == chosen[:, None]).any(dim=-1) & counted,
        "kl": torch.where(counted, _KL(logits, said), 0.0),
        # min(p, q) = ½ (p + q - |p - q|).
        "overlap": torch.where(counted, 1.0 - _VARIATION(logits, said), 0.0),
    }


def _bins(confidence: Tensor, correct: Tensor, counted: Tensor) -> Tensor:
    """Number of positions, and sums of confidence and of correctness, in each bin, float64 `[3, bins]`."""
    edges = torch.linspace(0, 1, BINS + 1, dtype=torch.float32).double()  # those of torchmetrics, to the bit
    number = torch.bucketize(confidence, edges, right=True) - 1
    rows = torch.stack([counted, confidence * counted, correct])
    # Rounding may give more than 1.
    return torch.zeros(3, _SLOTS, dtype=torch.float64).index_add_(1, number.clamp(0, BINS), rows)


def _calibration_error(bins: Tensor) -> float:
    """Expected calibration error: |confidence - accuracy| over the bins, weighted by how many they hold."""
    count, confidence, correct = bins
    return float((confidence - correct).abs().sum() / count.sum())


def _exp(value: float) -> float:
    return math.exp(value) if value < 700 else math.inf
