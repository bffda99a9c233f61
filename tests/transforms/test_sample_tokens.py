from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from transform_cases import PROBLEMS, ZEROS, Array, context, dense, probabilities, rounded, softmax

from pd_lightning.losses import ForwardKL
from pd_lightning.objective import Objective
from pd_lightning.targets import DenseTargets, Form, SparseTargets
from pd_lightning.transforms import SampleTokens, Temperature, TopK, TopPK, Transform

ALL = PROBLEMS | ZEROS
SEEDS = 10_000


def draws(case: str, times: int = 1, draw: tuple[int, ...] = (0,), **settings: Any) -> SparseTargets:
    """Draw from every row of a problem as many times; the rows of one position are together."""
    targets = dense(ALL[case])
    repeated = DenseTargets(targets.logprobs.repeat_interleave(times, 0))
    drawn = SampleTokens(**settings).teacher(repeated, context(ALL[case], draw=draw))
    assert isinstance(drawn, SparseTargets)
    return drawn


def estimates(case: str, times: int, **settings: Any) -> Array:
    v = ALL[case].teacher.shape[1]
    return probabilities(draws(case, times, **settings), v).reshape(-1, times, v)


@pytest.mark.parametrize("s", [1.0, 0.5])
@pytest.mark.parametrize("case", ["plain", "two ids", "flat", "zeros"])
def test_the_mean_of_many_draws_is_the_dense_target(case: str, s: float) -> None:
    """For every id, within 4 standard errors; the variance is that of a mean of n independent t/q."""
    n = 10
    t = softmax(ALL[case].teacher)
    q = t**s / (t**s).sum(-1, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        variance = np.where(t > 0, (t**2 / q - t**2) / n, 0)
    mean = estimates(case, SEEDS, n=n, s=s).mean(1)
    assert (np.abs(mean - t) <= 4 * np.sqrt(variance / SEEDS) + 1e-12).all()


def test_separate_seeds_give_separate_draws() -> None:
    """The same for 10,000 seeds one by one, as a run draws them."""
    t, n = softmax(ALL["two ids"].teacher), 5
    sampled = [probabilities(draws("two ids", seed=seed, n=n), 2) for seed in range(SEEDS)]
    assert (np.abs(np.mean(sampled, 0) - t) <= 4 * np.sqrt(t * (1 - t) / n / SEEDS) + 1e-12).all()


def test_renormalised_truncation_is_biased() -> None:
    """Each position is further off than the mean of as many draws would be by a chance of one in 10^14."""
    p = ALL["plain"]
    t = softmax(p.teacher)
    error = np.abs(probabilities(TopK(5, "renormalize").teacher(dense(p), context(p)), 23) - t)
    assert (error > 8 * np.sqrt(t * (1 - t) / 10 / SEEDS)).any(-1).all()


def test_probabilities_are_biased_too() -> None:
    t = softmax(ALL["plain"].teacher)
    error = np.abs(estimates("plain", SEEDS, n=10, target="probabilities").mean(1) - t)
    assert (error > 8 * np.sqrt(t * (1 - t) / 10 / SEEDS)).any()


@pytest.mark.parametrize("case", ALL)
@pytest.mark.parametrize("n", [1, 7, 50, 400])
@pytest.mark.parametrize("s", [1.0, 0.3, 2.0])
def test_a_draw_is_counts_times_importance(case: str, n: int, s: float) -> None:
    """Undoing t/q gives whole numbers of draws, n in all, of ids that are possible."""
    t = softmax(ALL[case].teacher)
    drawn = draws(case, n=n, s=s)
    assert drawn.kind == "sampled"
    assert drawn.ids.shape == (len(t), n)
    with np.errstate(divide="ignore", invalid="ignore"):
        t_over_q = np.where(t > 0, t ** (1 - s) * (t**s).sum(-1, keepdims=True), 0)
        counts = np.nan_to_num(n * probabilities(drawn, t.shape[1]) / t_over_q)
    np.testing.assert_allclose(counts, counts.round(), atol=1e-6)
    np.testing.assert_allclose(counts.sum(-1), n, atol=1e-6)
    assert (counts[t == 0] == 0).all()


@pytest.mark.parametrize("case", ALL)
def test_slots(case: str) -> None:
    drawn = draws(case, n=30)
    used = drawn.logprobs > -torch.inf
    for ids, row in zip(drawn.ids, used, strict=True):
        assert len(set(ids[row].tolist())) == row.sum()
        assert set(ids[~row].tolist()) <= set(ids[row].tolist())


@pytest.mark.parametrize("case", ALL)
def test_probabilities_of_what_was_drawn(case: str) -> None:
    t = softmax(ALL[case].teacher)
    drawn = draws(case, n=6, target="probabilities")
    mask = probabilities(draws(case, n=6), t.shape[1]) > 0
    assert drawn.kind == "renormalized"
    np.testing.assert_allclose(
        probabilities(drawn, t.shape[1]), t * mask / (t * mask).sum(-1, keepdims=True), atol=1e-12
    )


def test_many_draws_cost_what_dense_targets_do() -> None:
    p = ALL["plain"]
    student = torch.tensor(p.student, requires_grad=True)
    gradients = [
        torch.autograd.grad(ForwardKL()(student, targets).sum(), student)[0]
        for targets in (dense(p), SampleTokens(200_000).teacher(dense(p), context(p)))
    ]
    torch.testing.assert_close(*gradients, rtol=0, atol=5e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_low_precision(dtype: torch.dtype) -> None:
    p = ALL["wide"]
    drawn = SampleTokens(20, 0.7).teacher(dense(p, dtype), context(p))
    wide = SampleTokens(20, 0.7).teacher(dense(rounded(p, dtype)), context(p))
    assert drawn.logprobs.dtype == torch.float32
    np.testing.assert_allclose(probabilities(drawn, 301), probabilities(wide, 301), atol=1e-6)


def test_draws_depend_on_seed_and_place_in_the_run_alone() -> None:
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = draws("wide", draw=(3, 1, 0))
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    again = draws("wide", draw=(3, 1, 0))
    assert torch.equal(first.ids, again.ids)
    assert torch.equal(first.logprobs, again.logprobs)
    others = [draws("wide", draw=(3, 1, 1)), draws("wide", draw=(3, 2, 0)), draws("wide", draw=(3, 1, 0), seed=1)]
    assert not any(torch.equal(first.ids, other.ids) for other in others)


@pytest.mark.parametrize(("point", "drawn_id"), [(0.0, 1), (0.5, 1), (1 - 5e-10, 2), (1.0, 2)])
def test_rare_ids_are_drawn_and_impossible_ones_are_not(
    point: float, drawn_id: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of probability 1e-9 nothing is left in a running sum in float32."""
    logprobs = torch.tensor([[-torch.inf, 0.0, -9 * np.log(10), -torch.inf]], dtype=torch.float32)
    monkeypatch.setattr(torch, "rand", lambda shape, dtype, **_: torch.full(shape, point, dtype=dtype))
    drawn = SampleTokens(3).teacher(DenseTargets(logprobs), context(ALL["plain"]))
    assert isinstance(drawn, SparseTargets)
    assert drawn.ids.tolist() == [[drawn_id] * 3]
    assert drawn.logprobs[0, 0].item() == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n": 0}, "n must be at least 1, got 0. Set init_args.n of SampleTokens"),
        ({"s": 0.0}, "s must be positive, got 0.0. Set init_args.s of SampleTokens"),
        ({"s": float("inf")}, "s must be positive, got inf"),
        ({"seed": -1}, "seed must be at least 0, got -1. Set init_args.seed of SampleTokens"),
    ],
)
def test_bad_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SampleTokens(**settings)


@pytest.mark.parametrize("target", ["counts", "probabilities"])
def test_stored_targets_cannot_be_sampled(target: Any) -> None:
    with pytest.raises(ValueError, match=r"dense targets, got bucket ones\. .* is biased: set model.teacher to"):
        SampleTokens(target=target).form(Form("bucket"))
    with pytest.raises(ValueError, match=r"leave truncation out of model\.transforms"):
        Objective(transforms={"truncate": TopPK(0.9), "sample": SampleTokens(target=target)})


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        (Temperature(2.0), SampleTokens(), "SampleTokens must have targets at temperature 1, got a temperature before"),
        (
            SampleTokens(),
            Temperature(2.0),
            "Temperature must have the teacher's probabilities, got estimates from sampl",
        ),
        (SampleTokens(), TopPK(0.9), "TopPK must have the teacher's probabilities, got estimates from samples"),
        (SampleTokens(), SampleTokens(), "SampleTokens must have dense targets, got sampled ones"),
    ],
)
def test_estimates_cannot_be_tempered_or_truncated(first: Transform, second: Transform, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Objective(transforms={"first": first, "second": second})


def test_probabilities_can_be_tempered_in_either_order() -> None:
    p = ALL["plain"]
    ctx, tau = context(p), Temperature(2.0)
    sample = SampleTokens(5, target="probabilities")
    for order in ((tau, sample), (sample, tau)):
        Objective(transforms=dict(enumerate(order)))  # type: ignore[arg-type]
    loss = ForwardKL()
    a = loss(ctx.student_logits, sample.teacher(tau.teacher(dense(p), ctx), ctx))
    b = loss(ctx.student_logits, tau.teacher(sample.teacher(dense(p), ctx), ctx))
    torch.testing.assert_close(a, b)


def test_what_transforms_before_it_asked_of_the_loss_stays() -> None:
    p = ALL["plain"]
    asked = replace(dense(p), weight=torch.arange(6.0), dropped=torch.ones(6))
    drawn = SampleTokens().teacher(asked, context(p))
    assert drawn.weight is asked.weight
    assert drawn.dropped is asked.dropped
