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
    problem,
    rounded,
    softmax,
    stored,
)

from pd_lightning.objective import Objective
from pd_lightning.targets import DenseTargets, Form, SparseTargets
from pd_lightning.transforms import Clip, Temperature, TopPK

WAYS = [(around, unit) for around in ("max", "mean") for unit in ("nats", "std")]
each_way = pytest.mark.parametrize(("around", "unit"), WAYS)


def clipped(z: Array, value: float, around: str, unit: str) -> Array:
    centre = z.max(-1, keepdims=True) if around == "max" else z.mean(-1, keepdims=True)
    reach = value * z.std(-1, keepdims=True) if unit == "std" else value
    return np.clip(z, centre - reach, centre + reach)


def clip(value: float, around: Any, unit: Any) -> Clip:
    return Clip(value, around, unit)


@each_way
@pytest.mark.parametrize("value", [0.3, 2.0, 100.0])
@pytest.mark.parametrize("case", PROBLEMS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_dense_equals_the_formula(around: str, unit: str, value: float, case: str, dtype: torch.dtype) -> None:
    p = PROBLEMS[case]
    actual = clip(value, around, unit).teacher(dense(p, dtype), context(p))
    by_formula = softmax(clipped(rounded(p, dtype).teacher, value, around, unit))
    np.testing.assert_allclose(probabilities(actual, 0), by_formula, rtol=0, atol=2 * TOLERANCE[dtype])


def test_impossible_ids_rise_to_the_bound() -> None:
    p = ZEROS["zeros"]
    actual = Clip(3.0).teacher(dense(p), context(p))
    np.testing.assert_allclose(probabilities(actual, 0), softmax(clipped(p.teacher, 3.0, "max", "nats")), atol=1e-12)
    kept, mask = stored(p, p.teacher.shape[1])
    np.testing.assert_allclose(
        probabilities(Clip(3.0).teacher(kept, context(p)), p.teacher.shape[1]),
        bucketed(probabilities(actual, 0), mask),
        atol=1e-12,
    )


@each_way
@pytest.mark.parametrize("case", PROBLEMS)
@pytest.mark.parametrize("k", [1, 5, 301])
def test_kept_ids_are_exact_where_the_smallest_is_clipped(around: str, unit: str, case: str, k: int) -> None:
    """Then all that is not kept is at the lower bound, and the bucket exact too."""
    p = PROBLEMS[case]
    v = p.teacher.shape[1]
    targets, kept = stored(p, min(k, v))
    expected = bucketed(softmax(clipped(p.teacher, 0.3, around, unit)), kept)
    actual = probabilities(clip(0.3, around, unit).teacher(targets, context(p)), v)
    lowest = clipped(p.teacher, 0.3, around, unit).min(-1, keepdims=True)
    exact = ((p.teacher > lowest) & ~kept).sum(-1) == 0
    assert exact.all() or k < 301
    np.testing.assert_allclose(actual[exact], expected[exact], rtol=0, atol=1e-12)
    np.testing.assert_allclose(actual.sum(-1), 1.0, atol=1e-12)


@pytest.mark.parametrize("case", PROBLEMS)
@pytest.mark.parametrize("value", [1.0, 5.0, 50.0])
def test_around_the_maximum_the_bucket_is_at_most_the_true_one(case: str, value: float) -> None:
    p = PROBLEMS[case]
    v = p.teacher.shape[1]
    targets, kept = stored(p, min(5, v))
    actual = probabilities(Clip(value).teacher(targets, context(p)), v)[:, -1]
    true = bucketed(softmax(clipped(p.teacher, value, "max", "nats")), kept)[:, -1]
    old = bucketed(softmax(p.teacher), kept)[:, -1]
    assert (actual <= true + 1e-12).all()
    untouched = p.teacher.min(-1) >= p.teacher.max(-1) - value
    np.testing.assert_allclose(actual[untouched], old[untouched], atol=1e-12)


def test_the_bucket_comes_down_to_the_upper_bound() -> None:
    """Around the mean, ids that are not kept can be above the upper bound, if the kept ones are."""
    p = Problem(np.zeros((1, 10)), np.array([[3.0, 3.0, 3.0, 3.0, 3.0, 0.0, 0.0, 0.0, 0.0, 0.0]]), np.array([0]))
    targets, kept = stored(p, 3)
    actual = probabilities(Clip(0.1, "mean").teacher(targets, context(p)), 10)
    high, low = np.exp(0.1), np.exp(-0.1)
    assert kept.sum() == 2
    bucket = 8 * high  # the three others at 3 are clipped to it; of the five at 0 the sum alone tells nothing
    assert actual[0, -1] == pytest.approx(bucket / (2 * high + bucket))
    true = 3 * high + 5 * low
    assert actual[0, -1] >= true / (2 * high + true)


@pytest.mark.parametrize("unit", ["nats", "std"])
def test_renormalised_targets_are_clipped_among_themselves(unit: str) -> None:
    p = PROBLEMS["plain"]
    targets, kept = stored(p, 6, "renormalized")
    reach = 0.5 * (p.teacher.std(-1, keepdims=True) if unit == "std" else 1.0)
    z = np.where(kept, np.maximum(p.teacher, p.teacher.max(-1, keepdims=True) - reach), -np.inf)
    actual = clip(0.5, "max", unit).teacher(targets, context(p))
    assert actual.kind == "renormalized"
    np.testing.assert_allclose(probabilities(actual, 23), softmax(z), atol=1e-12)


@each_way
@pytest.mark.parametrize("k", [3, 23])
def test_targets_kept_on_the_fly_equal_stored_ones(around: str, unit: str, k: int) -> None:
    p = PROBLEMS["plain"]
    for value in (0.5, 2.0):
        transform = clip(value, around, unit)
        stored_ones, on_the_fly = (transform.teacher(t, context(p)) for t in (stored(p, k)[0], narrowed(p, k)))
        np.testing.assert_allclose(probabilities(on_the_fly, 23), probabilities(stored_ones, 23), atol=1e-12)
        assert isinstance(on_the_fly, SparseTargets)
        assert set(on_the_fly.statistics) == {"log_z", "label_logprob"}


@each_way
def test_what_is_said_of_logits_stays_true(around: str, unit: str) -> None:
    p = PROBLEMS["plain"]
    z = clipped(p.teacher, 0.7, around, unit)
    transform = clip(0.7, around, unit)
    whole = transform.teacher(dense(p), context(p))
    np.testing.assert_allclose(whole.logprobs.numpy() + whole.statistic("log_z").numpy()[:, None], z, atol=1e-12)
    np.testing.assert_allclose(whole.statistic("std").numpy(), z.std(-1), atol=1e-12)
    part = transform.teacher(stored(p, 23)[0], context(p))
    assert isinstance(part, SparseTargets)
    logits = part.logprobs.numpy() + part.statistic("log_z").numpy()[:, None]
    expected = np.take_along_axis(z, part.ids.numpy(), -1)
    used = part.logprobs.numpy() > -np.inf
    np.testing.assert_allclose(logits[used], expected[used], atol=1e-12)
    own = np.take_along_axis(np.log(softmax(z)), p.labels.clip(0)[:, None], -1)[:, 0]
    np.testing.assert_allclose(part.statistic("label_logprob").numpy(), own, atol=1e-12)


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_the_value_must_be_positive(value: float) -> None:
    with pytest.raises(ValueError, match=f"value must be positive, got {value}. Set init_args.value of Clip, 10 say."):
        Clip(value)


@pytest.mark.parametrize(
    ("before", "transform", "message"),
    [
        ([Temperature(2.0)], Clip(1.0), "Clipping must come before temperature, .* got Clip after it. Name the entry"),
        ([TopPK(0.9, tail="none")], Clip(1.0), "dense, bucket or renormalized targets, got none ones. Name the entry"),
        ([TopPK(0.9, tail="renormalize")], Clip(1.0, "mean"), "Clip around mean must have the logits of all ids"),
    ],
)
def test_what_cannot_come_before(before: list[Any], transform: Clip, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Objective(transforms={"before": before[0], "clip": transform})


def test_figures_that_a_store_lacks() -> None:
    form = Form("bucket", frozenset({"log_z"}))
    assert Clip(1.0).form(form) == form
    with pytest.raises(ValueError, match="Clip around mean must have the teacher's mean at each position, got "):
        Clip(1.0, "mean").form(form)
    with pytest.raises(ValueError, match="Clip in standard deviations must have the teacher's std"):
        Clip(1.0, unit="std").form(form)


def test_what_is_not_known_of_a_store_after_it() -> None:
    assert Clip(1.0).form(Form("bucket")).statistics == {"log_z", "label_logprob"}
    assert Clip(1.0).form(Form("bucket", None)).statistics is None
    assert Clip(1.0).form(Form("dense")) == Form("dense")


def test_one_row_of_nothing_but_the_maximum() -> None:
    p = problem(n=1)
    alone = Clip(1e-6).teacher(dense(p), context(p))
    assert isinstance(alone, DenseTargets)
    np.testing.assert_allclose(probabilities(alone, 0), 1 / 23, atol=1e-6)
