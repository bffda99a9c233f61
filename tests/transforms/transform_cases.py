"""Problems to try transforms on, and float64 references in NumPy, written from the formulas."""

from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from pd_lightning.context import Context, Progress
from pd_lightning.losses import ForwardKL
from pd_lightning.targets import STATISTICS, DenseTargets, HiddenTargets, SparseTargets
from pd_lightning.targets.heads import Head
from pd_lightning.transforms import Transform

Array = NDArray[np.float64]
AnyTargets = DenseTargets | SparseTargets
DTYPES = [torch.float64, torch.float32, torch.bfloat16]
# Targets of a teacher in bfloat16 are in float32, and as exact as those of the same logits in float32.
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-6, torch.bfloat16: 1e-6}


class Problem(NamedTuple):
    """Logits of both sides `[N, V]`, and labels `[N]`, the last of them -100."""

    student: Array
    teacher: Array
    labels: NDArray[np.int64]


def problem(n: int = 6, v: int = 23, scale: float = 2.0, zeros: bool = False, seed: int = 0) -> Problem:
    """Make a problem; with zeros, a third of the ids are impossible, and in row 0 all but one."""
    rng = np.random.default_rng(seed)
    student, teacher = scale * rng.normal(size=(2, n, v))
    labels = rng.integers(0, v, n)
    labels[-1] = -100
    if zeros:
        teacher[:, rng.permutation(v)[: v // 3]] = -np.inf
        teacher[0] = np.where(np.arange(v) == teacher[0].argmax(), 1.0, -np.inf)
    return Problem(student, teacher, labels)


PROBLEMS = {
    "plain": problem(),
    "wide": problem(v=301, seed=1),
    "two ids": problem(v=2, seed=2),
    "flat": problem(scale=0.1, seed=3),
    "sure": problem(scale=30.0, seed=4),
}
ZEROS = {"zeros": problem(zeros=True, seed=5)}


def softmax(z: Array) -> Array:
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def log_softmax(z: Array) -> Array:
    z = z - z.max(-1, keepdims=True)
    return z - np.log(np.exp(z).sum(-1, keepdims=True))


def kl(p: Array, q: Array) -> Array:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(p > 0, p * (np.log(p) - np.log(q)), 0).sum(-1)


def entropy(p: Array) -> Array:
    return kl(p, np.ones_like(p)) * -1


def power(p: Array, exponent: Array | float) -> Array:
    raised = p ** np.reshape(exponent, (-1, 1))
    return raised / raised.sum(-1, keepdims=True)


def bucketed(p: Array, kept: NDArray[np.bool_]) -> Array:
    """The kept outcomes, and all others together: `[N, V+1]`."""
    return np.concatenate([p * kept, (p * ~kept).sum(-1, keepdims=True)], -1)


def tempered_kl(
    p: Problem, kind: str, kept: NDArray[np.bool_], teacher_tau: Array | float, student_tau: Array | float
) -> Array:
    """KL at a temperature of each side: dense, with a bucket, or of the kept ids alone."""
    teacher, student = softmax(p.teacher), softmax(p.student)
    if kind == "bucket":
        teacher, student = bucketed(teacher, kept), bucketed(student, kept)
    if kind == "renormalized":
        teacher = teacher * kept
    return kl(power(teacher, 1 / np.asarray(teacher_tau)), power(student, 1 / np.asarray(student_tau)))


def dense(p: Problem, dtype: torch.dtype = torch.float64) -> DenseTargets:
    """Targets as a teacher on the fly makes them of logits in some precision."""
    identity = Head(lambda hidden: hidden)
    return HiddenTargets(torch.tensor(p.teacher, dtype=dtype), identity).rows(slice(None))


def rounded(p: Problem, dtype: torch.dtype) -> Problem:
    """The problem with the teacher's logits as they are in some precision."""
    return p._replace(teacher=torch.tensor(p.teacher, dtype=dtype).double().numpy())


def stored(
    p: Problem, k: int, kind: str = "bucket", dtype: torch.dtype = torch.float64
) -> tuple[SparseTargets, NDArray[np.bool_]]:
    """Targets as a store gives them, with a slot less in use in every second row, and the mask of kept ids `[N, V]`."""
    logprobs = log_softmax(p.teacher)
    ids = np.argsort(-logprobs, -1, kind="stable")[:, :k]
    values = np.take_along_axis(logprobs, ids, -1)
    if k > 1:
        values[::2, -1] = -np.inf
    ids = np.where(values > -np.inf, ids, ids[:, :1])
    kept = np.zeros_like(logprobs, bool)
    np.put_along_axis(kept, ids, True, -1)
    kept &= logprobs > -np.inf
    probs = np.exp(logprobs)
    with np.errstate(divide="ignore", invalid="ignore"):
        log_tail = np.log((probs * ~kept).sum(-1))
        log_z = np.log(np.exp(p.teacher).sum(-1))
        figures = {
            "log_z": log_z,
            "mean": p.teacher.mean(-1) - log_z,
            "std": p.teacher.std(-1),
            "entropy": entropy(probs),
            "label_logprob": np.take_along_axis(logprobs, p.labels.clip(0)[:, None], -1)[:, 0],
        }
    assert set(figures) == set(STATISTICS)
    if kind == "renormalized":
        values = values - np.log((probs * kept).sum(-1, keepdims=True))
    targets = SparseTargets(
        torch.tensor(ids),
        torch.tensor(values, dtype=dtype),
        torch.tensor(log_tail, dtype=dtype) if kind == "bucket" else None,
        kind,  # type: ignore[arg-type]
        statistics={name: torch.tensor(values, dtype=dtype) for name, values in figures.items()},
    )
    return targets, kept


def context(p: Problem, student: torch.Tensor | None = None, **progress: Any) -> Context:
    logits = torch.tensor(p.student) if student is None else student
    return Context(logits, torch.tensor(p.labels), Progress(**progress))


def probabilities(targets: AnyTargets, v: int) -> Array:
    """Probabilities of the ids `[N, V]`, 0 where they are not kept; with a bucket, its own in one more column."""
    if isinstance(targets, DenseTargets):
        return targets.logprobs.double().exp().numpy()
    spread = torch.zeros(len(targets), v, dtype=torch.float64)
    spread.scatter_add_(-1, targets.ids, targets.logprobs.double().exp())
    if targets.log_tail is not None:
        spread = torch.cat([spread, targets.log_tail.double().exp().unsqueeze(-1)], -1)
    return spread.numpy()


def forward_kl(transform: Transform, targets: AnyTargets, p: Problem, dtype: torch.dtype) -> tuple[Array, Problem]:
    """The loss of each position on transformed targets, and the problem with the student's logits as rounded."""
    student = torch.tensor(p.student, dtype=dtype)
    loss = ForwardKL()(student, transform.teacher(targets, context(p, student)))
    return loss.double().numpy(), p._replace(student=student.double().numpy())


def narrowed(p: Problem, k: int, dtype: torch.dtype = torch.float64) -> SparseTargets:
    """The same ids as `stored` has, but kept on the fly: what the teacher's figures are, only its logits tell."""
    store, _ = stored(p, k, dtype=dtype)
    kept = dense(p, dtype).keep(store.ids, store.logprobs)
    return replace(kept, log_tail=store.log_tail, kind="bucket")
