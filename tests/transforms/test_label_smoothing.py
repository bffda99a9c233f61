from typing import Any

import numpy as np
import pytest
import torch
from transform_cases import (
    DTYPES,
    PROBLEMS,
    TOLERANCE,
    ZEROS,
    Array,
    Problem,
    bucketed,
    context,
    dense,
    narrowed,
    probabilities,
    rounded,
    softmax,
    stored,
)

from pd_lightning.losses import ForwardKL
from pd_lightning.objective import Objective
from pd_lightning.targets import Form, SparseTargets
from pd_lightning.transforms import LabelSmoothing, SampleTokens, Temperature, TopPK, Transform

ALL = PROBLEMS | ZEROS
each_direction = pytest.mark.parametrize("towards", ["uniform", "label"])
each_case = pytest.mark.parametrize("case", ALL)


def smoothed(p: Array, labels: Any, epsilon: float, towards: str) -> Array:
    v = p.shape[1]
    if towards == "uniform":
        return (1 - epsilon) * p + epsilon / v
    return np.where((labels >= 0)[:, None], (1 - epsilon) * p + epsilon * np.eye(v)[labels.clip(0)], p)


def smooth(epsilon: float, towards: Any) -> LabelSmoothing:
    return LabelSmoothing(epsilon, towards)


@each_direction
@each_case
@pytest.mark.parametrize("epsilon", [0.0, 0.1, 0.9])
@pytest.mark.parametrize("dtype", DTYPES)
def test_dense_equals_the_formula(towards: str, case: str, epsilon: float, dtype: torch.dtype) -> None:
    p = ALL[case]
    actual = smooth(epsilon, towards).teacher(dense(p, dtype), context(p))
    expected = smoothed(softmax(rounded(p, dtype).teacher), p.labels, epsilon, towards)
    np.testing.assert_allclose(probabilities(actual, 0), expected, rtol=0, atol=TOLERANCE[dtype])


@each_direction
@each_case
@pytest.mark.parametrize("epsilon", [0.0, 0.1, 0.9])
@pytest.mark.parametrize("k", [1, 2, 7, 301])
@pytest.mark.parametrize("kept_on_the_fly", [False, True])
def test_a_bucket_equals_smoothing_before_truncation(
    towards: str, case: str, epsilon: float, k: int, kept_on_the_fly: bool
) -> None:
    p = ALL[case]
    v = p.teacher.shape[1]
    targets, kept = stored(p, min(k, v))
    if kept_on_the_fly:
        targets = narrowed(p, min(k, v))
    actual = smooth(epsilon, towards).teacher(targets, context(p))
    if towards == "label" and epsilon > 0:
        labelled = p.labels >= 0
        kept[labelled, p.labels[labelled]] = True  # a slot of its own
    expected = bucketed(smoothed(softmax(p.teacher), p.labels, epsilon, towards), kept)
    assert actual.kind == "bucket"
    np.testing.assert_allclose(probabilities(actual, v), expected, rtol=0, atol=1e-12)


@each_direction
@each_case
@pytest.mark.parametrize("k", [1, 7, 301])
def test_renormalised_targets(towards: str, case: str, k: int) -> None:
    p = ALL[case]
    v = p.teacher.shape[1]
    targets, kept = stored(p, min(k, v), "renormalized")
    actual = smooth(0.1, towards).teacher(targets, context(p))
    only = softmax(p.teacher) * kept
    expected = smoothed(only / only.sum(-1, keepdims=True), p.labels, 0.1, towards)
    assert actual.kind == ("dense" if towards == "uniform" else "renormalized")
    np.testing.assert_allclose(probabilities(actual, v), expected, rtol=0, atol=1e-12)


@each_direction
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_all_ids_kept_cost_what_dense_ones_do(towards: str, dtype: torch.dtype) -> None:
    """Rounding leaves a tail of 1e-8 where all ids are kept: no student could give it any probability."""
    p = PROBLEMS["plain"]
    student = torch.tensor(p.student, dtype=dtype)
    transform, ctx = smooth(0.2, towards), context(p, student)
    whole = dense(p, dtype)
    every = TopPK(1.0, None).teacher(whole, ctx)
    assert isinstance(every, SparseTargets)
    expected, actual = (ForwardKL()(student, transform.teacher(t, ctx)) for t in (whole, every))
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-6)


def test_a_label_that_rounding_makes_more_probable_than_the_tail() -> None:
    targets = SparseTargets(
        torch.tensor([[3, 3]]),
        torch.tensor([[-0.1, -torch.inf]]),
        torch.tensor([-2.4]),
        statistics={"label_logprob": torch.tensor([-2.3])},
    )
    p = Problem(np.zeros((1, 10)), np.zeros((1, 10)), np.array([7]))
    actual = smooth(0.5, "label").teacher(targets, context(p))
    assert isinstance(actual, SparseTargets)
    assert actual.log_tail is not None
    assert actual.log_tail.item() == -torch.inf
    assert actual.ids.tolist() == [[3, 3, 7]]
    torch.testing.assert_close(
        actual.logprobs.exp()[0, [0, 2]], torch.tensor([0.4524, 0.5 + 0.0454]), atol=1e-4, rtol=0
    )


def test_both_ways_one_after_the_other() -> None:
    """A label in the tail got its part of the uniform share already."""
    p = PROBLEMS["plain"]
    expected, actual = dense(p), stored(p, 3)[0]
    for towards in ("uniform", "label"):
        expected, actual = (smooth(0.3, towards).teacher(t, context(p)) for t in (expected, actual))
    rows = np.arange(5)
    label = probabilities(actual, 23)[rows, p.labels[:5]]
    np.testing.assert_allclose(label, probabilities(expected, 0)[rows, p.labels[:5]], atol=1e-12)


@each_direction
def test_figures_stay_those_of_the_teacher(towards: str) -> None:
    p = PROBLEMS["plain"]
    for targets in (dense(p), narrowed(p, 4), stored(p, 4)[0]):
        actual = smooth(0.3, towards).teacher(targets, context(p))
        for name in ("std", "entropy"):
            np.testing.assert_allclose(actual.statistic(name), stored(p, 4)[0].statistics[name], atol=1e-12)


@pytest.mark.parametrize("epsilon", [-0.1, 1.0, float("nan")])
def test_epsilon_must_be_a_share(epsilon: float) -> None:
    with pytest.raises(
        ValueError, match=rf"epsilon must be in \[0, 1\), got {epsilon}. Set init_args.epsilon of Label"
    ):
        LabelSmoothing(epsilon)


@each_direction
@pytest.mark.parametrize(
    ("before", "message"),
    [
        (Temperature(2.0), "Smoothing must come before temperature, .* got LabelSmoothing after it. Name the entry"),
        (
            TopPK(0.9, tail="none"),
            "LabelSmoothing must have dense, bucket or renormalized targets, got none ones. Name",
        ),
        (SampleTokens(), "got sampled ones. Name the entry of LabelSmoothing first"),
    ],
)
def test_what_cannot_come_before(towards: str, before: Transform, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Objective(transforms={"before": before, "smoothing": smooth(0.1, towards)})


def test_a_store_without_the_labels_probability() -> None:
    form = Form("bucket", frozenset({"entropy"}))
    with pytest.raises(ValueError, match="LabelSmoothing towards label must have the teacher's label_logprob"):
        smooth(0.1, "label").form(form)
    assert smooth(0.1, "uniform").form(form).kind == "bucket"
    assert smooth(0.1, "label").form(Form("renormalized", frozenset())).kind == "renormalized"


@each_direction
@pytest.mark.parametrize("kind", ["dense", "bucket", "renormalized"])
def test_what_comes_out_is_no_logit(towards: str, kind: Any) -> None:
    assert not smooth(0.1, towards).form(Form(kind)).has_logits
