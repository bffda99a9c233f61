"""From figures of single positions to what is logged: means, medians, buckets, and values for histograms."""

from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import Tensor

from pd_lightning.callbacks.logits_sample import POSITION
from pd_lightning.objective.logits_figures import UNKNOWN

# Limits of the buckets: of the teacher's entropy in nats, and of the position in the block.
ENTROPIES = (0.0, 0.5, 1.0, 2.0, 4.0)
POSITIONS = (0, 16, 64, 256, 1024, 4096)
HISTOGRAMS = (
    "student_entropy",
    "teacher_entropy",
    "student_max_probability",
    "teacher_max_probability",
    "student_label_rank",
    "teacher_label_rank",
    "student_logits",
    "teacher_logits",
    "kept_ids",
    "kl",
)
_GRADIENTS = {"lm_gradient", "kd_gradient", "gradient_product"}
_NO_MEAN = {POSITION, "student_logits", "teacher_logits", *_GRADIENTS}


def scalars(figures: dict[str, Tensor]) -> dict[str, float]:
    """Summarise figures of n positions.

    Args:
        figures: As of `logits_figures`, with the position in the block, float `[n]` each.

    Returns:
        What is known, by name: docs/statistics.md has the names.
    """
    found = {name: _known(values).mean() for name, values in figures.items() if name not in _NO_MEAN}
    for side in ("student", "teacher"):
        if f"{side}_label_rank" in figures:
            found[f"{side}_label_rank_median"] = _known(figures[f"{side}_label_rank"]).quantile(
                0.5, interpolation="lower"
            )
    found |= dict(_buckets(figures)) | dict(_gradients(figures))
    # A rank is infinite where it is not known how much beyond the kept ids a label is.
    return {name: float(value) for name, value in found.items() if not ("rank" in name and value.isinf())}


def samples(figures: dict[str, Tensor]) -> dict[str, Tensor]:
    """Give the finite values of the figures that histograms are made of, float `[m]` each."""
    values = {name: figures[name].flatten() for name in HISTOGRAMS if name in figures}
    finite = {name: some[some.isfinite()] for name, some in values.items()}
    return {name: some for name, some in finite.items() if len(some)}


def _buckets(figures: dict[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    if "kl" not in figures:
        return
    for name, by, limits in (("entropy", "teacher_entropy", ENTROPIES), ("position", POSITION, POSITIONS)):
        if by not in figures:
            continue
        for low, high in pairwise((*limits, torch.inf)):
            inside = (figures["kl"] != UNKNOWN) & (figures[by] >= low) & (figures[by] < high)
            if inside.any():
                yield f"kl_by_{name}/{bucket(low, high)}", figures["kl"][inside].mean()


def bucket(low: float, high: float) -> str:
    """Name a bucket from its lower limit, inside, to its upper one, outside."""
    return f"from_{low:g}" if high == torch.inf else f"{low:g}_to_{high:g}"


def _gradients(figures: dict[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    if "lm_gradient" in figures:
        yield "lm_gradient_norm", _known(figures["lm_gradient"]).mean().sqrt()
    if "kd_gradient" in figures:
        both = figures["kd_gradient"] != UNKNOWN
        lm, kd = (figures[name][both].sum() for name in ("lm_gradient", "kd_gradient"))
        yield "kd_gradient_norm", figures["kd_gradient"][both].mean().sqrt()
        yield "gradient_cosine", figures["gradient_product"][both].sum() / (lm * kd).sqrt()


def _known(values: Tensor) -> Tensor:
    return values[values != UNKNOWN]
