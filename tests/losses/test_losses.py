"""Every loss with every kind of targets: against float64 references written from the formulas, its zero, its limits."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from loss_cases import CASES, PAIRS, Problem, build, expected, label, make, problem, value_and_gradient

from pd_lightning import losses
from pd_lightning.losses import Loss
from pd_lightning.targets import Form

N, V = 6, 23
each_pair = pytest.mark.parametrize(("name", "settings", "kind"), PAIRS, ids=label)
COLD_AND_HOT = np.array([0.5, 1.0, 1.5, 2.0, 5.0, 0.8])
TAUS: dict[str, tuple[Any, Any]] = {
    "0.5": (0.5, 0.5),
    "1": (1.0, 1.0),
    "2": (2.0, 2.0),
    "5": (5.0, 5.0),
    "positions": (COLD_AND_HOT, COLD_AND_HOT),
    "student alone": (COLD_AND_HOT[::-1].copy(), 1.0),
    "two numbers": (0.5, 2.0),
    "two tensors": (COLD_AND_HOT[::-1].copy(), COLD_AND_HOT),
}
# Problem, ids to keep, dtype of the student's logits.
TRIALS = {
    "one kept": (problem(), 1, torch.float32),
    "plain": (problem(seed=1), 5, torch.float32),
    "all kept": (problem(seed=2), V, torch.float32),
    "bfloat16": (problem(seed=3), 5, torch.bfloat16),
    "wide": (problem(v=301, seed=4), 50, torch.float32),
    "two ids": (problem(v=2, seed=5), 1, torch.float32),
    "both ids": (problem(v=2, seed=5), 2, torch.float32),
    "zeros": (problem(zeros=True, seed=6), 5, torch.float32),
    "zeros, all kept": (problem(zeros=True, seed=7), V, torch.float32),
    "sure student": (problem(scale=200.0, seed=8), 5, torch.float32),
    "sure student, zeros": (problem(scale=200.0, zeros=True, seed=9), 5, torch.bfloat16),
}


def temperable(settings: dict[str, Any], kind: str) -> bool:
    """Whether transforms let such targets have a temperature."""
    return kind not in ("none", "sampled") or settings.get("space") == "logits"


def tensors(taus: tuple[Any, Any], dtype: torch.dtype = torch.float32) -> dict[str, Any]:
    """Treatment that asks for temperatures of the student and of the teacher, and for the teacher's square."""
    own, teacher = (torch.tensor(t, dtype=dtype) if isinstance(t, np.ndarray) else t for t in taus)
    same = taus[0] is taus[1]
    return {"student_temperature": None if same else own, "temperature": teacher, "compensation": teacher**2}


@pytest.mark.parametrize(
    ("name", "settings", "kind", "taus"),
    [(*pair, taus) for pair in PAIRS for taus in TAUS if temperable(*pair[1:]) or taus in ("1", "student alone")],
    ids=label,
)
def test_equals_the_formula(name: str, settings: dict[str, Any], kind: str, taus: str) -> None:
    """To 1e-6 of the loss before it is multiplied by temperature², in bfloat16 too: it is computed in float32."""
    own, teacher = TAUS[taus]
    square = np.square(teacher)
    for trial, (p, k, dtype) in TRIALS.items():
        student = torch.tensor(p.student, dtype=dtype)
        targets, kept = make(p, kind, k, **tensors((own, teacher)))
        actual, gradient = value_and_gradient(build(name, settings), student, targets)
        rounded = Problem(student.double().numpy(), p.teacher)
        by_formula = expected(name, settings, kind, rounded, kept, (own, teacher), square)
        assert actual.dtype == torch.float32
        allowed = 1e-6 * (np.maximum(square, 1.0) + np.abs(by_formula))
        assert (np.abs(actual.numpy() - by_formula) <= allowed).all(), f"{trial}: {actual.numpy()}, not {by_formula}"
        assert gradient.isfinite().all(), trial


@each_pair
@pytest.mark.parametrize("follows", [False, True])
def test_gradcheck(name: str, settings: dict[str, Any], kind: str, follows: bool) -> None:
    """Zero, one-hot and ordinary rows; `follows`: the student's temperature follows from its logits."""
    p = problem(n=4, v=5, zeros=True, seed=6)
    teacher = torch.tensor([0.5, 2.0, 1.5, 0.8]) if temperable(settings, kind) else 1.0
    targets, _ = make(p, kind, 3, torch.float64, temperature=teacher, compensation=3.0)
    loss = build(name, settings)

    def compute(z: torch.Tensor) -> torch.Tensor:
        own = z.std(dim=-1, correction=0) if follows else torch.tensor([1.5, 0.6, 1.0, 2.0])
        return loss(z, replace(targets, student_temperature=own))

    assert torch.autograd.gradcheck(compute, torch.tensor(p.student, requires_grad=True))


@pytest.mark.parametrize(
    ("name", "settings", "kind"),
    [x for x in PAIRS if x[2] in ("dense", "bucket") and x[0] != "TotalVariation"],
    ids=label,
)
@pytest.mark.parametrize("taus", ["0.5", "1", "5", "positions"])
@pytest.mark.parametrize("k", [1, 5, V])
def test_equal_distributions_give_zero_and_no_gradient(
    name: str, settings: dict[str, Any], kind: str, taus: str, k: int
) -> None:
    p = problem()
    targets, _ = make(p, kind, k, torch.float64, **tensors(TAUS[taus], torch.float64))
    value, gradient = value_and_gradient(build(name, settings), torch.tensor(p.teacher), targets)
    assert gradient.abs().max() < 1e-11
    if name != "SoftCrossEntropy":
        assert value.abs().max() < 1e-11


def test_equal_distributions_have_no_total_variation() -> None:
    p = problem()
    targets, _ = make(p, "bucket", 5, torch.float64)
    assert losses.TotalVariation()(torch.tensor(p.teacher), targets).max() < 1e-12


SPARSE = [(name, settings, kind) for name, settings, kind in PAIRS if kind not in ("dense", "sampled")]


@pytest.mark.parametrize(("name", "settings", "kind"), [x for x in SPARSE if x[0] != "DecoupledTopK"], ids=label)
@pytest.mark.parametrize("taus", ["0.5", "1", "two tensors"])
def test_all_ids_kept_equals_dense(name: str, settings: dict[str, Any], kind: str, taus: str) -> None:
    treatment = tensors(TAUS[taus], torch.float64) if temperable(settings, kind) else {}
    p = problem()
    (sparse, _), (dense, _) = (make(p, x, V, torch.float64, **treatment) for x in (kind, "dense"))
    actual, expected = (value_and_gradient(build(name, settings), torch.tensor(p.student), x) for x in (sparse, dense))
    torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize("log_tail", [-16.0, -8.0])
def test_rounding_leaves_no_tail_where_all_ids_are_kept(log_tail: float) -> None:
    """One minus what is kept is some 1e-7 in float32 where it is 0; the student has nothing to set against it."""
    p = problem()
    targets, _ = make(p, "bucket", V)
    student = torch.tensor(p.student)
    without = [value_and_gradient(build(*case[:2]), student, targets) for case in CASES if "bucket" in case[2]]
    targets.log_tail = torch.full((N,), log_tail)
    with_tail = [value_and_gradient(build(*case[:2]), student, targets) for case in CASES if "bucket" in case[2]]
    torch.testing.assert_close(with_tail, without, rtol=0, atol=0)


@pytest.mark.parametrize(("name", "settings"), [(name, settings) for name, settings, _ in CASES], ids=label)
@pytest.mark.parametrize("student_temperature", [True, False])
@pytest.mark.parametrize("squared", [True, False])
def test_temperature_options_are_explicit(
    name: str, settings: dict[str, Any], student_temperature: bool, squared: bool
) -> None:
    if squared and not student_temperature:
        with pytest.raises(
            ValueError, match="temperature_squared must be false where student_temperature is, got true"
        ):
            build(name, settings, student_temperature=False)
        return
    p = problem()
    kind = "bucket" if name == "DecoupledTopK" else "dense"
    targets, kept = make(p, kind, **tensors((2.0, 2.0)))
    loss = build(name, settings, student_temperature=student_temperature, temperature_squared=squared)
    taus = 2.0 if student_temperature else 1.0, 2.0
    by_formula = expected(name, settings, kind, p, kept, taus, 4.0 if squared else 1.0)
    np.testing.assert_allclose(loss(torch.tensor(p.student).float(), targets).numpy(), by_formula, rtol=1e-6, atol=1e-6)


def refusal(loss: Loss, form: Form) -> str:
    with pytest.raises(ValueError, match=r"must") as caught:
        loss.check(form)
    return str(caught.value)


@pytest.mark.parametrize(("name", "settings", "kinds"), CASES, ids=label)
@pytest.mark.parametrize("kind", ["dense", "bucket", "renormalized", "none", "sampled"])
def test_an_impossible_pair_is_refused(name: str, settings: dict[str, Any], kinds: tuple[str, ...], kind: Any) -> None:
    loss = build(name, settings)
    if kind in kinds:
        loss.check(Form(kind, vocab_size=V))
        return
    message = refusal(loss, Form(kind))
    listed = kinds[0] if len(kinds) == 1 else f"{', '.join(kinds[:-1])} or {kinds[-1]}"
    assert message.startswith(name)
    assert f"must have {listed} targets, got {kind} ones. " in message


@pytest.mark.parametrize(
    ("loss", "kind", "instead"),
    [
        (
            losses.ReverseKL(),
            "renormalized",
            "infinite where the teacher gives none. Set init_args.tail of the truncation",
        ),
        (losses.ReverseKL(), "none", "SkewedReverseKL, which stays finite with renormalised targets, or to ForwardKL."),
        (
            losses.JensenShannon(),
            "sampled",
            "leave SampleTokens out, or set model.loss to pd_lightning.losses.ForwardKL",
        ),
        (losses.TotalVariation(), "none", "Set init_args.tail of the truncation to bucket"),
        (losses.MeanSquaredError(), "sampled", "leave SampleTokens out"),
        (
            losses.MeanSquaredError("logits"),
            "renormalized",
            "tail of the truncation to bucket or none, or set model.loss",
        ),
        (losses.DecoupledTopK(), "dense", "Put pd_lightning.transforms.TopK with init_args.tail bucket into"),
        (
            losses.TailAware(),
            "bucket",
            "Set model.teacher to pd_lightning.teachers.FrozenTeacher and leave the truncation",
        ),
    ],
)
def test_a_refusal_says_what_to_use(loss: Loss, kind: Any, instead: str) -> None:
    assert instead in refusal(loss, Form(kind))
