"""Losses, the targets that they work with, and problems to try them on."""

from typing import Any, NamedTuple

import numpy as np
import torch
from loss_references import DIVERGENCES, Array, decoupled, log_softmax, outcomes, squared_error_of_logits
from torch import Tensor

from pd_lightning import losses
from pd_lightning.losses import Loss
from pd_lightning.targets import DenseTargets, SparseTargets

CASES: list[tuple[str, dict[str, Any], tuple[str, ...]]] = [
    ("ForwardKL", {}, ("dense", "bucket", "renormalized", "none", "sampled")),
    ("ReverseKL", {}, ("dense", "bucket")),
    ("JensenShannon", {}, ("dense", "bucket", "renormalized")),
    ("JensenShannon", {"beta": 0.1}, ("dense", "bucket", "renormalized")),
    ("SkewedForwardKL", {}, ("dense", "bucket", "renormalized")),
    ("SkewedForwardKL", {"skew": 0.7}, ("dense", "bucket", "renormalized")),
    ("SkewedReverseKL", {}, ("dense", "bucket", "renormalized")),
    ("SkewedReverseKL", {"skew": 0.7}, ("dense", "bucket", "renormalized")),
    ("SoftCrossEntropy", {}, ("dense", "bucket", "renormalized", "none", "sampled")),
    ("TotalVariation", {}, ("dense", "bucket", "renormalized")),
    ("MeanSquaredError", {}, ("dense", "bucket", "renormalized")),
    ("MeanSquaredError", {"reduction": "sum"}, ("dense", "bucket", "renormalized")),
    ("MeanSquaredError", {"space": "logits"}, ("dense", "bucket", "none")),
    ("MeanSquaredError", {"space": "logits", "reduction": "sum"}, ("dense", "bucket", "none")),
    ("DecoupledTopK", {}, ("bucket",)),
    ("TailAware", {"k": 2}, ("dense",)),
    ("TailAware", {"k": 2, "tail_weight": 0.0}, ("dense",)),
    ("TailAware", {"k": 1, "tail_weight": 2.5}, ("dense",)),
]
PAIRS = [(name, settings, kind) for name, settings, kinds in CASES for kind in kinds]
Pair = tuple[str, dict[str, Any], str]


def build(name: str, settings: dict[str, Any], **more: Any) -> Loss:
    return getattr(losses, name)(**settings, **more)


def label(value: Any) -> str:
    return ",".join(f"{k}={v}" for k, v in value.items()) or "default" if isinstance(value, dict) else str(value)


class Problem(NamedTuple):
    """Logits of both sides, float64 `[N, V]`; -inf on the teacher's side for probability 0."""

    student: Array
    teacher: Array

    @property
    def log_p(self) -> Array:
        return log_softmax(self.teacher)

    def top(self, k: int) -> np.ndarray:
        """Mask of the k most probable ids that are possible, fewer in every second row."""
        order = np.argsort(np.argsort(-self.teacher, axis=-1))
        few = np.where(np.arange(len(self.teacher)) % 2, max(1, k - 1), k)[:, None]
        return (order < (k if k >= self.teacher.shape[1] else few)) & (self.teacher > -np.inf)


def problem(n: int = 6, v: int = 23, scale: float = 3.0, zeros: bool = False, seed: int = 0) -> Problem:
    """Random logits, exact in float32; `zeros`: impossible ids in two rows, and one possible id alone in another."""
    student, teacher = np.random.default_rng(seed).normal(size=(2, n, v)).astype(np.float32).astype(np.float64)
    teacher = teacher * 3
    if zeros:
        teacher[:2, ::2] = -np.inf
        teacher[2] = np.where(np.arange(v) == 1, teacher[2], -np.inf)
    return Problem(student * scale, teacher)


def make(p: Problem, kind: str, k: int = 5, dtype: torch.dtype = torch.float32, **treatment: Any) -> Any:
    """Targets of a kind, and the mask of what they keep, which is all of dense ones."""
    log_z = np.logaddexp.reduce(p.teacher, axis=-1)
    statistics = {"log_z": torch.tensor(log_z, dtype=dtype), "mean": torch.tensor(p.log_p.mean(-1), dtype=dtype)}
    treatment = {"statistics": statistics, **treatment}
    if kind == "dense":
        return DenseTargets(torch.tensor(p.log_p, dtype=dtype), **treatment), p.teacher > -np.inf
    kept = p.top(k)
    logprobs = np.where(kept, p.log_p, -np.inf)
    if kind == "renormalized":
        logprobs = log_softmax(logprobs)
    order = np.argsort(-logprobs, axis=-1, kind="stable")[:, : kept.sum(-1).max()]
    rows = np.take_along_axis(logprobs, order, axis=-1)
    ids = np.where(rows > -np.inf, order, order[:, :1])
    log_tail = np.logaddexp.reduce(np.where(kept, -np.inf, p.log_p), axis=-1)
    tail = torch.tensor(log_tail, dtype=dtype) if kind == "bucket" else None
    return SparseTargets(torch.tensor(ids), torch.tensor(rows, dtype=dtype), tail, kind, **treatment), kept  # type: ignore[arg-type]


def expected(name: str, settings: dict[str, Any], kind: str, p: Problem, kept: Any, taus: Any, square: Any) -> Array:
    """The loss by its formula, times `square`."""
    if name == "DecoupledTopK":
        return decoupled(p.student, p.log_p, kept, taus, square)
    if settings.get("space") == "logits":
        return square * squared_error_of_logits(p.student, p.teacher, kept, taus, settings.get("reduction", "mean"))
    # Estimates from samples are compared as what does not sum to 1 is.
    log_q, log_p = outcomes(p.student, p.log_p, kept, "none" if kind == "sampled" else kind, taus)
    return square * DIVERGENCES[name](log_q, log_p, **settings)


def numbers(values: Any) -> Any:
    """A float64 tensor of each entry that is an array; what is a number stays one."""
    return tuple(torch.tensor(v) if isinstance(v, np.ndarray) else v for v in values)


def value_and_gradient(loss: Loss, student: Tensor, targets: Any) -> tuple[Tensor, Tensor]:
    student = student.detach().requires_grad_()
    value = loss(student, targets)
    (gradient,) = torch.autograd.grad(value.sum(), student)
    return value.detach(), gradient
