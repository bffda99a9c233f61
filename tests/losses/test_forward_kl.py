"""Forward KL against a float64 reference written from the formula in NumPy."""

import numpy as np
import pytest
import torch
from torch import Tensor

from pd_lightning.losses import ForwardKL
from pd_lightning.targets import DenseTargets, SparseTargets
from pd_lightning.transforms import Temperature, TopPK

V, N = 23, 6


def softmax(z: np.ndarray) -> np.ndarray:
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def kl(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(p > 0, p * (np.log(p) - np.log(q)), 0).sum(-1)


def reference(student: np.ndarray, teacher: np.ndarray, kept: np.ndarray, tail: str, tau: float) -> np.ndarray:
    """KL over the outcomes that the tail rule leaves; kept is a mask [N, V]."""
    p, q = softmax(teacher), softmax(student)
    if tail == "bucket":
        outcomes = [np.concatenate([x * kept, (x * ~kept).sum(-1, keepdims=True)], -1) for x in (p, q)]
        p, q = (x ** (1 / tau) / (x ** (1 / tau)).sum(-1, keepdims=True) for x in outcomes)
        return tau**2 * kl(p, q)
    q = softmax(student / tau)
    p = (p * kept) ** (1 / tau)
    return tau**2 * kl(p / p.sum(-1, keepdims=True), q)


@pytest.fixture
def logits() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return tuple(3 * torch.randn(2, N, V, generator=generator))  # type: ignore[return-value]


def dense(teacher: Tensor) -> DenseTargets:
    return DenseTargets(teacher.log_softmax(-1))


def kept_mask(targets: SparseTargets) -> np.ndarray:
    mask = torch.zeros(N, V, dtype=torch.bool)
    return mask.scatter(-1, targets.ids, True).numpy()


@pytest.mark.parametrize("tau", [0.5, 1.0, 4.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dense_equals_the_formula(logits: tuple[Tensor, Tensor], tau: float, dtype: torch.dtype) -> None:
    student, teacher = logits[0].to(dtype), logits[1]
    targets = Temperature(tau).teacher(dense(teacher))
    expected = reference(student.double().numpy(), teacher.double().numpy(), np.ones((N, V), bool), "renormalize", tau)
    actual = ForwardKL()(student, targets)
    assert actual.dtype == torch.float32
    np.testing.assert_allclose(actual.numpy(), expected, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("tail", ["bucket", "renormalize"])
@pytest.mark.parametrize("tau", [0.5, 1.0, 4.0])
@pytest.mark.parametrize("k", [1, 5, V])
@pytest.mark.parametrize("p", [0.6, 1.0])
def test_truncated_equals_the_formula(logits: tuple[Tensor, Tensor], tail: str, tau: float, k: int, p: float) -> None:
    student, teacher = logits
    truncated = TopPK(p, k, tail=tail).teacher(dense(teacher))  # type: ignore[arg-type]
    assert isinstance(truncated, SparseTargets)
    actual = ForwardKL()(student, Temperature(tau).teacher(truncated))
    expected = reference(student.double().numpy(), teacher.double().numpy(), kept_mask(truncated), tail, tau)
    np.testing.assert_allclose(actual.numpy(), expected, rtol=1e-5, atol=2e-6)


def test_all_ids_kept_equals_dense(logits: tuple[Tensor, Tensor]) -> None:
    student, teacher = (x.double().requires_grad_() for x in logits)
    sparse = TopPK(1.0, V).teacher(dense(teacher.detach()))
    whole = ForwardKL()(student, dense(teacher.detach()))
    (expected,) = torch.autograd.grad(whole.sum(), student)
    kept = ForwardKL()(student, sparse)
    (actual,) = torch.autograd.grad(kept.sum(), student)
    torch.testing.assert_close(kept, whole)
    torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize("tau", [1.0, 2.0])
@pytest.mark.parametrize("k", [3, V, None])
def test_equal_distributions_give_zero_and_no_gradient(
    logits: tuple[Tensor, Tensor], tau: float, k: int | None
) -> None:
    student = logits[0].double().requires_grad_()
    targets = dense(student.detach())
    loss = ForwardKL()(student, Temperature(tau).teacher(TopPK(1.0, k).teacher(targets) if k else targets))
    (gradient,) = torch.autograd.grad(loss.sum(), student)
    assert loss.abs().max() < 1e-12
    assert gradient.abs().max() < 1e-12


@pytest.mark.parametrize("tail", ["bucket", "renormalize", "none"])
@pytest.mark.parametrize("tau", [1.0, 2.0])
def test_gradcheck(logits: tuple[Tensor, Tensor], tail: str, tau: float) -> None:
    student = logits[0].double().requires_grad_()
    truncated = TopPK(0.7, 5, tail=tail).teacher(dense(logits[1].double()))  # type: ignore[arg-type]
    targets = Temperature(tau).teacher(truncated)
    assert torch.autograd.gradcheck(lambda z: ForwardKL()(z, targets), student)


def test_a_sure_teacher_and_a_sure_student_stay_finite() -> None:
    """One-hot rows: all mass on one id on the teacher's side, and 1 - Σ q = 0 in float32 on the student's."""
    teacher = torch.full((2, V), -torch.inf)
    teacher[:, 4] = 0.0
    student = torch.zeros(2, V)
    student[0, 4] = 200.0
    student.requires_grad_()
    loss = ForwardKL()(student, TopPK(0.9, 5).teacher(DenseTargets(teacher)))
    loss.sum().backward()
    torch.testing.assert_close(loss.detach(), torch.tensor([0.0, float(np.log(V))]))
    assert student.grad is not None
    assert student.grad.isfinite().all()


def test_temperature_options_are_explicit(logits: tuple[Tensor, Tensor]) -> None:
    student, teacher = logits
    targets = Temperature(2.0).teacher(dense(teacher))
    p, z = softmax(teacher.double().numpy() / 2), student.double().numpy()
    with pytest.raises(ValueError, match="temperature_squared must be false where student_temperature is"):
        ForwardKL(student_temperature=False)
    cases = {(True, False): softmax(z / 2), (False, False): softmax(z), (True, True): softmax(z / 2)}
    for (on_student, squared), q in cases.items():
        actual = ForwardKL(student_temperature=on_student, temperature_squared=squared)(student, targets)
        np.testing.assert_allclose(actual.numpy(), kl(p, q) * (4 if squared else 1), rtol=2e-6, atol=2e-6)
