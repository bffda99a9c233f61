"""Standardize, NormKD, WTTM and AdaKD: the temperature of each side, seen through a reference of the whole loss."""

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from transform_cases import (
    PROBLEMS,
    ZEROS,
    Array,
    Problem,
    bucketed,
    context,
    dense,
    entropy,
    forward_kl,
    narrowed,
    power,
    softmax,
    stored,
    tempered_kl,
)

from pd_lightning.losses import ForwardKL
from pd_lightning.objective import Objective
from pd_lightning.targets import Form
from pd_lightning.targets.heads import Head
from pd_lightning.transforms import WTTM, AdaKD, NormKD, SampleTokens, Standardize, Temperature, TopPK, Transform

# What a transform does by its formula: the teacher's temperature, the student's, and the factor of the loss.
Formula = Callable[[Problem], tuple[Any, Any, Any]]


def deviation(z: Array) -> Array:
    return np.sqrt(((z - z.mean(-1, keepdims=True)) ** 2).mean(-1)) + 1e-7


def by_standardize(p: Problem) -> tuple[Any, Any, Any]:
    return deviation(p.teacher), deviation(p.student), 1.0


def by_norm_kd(scale: float, student: str) -> Formula:
    def formula(p: Problem) -> tuple[Any, Any, Any]:
        tau = scale * deviation(p.teacher)
        own = {"own": scale * deviation(p.student), "same": tau, "none": 1.0}[student]
        return tau, own, 1.0 if student == "none" else tau**2

    return formula


def by_ada_kd(by: str, easy: float, hard: float) -> Formula:
    def formula(p: Problem) -> tuple[Any, Any, Any]:
        if by == "student_loss":
            q = softmax(p.student)[np.arange(len(p.labels)), p.labels.clip(0)]
            difficulty = np.where(p.labels >= 0, 1 - q, 0)
        else:
            difficulty = entropy(softmax(p.teacher)) / np.log(p.teacher.shape[1])
        tau = easy + (hard - easy) * difficulty
        return tau, tau, tau**2

    return formula


ADAPTIVE: dict[str, tuple[Transform, Formula]] = {
    "Standardize": (Standardize(), by_standardize),
    "NormKD": (NormKD(), by_norm_kd(1.0, "own")),
    "NormKD 2": (NormKD(2.0), by_norm_kd(2.0, "own")),
    "NormKD same": (NormKD(1.5, "same"), by_norm_kd(1.5, "same")),
    "NormKD none": (NormKD(1.5, "none"), by_norm_kd(1.5, "none")),
    "AdaKD": (AdaKD(), by_ada_kd("teacher_entropy", 2.0, 0.5)),
    "AdaKD H": (AdaKD("teacher_entropy", 0.7, 3.0), by_ada_kd("teacher_entropy", 0.7, 3.0)),
    "AdaKD SD": (AdaKD("student_loss", 0.7, 3.0), by_ada_kd("student_loss", 0.7, 3.0)),
}
each_transform = pytest.mark.parametrize("name", ADAPTIVE)


@each_transform
@pytest.mark.parametrize("case", PROBLEMS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", ["dense", "bucket", "renormalized"])
def test_the_loss_equals_the_formula(name: str, case: str, dtype: torch.dtype, kind: Any) -> None:
    p = PROBLEMS[case]
    v = p.teacher.shape[1]
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    transform, formula = ADAPTIVE[name]
    for k in (1, 2, v) if kind != "dense" else (v,):
        targets, kept = (dense(p, wide), np.ones((1, 1), bool)) if kind == "dense" else stored(p, k, kind, wide)
        actual, rounded = forward_kl(transform, targets, p, dtype)
        teacher_tau, student_tau, factor = formula(rounded)
        expected = factor * tempered_kl(rounded, kind, kept, teacher_tau, student_tau)
        tolerance = 1e-9 if dtype == torch.float64 else 4e-6
        np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=tolerance * np.max(factor))


@pytest.mark.parametrize("by", ["student_loss", "teacher_entropy"])
def test_impossible_ids_do_not_disturb_the_difficulty(by: Any) -> None:
    p = ZEROS["zeros"]
    for kind, targets, kept in (("dense", dense(p), None), ("bucket", *stored(p, 5))):
        actual, _ = forward_kl(AdaKD(by), targets, p, torch.float64)
        teacher_tau, student_tau, factor = by_ada_kd(by, 2.0, 0.5)(p)
        kept = np.ones_like(p.teacher, bool) if kept is None else kept
        np.testing.assert_allclose(actual, factor * tempered_kl(p, kind, kept, teacher_tau, student_tau), atol=1e-9)


@each_transform
@pytest.mark.parametrize("k", [3, 23])
def test_targets_kept_on_the_fly_equal_stored_ones(name: str, k: int) -> None:
    p = PROBLEMS["plain"]
    actual, _ = forward_kl(ADAPTIVE[name][0], narrowed(p, k), p, torch.float64)
    np.testing.assert_allclose(actual, forward_kl(ADAPTIVE[name][0], stored(p, k)[0], p, torch.float64)[0], atol=1e-9)


@each_transform
@pytest.mark.parametrize("temperature_first", [False, True])
def test_a_temperature_beside_it_multiplies_both(name: str, temperature_first: bool) -> None:
    p = PROBLEMS["plain"]
    transform, formula = ADAPTIVE[name]
    student = torch.tensor(p.student)
    targets, ctx = dense(p), context(p, student)
    for one in (Temperature(3.0), transform) if temperature_first else (transform, Temperature(3.0)):
        targets = one.teacher(targets, ctx)  # type: ignore[assignment]
    teacher_tau, student_tau, factor = formula(p)
    expected = 9.0 * factor * tempered_kl(p, "dense", np.ones((1, 1), bool), 3.0 * teacher_tau, 3.0 * student_tau)
    np.testing.assert_allclose(ForwardKL()(student, targets).numpy(), expected, atol=1e-9)


@each_transform
@pytest.mark.parametrize("kind", ["dense", "bucket"])
def test_gradients_are_those_of_the_formula(name: str, kind: str) -> None:
    """Through the student's own deviation too; not through AdaKD's difficulty, which is a constant."""
    p = PROBLEMS["plain"]
    targets = dense(p) if kind == "dense" else stored(p, 4)[0]
    student = torch.tensor(p.student, requires_grad=True)
    transform = ADAPTIVE[name][0]
    constant = transform.teacher(targets, context(p, student.detach()))

    def loss(z: torch.Tensor) -> torch.Tensor:
        if isinstance(transform, AdaKD):
            return ForwardKL()(z, constant)
        return ForwardKL()(z, transform.teacher(targets, context(p, z)))

    assert torch.autograd.gradcheck(loss, (student,))
    (checked,) = torch.autograd.grad(loss(student).sum(), student)
    (actual,) = torch.autograd.grad(
        ForwardKL()(student, transform.teacher(targets, context(p, student))).sum(), student
    )
    torch.testing.assert_close(actual, checked)


@pytest.mark.parametrize("name", ["Standardize", "NormKD"])
def test_a_student_that_knows_nothing_yet_stays_finite(name: str) -> None:
    """A head of zeros gives equal logits, of which the deviation is 0."""
    p = PROBLEMS["plain"]
    student = torch.zeros(6, 23, requires_grad=True)
    for targets in (dense(p, torch.float32), stored(p, 5, dtype=torch.float32)[0]):
        loss = ForwardKL()(student, ADAPTIVE[name][0].teacher(targets, context(p, student)))
        (gradient,) = torch.autograd.grad(loss.sum(), student)
        assert loss.isfinite().all()
        assert gradient.isfinite().all()


@pytest.mark.parametrize("name", sorted(ADAPTIVE.keys() - {"NormKD none"}))  # which tempers one side alone
@pytest.mark.parametrize("kind", ["dense", "bucket"])
def test_equal_distributions_give_zero_and_no_gradient(name: str, kind: str) -> None:
    p = PROBLEMS["plain"]._replace(student=PROBLEMS["plain"].teacher)
    targets = dense(p) if kind == "dense" else stored(p, 4)[0]
    student = torch.tensor(p.student, requires_grad=True)
    loss = ForwardKL()(student, ADAPTIVE[name][0].teacher(targets, context(p, student)))
    (gradient,) = torch.autograd.grad(loss.sum(), student)
    assert loss.abs().max() < 1e-12
    assert gradient.abs().max() < 1e-12


@pytest.mark.parametrize("gamma", [0.25, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("case", PROBLEMS | ZEROS)
@pytest.mark.parametrize("kind", ["dense", "bucket", "renormalized"])
def test_wttm(gamma: float, case: str, kind: Any) -> None:
    p = (PROBLEMS | ZEROS)[case]
    targets, kept = (dense(p), np.ones_like(p.teacher, bool)) if kind == "dense" else stored(p, 5, kind)
    student = torch.tensor(p.student)
    treated = WTTM(gamma).teacher(targets, context(p, student))
    teacher, own = softmax(p.teacher), softmax(p.student)
    if kind == "bucket":
        teacher, own = bucketed(teacher, kept), bucketed(own, kept)
    if kind == "renormalized":
        teacher = teacher * kept / (teacher * kept).sum(-1, keepdims=True)
    assert treated.weight is not None
    np.testing.assert_allclose(treated.weight.numpy(), (teacher**gamma).sum(-1), rtol=1e-9)
    pure = power(teacher, gamma)
    with np.errstate(divide="ignore", invalid="ignore"):
        expected = np.where(pure > 0, pure * (np.log(pure) - np.log(own)), 0).sum(-1)
    np.testing.assert_allclose(ForwardKL()(student, treated).numpy(), expected, rtol=1e-9, atol=1e-12)


def test_the_objective_applies_the_weights_of_wttm() -> None:
    p = PROBLEMS["plain"]
    student = torch.tensor(p.student)
    head = Head(lambda hidden: hidden, (), 23)
    terms = Objective(transforms={"wttm": WTTM(0.5)})(student[None], head, torch.tensor(p.labels)[None], dense(p), 1.0)
    teacher = softmax(p.teacher)
    pure = power(teacher, 0.5)
    loss = (pure * (np.log(pure) - np.log(softmax(p.student)))).sum(-1) * np.sqrt(teacher).sum(-1)
    assert terms.kd_loss is not None
    assert terms.kd_loss.item() == pytest.approx(loss[:-1].sum())  # the last position has no label


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: NormKD(0.0), "scale must be positive, got 0.0. Set init_args.scale of NormKD"),
        (lambda: NormKD(float("nan")), "scale must be positive, got nan"),
        (lambda: WTTM(-1.0), "gamma must be positive, got -1.0. Set init_args.gamma of WTTM"),
        (lambda: AdaKD(easy=0.0), "easy must be positive, got 0.0. Set init_args.easy of AdaKD"),
        (lambda: AdaKD(hard=-2.0), "hard must be positive, got -2.0. Set init_args.hard of AdaKD"),
    ],
)
def test_bad_settings(build: Callable[[], Transform], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()


WHO = {"standardize": Standardize(), "norm": NormKD(), "wttm": WTTM(), "ada": AdaKD()}


@pytest.mark.parametrize("second", WHO)
@pytest.mark.parametrize("first", WHO)
def test_there_can_be_one_of_them(first: str, second: str) -> None:
    name = type(WHO[second]).__name__
    rule = "targets at temperature 1" if second == "wttm" else "the one transform that finds temperatures"
    with pytest.raises(ValueError, match=f"{name} must (have|be) {rule}, got .* before it"):
        Objective(transforms={"first": WHO[first], "second": WHO[second]})


@pytest.mark.parametrize("who", WHO)
def test_what_cannot_be_tempered(who: str) -> None:
    name = type(WHO[who]).__name__
    with pytest.raises(ValueError, match=f"{name} must have the tail of truncated targets"):
        Objective(transforms={"truncate": TopPK(0.9, tail="none"), "adapt": WHO[who]})
    with pytest.raises(ValueError, match=f"{name} must have the teacher's probabilities, got estimates"):
        Objective(transforms={"sample": SampleTokens(), "adapt": WHO[who]})


@pytest.mark.parametrize(
    ("transform", "column"),
    [(Standardize(), "std"), (NormKD(), "std"), (AdaKD("teacher_entropy"), "entropy")],
)
def test_columns_that_a_store_lacks(transform: Transform, column: str) -> None:
    name = type(transform).__name__
    with pytest.raises(ValueError, match=f"{name}.* must have the teacher's {column} at each position, got "):
        transform.form(Form("bucket", frozenset({"log_z"})))
    assert transform.form(Form("bucket", None)).tempered


@pytest.mark.parametrize("transform", [WTTM(), AdaKD("student_loss")])
def test_those_that_need_no_column(transform: Transform) -> None:
    assert transform.form(Form("bucket", frozenset())).divided_by == type(transform).__name__


def test_a_temperature_before_wttm() -> None:
    with pytest.raises(
        ValueError, match=r"WTTM must have targets at temperature 1, .* temperature of 1/gamma\. Keep one"
    ):
        Objective(transforms={"temperature": Temperature(2.0), "wttm": WTTM()})


def test_standardized_targets_say_so() -> None:
    p = PROBLEMS["plain"]
    assert Standardize().form(Form("dense")).standardized
    assert Standardize().teacher(dense(p), context(p)).standardized


@pytest.mark.parametrize(
    ("transform", "said"),
    [(Standardize(), True), (NormKD(), True), (NormKD(student="same"), False), (NormKD(student="none"), False)],
)
@pytest.mark.parametrize("kind", ["bucket", "renormalized", "dense"])
def test_a_bucket_has_no_deviation_of_its_own(transform: Transform, said: bool, kind: Any) -> None:
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        transform.form(Form(kind))
    assert len(told) == (said and kind == "bucket")
    assert all("Set init_args.tail of the truncation to uniform" in str(warning.message) for warning in told)
