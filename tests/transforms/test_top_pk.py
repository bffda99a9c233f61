import warnings
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
    bucketed,
    context,
    dense,
    forward_kl,
    probabilities,
    rounded,
    softmax,
    stored,
)

from pd_lightning.context import Context
from pd_lightning.losses import ForwardKL
from pd_lightning.objective import Objective
from pd_lightning.selection import Selection
from pd_lightning.targets import DenseTargets, Form, SparseTargets
from pd_lightning.targets.heads import Head
from pd_lightning.transforms import LabelSmoothing, Temperature, TopK, TopP, TopPK, Transform

ALL = PROBLEMS | ZEROS
PROBS = torch.tensor([[0.5, 0.1, 0.3, 0.06, 0.04], [0.2, 0.2, 0.2, 0.2, 0.2]])
DENSE = DenseTargets(PROBS.log())


def ctx(vocab_size: int) -> Context:
    return Context(torch.zeros(2, vocab_size), torch.zeros(2, dtype=torch.int64))


def by_formula(p: Array, top_p: float, k: int, tail: str) -> tuple[Array, Array]:
    """Probabilities `[N, V]`, or `[N, V+1]` with a bucket, and the mask of kept ids, one position at a time."""
    kept = np.zeros(p.shape, bool)
    for row, mask in zip(p, kept, strict=True):
        order = np.argsort(-row, kind="stable")[:k]
        fewest = next((i + 1 for i in range(len(order)) if row[order[: i + 1]].sum() >= top_p), len(order))
        mask[order[: fewest if top_p < 1 else len(order)]] = True
    kept &= p > 0
    if tail == "bucket":
        return bucketed(p, kept), kept
    cut = p * kept
    if tail == "renormalize":
        return cut / cut.sum(-1, keepdims=True), kept
    others = (~kept).sum(-1, keepdims=True).clip(1)
    return cut + (~kept) * (p * ~kept).sum(-1, keepdims=True) / others if tail == "uniform" else cut, kept


def truncate(targets: DenseTargets | SparseTargets = DENSE, **settings: object) -> SparseTargets:
    truncated = TopPK(**settings).teacher(targets, ctx(5))  # type: ignore[arg-type]
    assert isinstance(truncated, SparseTargets)
    return truncated


def kept(targets: SparseTargets, row: int = 0) -> dict[int, float]:
    used = targets.logprobs[row] > -torch.inf
    probs = targets.logprobs[row][used].exp()
    return dict(zip(targets.ids[row][used].tolist(), probs.tolist(), strict=True))


def test_keeps_the_fewest_ids_that_reach_p() -> None:
    assert kept(truncate(p=0.75)) == pytest.approx({0: 0.5, 2: 0.3})
    assert kept(truncate(p=0.45)) == pytest.approx({0: 0.5})
    assert len(kept(truncate(p=0.5), row=1)) == 3


def test_k_and_min_k_bound_what_p_keeps() -> None:
    assert list(kept(truncate(p=1.0, k=3))) == [0, 2, 1]
    assert list(kept(truncate(p=0.1, k=3, min_k=2))) == [0, 2]


def test_what_is_cut_off_is_the_bucket() -> None:
    torch.testing.assert_close(truncate(p=0.75).log_tail, torch.tensor([0.2, 0.2]).log(), rtol=1e-5, atol=0)


def test_other_tails() -> None:
    renormalized = truncate(p=0.75, tail="renormalize")
    assert renormalized.log_tail is None
    assert kept(renormalized) == pytest.approx({0: 0.625, 2: 0.375})
    forgotten = truncate(p=0.75, tail="none")
    assert forgotten.log_tail is None
    assert kept(forgotten) == pytest.approx({0: 0.5, 2: 0.3})


def test_narrowing_stored_targets_equals_truncating_dense_ones() -> None:
    stored = truncate(p=0.95, k=5)
    for settings in ({"p": 0.75}, {"k": 2}, {"p": 0.75, "tail": "renormalize"}):
        narrow, direct = truncate(stored, **settings), truncate(**settings)
        assert kept(narrow) == pytest.approx(kept(direct))
        if direct.log_tail is not None:
            torch.testing.assert_close(narrow.log_tail, direct.log_tail, rtol=1e-5, atol=0)


def test_unused_slots_repeat_an_id_of_their_row() -> None:
    truncated = truncate(p=0.75)
    for row in range(2):
        assert set(truncated.ids[row].tolist()) == set(kept(truncated, row))


def test_a_tiny_tail_is_kept_from_the_store() -> None:
    """1 - Σ p is 0 in float32 where the store knows that e^-20 was cut off."""
    stored = SparseTargets(torch.tensor([[3]]), torch.zeros(1, 1), torch.tensor([-20.0]))
    np.testing.assert_allclose(truncate(stored).log_tail, [-20.0], rtol=1e-6)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"p": 0.0}, r"p must be in \(0, 1\], got 0.0. Set init_args.p of TopPK"),
        ({"p": 1.5}, r"p must be in \(0, 1\], got 1.5"),
        ({"k": 0}, "k must be at least 1, got 0. Set init_args.k of TopPK, 50 say"),
        ({"k": 3, "min_k": 4}, "got k 3 and min_k 4"),
    ],
)
def test_bad_settings(settings: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TopPK(**settings)  # type: ignore[arg-type]


def test_p_of_one_keeps_all_that_k_allows() -> None:
    """One id has nearly all the probability: rounding must not cut the others, which count at a high temperature."""
    sure = torch.zeros(1, 200)
    sure[0, 7] = 15.0
    targets = DenseTargets(sure.log_softmax(-1))
    assert len(kept(truncate(targets, p=1.0, k=200))) == 200
    assert len(kept(truncate(targets, p=1.0, k=None))) == 200
    assert len(kept(truncate(targets, p=1.0, k=50))) == 50


def test_a_transform_of_the_users_own_is_tried_on_no_made_up_targets() -> None:
    class NeedsItsVocabulary(Transform):
        def teacher(self, targets: object, ctx: object) -> object:  # type: ignore[override]
            raise IndexError("id 50")

    Objective(transforms={"mine": NeedsItsVocabulary()})


@pytest.mark.parametrize("tail", ["bucket", "renormalize", "uniform", "none"])
@pytest.mark.parametrize("case", ALL)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("p", "k"), [(0.5, 301), (0.95, 7), (1.0, 1), (1.0, 7), (1.0, 301)])
def test_equals_the_formula(tail: Any, case: str, dtype: torch.dtype, p: float, k: int) -> None:
    teacher = rounded(ALL[case], dtype).teacher
    v = teacher.shape[1]
    expected, _ = by_formula(softmax(teacher), p, k, tail)
    truncated = TopPK(p, k, tail=tail).teacher(dense(ALL[case], dtype), context(ALL[case]))
    actual = probabilities(truncated, v)
    if dtype == torch.bfloat16:  # many ids are equally probable, and which of them are kept is open
        actual[:, :v].sort(-1)
        expected[:, :v].sort(-1)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=2 * TOLERANCE[dtype])


@pytest.mark.parametrize("tail", ["bucket", "renormalize", "uniform", "none"])
@pytest.mark.parametrize("case", ALL)
@pytest.mark.parametrize(("p", "k"), [(0.4, 301), (0.7, 4), (1.0, 1), (1.0, 4)])
def test_stored_targets_are_narrowed_as_dense_ones_are_cut(tail: Any, case: str, p: float, k: int) -> None:
    """Rows of the store that hold all that is asked for."""
    store, kept = stored(ALL[case], 9)
    v = ALL[case].teacher.shape[1]
    expected, mask = by_formula(softmax(ALL[case].teacher), p, k, tail)
    enough = (mask <= kept).all(-1)
    assert enough.any()
    actual = TopPK(p, k, tail=tail).teacher(store, context(ALL[case]))
    np.testing.assert_allclose(probabilities(actual, v)[enough], expected[enough], atol=1e-12)


@pytest.mark.parametrize("case", ALL)
@pytest.mark.parametrize("tail", ["bucket", "renormalize", "uniform", "none"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_all_ids_kept_cost_what_dense_ones_do(case: str, tail: Any, dtype: torch.dtype) -> None:
    p, targets = ALL[case], dense(ALL[case], dtype)
    expected, _ = forward_kl(Temperature(1.0), targets, p, dtype)
    actual, _ = forward_kl(TopPK(1.0, None, tail=tail), targets, p, dtype)
    np.testing.assert_allclose(actual, expected, rtol=2e-6, atol=1e-5)


def test_top_k_and_top_p_are_the_halves_of_it() -> None:
    assert vars(TopK(7, "uniform")) == vars(TopPK(1.0, 7, tail="uniform"))
    assert vars(TopP(0.7, 2, "none")) == vars(TopPK(0.7, None, 2, "none"))
    for build, message in (
        (lambda: TopK(0), "k must be at least 1, got 0. Set init_args.k of TopK,"),
        (lambda: TopP(2.0), "p must be in (0, 1], got 2.0. Set init_args.p of TopP,"),
    ):
        with pytest.raises(ValueError) as caught:
            build()
        assert message in str(caught.value)


@pytest.mark.parametrize("who", [TopK(5), TopP(0.9), TopPK(0.9, 5)])
def test_truncation_comes_before_temperature(who: TopPK) -> None:
    name = type(who).__name__
    with pytest.raises(ValueError, match=f"Truncation must come before temperature, .* got {name} after it. Name the"):
        Objective(transforms={"temperature": Temperature(2.0), "truncate": who})


@pytest.mark.parametrize("first", ["renormalize", "none"])
@pytest.mark.parametrize("second", ["bucket", "renormalize", "uniform"])
def test_a_tail_that_was_dropped_does_not_come_back(first: Any, second: Any) -> None:
    if first == second:
        Objective(transforms={"first": TopK(9, first), "second": TopK(5, second)})
        return
    with pytest.raises(
        ValueError, match=f"tail of TopK must be known, got {second} after a truncation that dropped it"
    ):
        Objective(transforms={"first": TopK(9, first), "second": TopK(5, second)})


def test_k_above_the_vocabulary() -> None:
    assert TopK(10).form(Form("dense", vocab_size=10)).kind == "bucket"
    with pytest.raises(
        ValueError, match=r"k must be at most the size of the vocabulary, got 11 for 10 ids\. Lower init_args"
    ):
        TopK(11).form(Form("dense", vocab_size=10))


@pytest.mark.parametrize(
    ("tail", "has_logits"), [("bucket", True), ("none", True), ("renormalize", False), ("uniform", False)]
)
def test_which_tails_leave_logits(tail: Any, has_logits: bool) -> None:
    assert TopK(5, tail).form(Form("dense")).has_logits == has_logits
    smoothed = LabelSmoothing(0.1).form(Form("bucket"))
    assert not TopK(5, tail).form(smoothed).has_logits


def test_figures_stay_those_of_the_whole_vocabulary() -> None:
    p = PROBLEMS["plain"]
    store, _ = stored(p, 23)
    for tail in ("bucket", "renormalize", "uniform", "none"):
        for targets in (dense(p), store):
            cut = TopK(3, tail).teacher(targets, context(p))  # type: ignore[arg-type]
            for name, values in store.statistics.items():
                torch.testing.assert_close(cut.statistic(name, torch.tensor(p.labels)), values)


@pytest.mark.parametrize(
    ("settings", "beyond"),
    [
        ({"p": 0.95, "k": 50}, ""),
        ({"p": 1.0, "k": None}, ""),
        ({"p": 0.9, "k": 50, "min_k": 1}, ""),
        ({"p": 0.9, "k": 128}, "k 128 of TopPK has no effect beyond 50"),
        ({"p": 0.99, "k": 10}, "p 0.99 of TopPK has no effect beyond 0.95"),
        ({"p": 0.9, "k": 50, "min_k": 8}, "min_k 8 of TopPK has no effect beyond 1"),
    ],
)
@pytest.mark.parametrize("stored", [True, False])
def test_more_than_there_is_is_said(settings: dict[str, Any], beyond: str, stored: bool) -> None:
    before = Form("bucket", selection=(0.95, 50, 1)) if stored else TopPK(0.95, 50).form(Form("dense"))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        TopPK(**settings).form(before)
    messages = [str(warning.message) for warning in said]
    assert len(messages) == bool(beyond)
    assert all(message.startswith(beyond) for message in messages)


@pytest.mark.parametrize("tail", [1e-3, 1e-5, 1e-8, 1e-10])
@pytest.mark.parametrize("live", [True, False])
def test_the_tail_of_a_sure_teacher_is_known_and_nothing_is_made_of_it(tail: float, live: bool) -> None:
    """Of 1 - Σ p, rounding leaves nothing: at a temperature, its error would be all of the loss."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(4, 5000, generator=generator, dtype=torch.float64)
    top = logits.topk(10).indices
    raised = torch.zeros_like(logits).scatter(-1, top, 1.0) > 0
    others = logits.masked_fill(raised, -torch.inf).logsumexp(-1)
    mine = logits.masked_fill(~raised, -torch.inf).logsumexp(-1)
    logits = torch.where(raised, logits + (others - mine + np.log(1 / tail - 1)).unsqueeze(-1), logits).float()
    expected = logits.double().masked_fill(raised, -torch.inf).logsumexp(-1) - logits.double().logsumexp(-1)
    if live:
        kept = TopK(10).teacher(DenseTargets(logits.log_softmax(-1)), ctx(5000))
    else:
        head = Head(lambda hidden: hidden)
        kept, _ = Selection(1.0, 10).select(logits, head, torch.zeros(4, dtype=torch.int64))
    assert isinstance(kept, SparseTargets)
    assert kept.log_tail is not None
    np.testing.assert_allclose(kept.log_tail, expected, atol=1e-5)
    narrow = TopK(4).teacher(kept, ctx(5000))
    for targets in (kept, narrow):
        for tau in (1.0, 2.0, 10.0):
            assert ForwardKL()(logits, Temperature(tau).teacher(targets, ctx(5000))).abs().max() < 1e-4
