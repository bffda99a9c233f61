"""What the formulas say of one another, and of their bounds."""

import math
from typing import Any

import pytest
import torch
from loss_cases import Problem, make, problem, value_and_gradient
from torch import Tensor

from pd_lightning.losses import (
    DecoupledTopK,
    ForwardKL,
    JensenShannon,
    Loss,
    MeanSquaredError,
    ReverseKL,
    SkewedForwardKL,
    SkewedReverseKL,
    SoftCrossEntropy,
    TailAware,
    TotalVariation,
)
from pd_lightning.targets import Form

K, V = 5, 23
P = problem()
STUDENT = torch.tensor(P.student)
TEMPERED: dict[str, Any] = {"temperature": 2.0, "compensation": 4.0}


def both(loss: Loss, kind: str, k: int = K, **treatment: Any) -> tuple[Tensor, Tensor]:
    return value_and_gradient(loss, STUDENT, make(P, kind, k, torch.float64, **treatment)[0])


@pytest.mark.parametrize("treatment", [{}, TEMPERED])
@pytest.mark.parametrize("kind", ["dense", "bucket", "renormalized"])
def test_soft_cross_entropy_is_forward_kl_plus_the_entropy_of_the_targets(kind: str, treatment: dict) -> None:
    (soft, gradient), (kl, expected) = (both(loss, kind, **treatment) for loss in (SoftCrossEntropy(), ForwardKL()))
    targets, _ = make(P, kind, K, torch.float64, **treatment)
    square = treatment.get("compensation", 1.0)
    own = [targets.logprobs] if kind != "bucket" else [targets.logprobs, targets.log_tail[:, None]]
    log_p = (torch.cat(own, dim=-1) / treatment.get("temperature", 1.0)).log_softmax(-1)
    entropy = -(log_p.exp() * log_p).nan_to_num().sum(-1)
    torch.testing.assert_close(soft, kl + square * entropy)
    torch.testing.assert_close(gradient, expected)


@pytest.mark.parametrize("kind", ["dense", "bucket"])
@pytest.mark.parametrize(("beta", "limit"), [(1e-8, ForwardKL()), (1 - 1e-8, ReverseKL())])
def test_jensen_shannon_lies_between_forward_and_reverse_kl(kind: str, beta: float, limit: Loss) -> None:
    value, gradient = both(JensenShannon(beta), kind)
    share = min(beta, 1 - beta)
    torch.testing.assert_close((value / share, gradient / share), both(limit, kind), rtol=2e-3, atol=1e-3)


@pytest.mark.parametrize("kind", ["dense", "bucket"])
@pytest.mark.parametrize(
    ("skewed", "plain"), [(SkewedForwardKL(1e-9), ForwardKL()), (SkewedReverseKL(1e-9), ReverseKL())]
)
def test_without_skew_it_is_the_plain_divergence(kind: str, skewed: Loss, plain: Loss) -> None:
    torch.testing.assert_close(both(skewed, kind), both(plain, kind), rtol=1e-4, atol=1e-4)


def test_jensen_shannon_is_symmetric() -> None:
    there = make(P, "dense", dtype=torch.float64)[0]
    back = make(Problem(P.teacher, P.student), "dense", dtype=torch.float64)[0]
    torch.testing.assert_close(JensenShannon()(STUDENT, there), JensenShannon()(torch.tensor(P.teacher), back))


@pytest.mark.parametrize(
    ("loss", "most"),
    [
        (JensenShannon(), math.log(2)),
        (SkewedForwardKL(0.1), -math.log(0.1)),
        (SkewedReverseKL(0.3), -math.log(0.3)),
        (TotalVariation(), 1.0),
        (MeanSquaredError(reduction="sum"), 2.0),
    ],
)
@pytest.mark.parametrize("kind", ["dense", "bucket", "renormalized"])
def test_nothing_in_common_gives_the_bound(loss: Loss, most: float, kind: str) -> None:
    """A teacher and a student who are sure of different ids: the most that the loss can be, with finite gradients."""
    teacher = torch.full((1, V), -torch.inf)
    teacher[0, 3] = 0.0
    student = torch.full((1, V), -200.0)
    student[0, 4] = 200.0
    targets, _ = make(Problem(student.numpy(), teacher.numpy()), kind)
    value, gradient = value_and_gradient(loss, student, targets)
    torch.testing.assert_close(value, torch.tensor([most]))
    assert gradient.isfinite().all()


def test_reverse_kl_from_a_sure_teacher_is_large_but_finite() -> None:
    teacher = torch.full((1, V), -torch.inf)
    teacher[0, 3] = 0.0
    targets, _ = make(Problem(torch.zeros(1, V).numpy(), teacher.numpy()), "bucket")
    value, gradient = value_and_gradient(ReverseKL(), torch.zeros(1, V), targets)
    others = (V - 1) / V
    entropy = -others * math.log(others) + math.log(V) / V
    torch.testing.assert_close(value, torch.tensor([others * 100 - entropy]))
    assert gradient.isfinite().all()
    assert gradient[0, 3] < 0


def test_reverse_kl_counts_what_float32_still_tells_from_zero() -> None:
    teacher = torch.tensor([[0.0, -99.0]])
    targets, _ = make(Problem(torch.zeros(1, 2).numpy(), teacher.numpy()), "dense", dtype=torch.float64)
    value, _ = value_and_gradient(ReverseKL(), torch.zeros(1, 2), targets)
    assert value.item() == pytest.approx(49.5 - math.log(2))


def test_decoupled_top_k_is_forward_kl_with_a_bucket_at_temperature_1() -> None:
    torch.testing.assert_close(both(DecoupledTopK(), "bucket"), both(ForwardKL(), "bucket"))


def test_decoupled_top_k_of_all_ids_is_dense_forward_kl_at_any_temperature() -> None:
    expected = both(ForwardKL(), "dense", **TEMPERED)
    torch.testing.assert_close(both(DecoupledTopK(), "bucket", V, **TEMPERED), expected)


def test_decoupled_top_k_tempers_and_compensates_the_kept_ids_alone() -> None:
    """One kept id has nothing within: only the masses are left, which no temperature touches."""
    torch.testing.assert_close(both(DecoupledTopK(), "bucket", 1, **TEMPERED), both(ForwardKL(), "bucket", 1))


@pytest.mark.parametrize("treatment", [{}, TEMPERED])
@pytest.mark.parametrize("k", [1, 7, V])
def test_tail_aware_with_weight_1_is_forward_kl(k: int, treatment: dict) -> None:
    torch.testing.assert_close(both(TailAware(k), "dense", **treatment), both(ForwardKL(), "dense", **treatment))


def test_tail_aware_without_weight_is_the_bucket() -> None:
    p = problem(n=1)  # one row, of which all k are kept
    student = torch.tensor(p.student)
    dense, bucket = (make(p, kind, K, torch.float64)[0] for kind in ("dense", "bucket"))
    expected = value_and_gradient(ForwardKL(), student, bucket)
    torch.testing.assert_close(value_and_gradient(TailAware(K, 0.0), student, dense), expected)


def test_tail_aware_keeps_at_most_the_vocabulary() -> None:
    TailAware(V).check(Form("dense", vocab_size=V))
    with pytest.raises(ValueError, match=rf"k must be at most the size of the vocabulary, got 24 for {V} ids. Lower"):
        TailAware(V + 1).check(Form("dense", vocab_size=V))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda: JensenShannon(0.0),
            r"beta must be above 0 and below 1, got 0.0. Set model.loss.init_args.beta to 0.5",
        ),
        (lambda: JensenShannon(1.0), r"ForwardKL or ReverseKL, its limits at 0 and 1"),
        (lambda: JensenShannon(float("nan")), r"beta must be above 0 and below 1, got nan"),
        (lambda: SkewedForwardKL(0.0), r"skew must be above 0 and below 1, got 0.0. .*ForwardKL for no skew"),
        (lambda: SkewedReverseKL(1.0), r"skew must be above 0 and below 1, got 1.0. .*ReverseKL for no skew"),
        (lambda: TailAware(0), r"k must be at least 1, got 0. Set model.loss.init_args.k, 10 say"),
        (lambda: TailAware(tail_weight=-1.0), r"tail_weight must be a number of at least 0, got -1.0. Set model.loss"),
        (lambda: TailAware(tail_weight=math.inf), r"tail_weight must be a number of at least 0, got inf"),
    ],
)
def test_a_setting_out_of_range_is_refused(build: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()
