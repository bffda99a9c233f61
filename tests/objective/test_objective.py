from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from pd_lightning import losses
from pd_lightning.losses import Loss
from pd_lightning.objective import Objective
from pd_lightning.objective.position_weights import position_weights
from pd_lightning.objective.projection import Projection
from pd_lightning.targets import DenseTargets, HiddenTargets
from pd_lightning.targets.heads import Head, LinearHead
from pd_lightning.transforms import SampleTokens, Temperature, TopPK, Transform
from pd_lightning.weightings import MaskFirstTokens, TeacherEntropy

N, D, V = 7, 5, 11


def head(weight: Tensor) -> Head:
    return Head(lambda hidden: hidden @ weight.T, (weight,), len(weight), LinearHead(weight))


@pytest.fixture
def problem() -> tuple[Tensor, Tensor, Tensor, DenseTargets]:
    """Hidden states, head, labels (some ignored) and dense targets, in float64."""
    generator = torch.Generator().manual_seed(1)
    hidden = torch.randn(N, D, generator=generator, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(V, D, generator=generator, dtype=torch.float64, requires_grad=True)
    labels = torch.randint(0, V, (N,), generator=generator)
    labels[[2, 5]] = -100
    teacher = torch.randn(N, V, generator=generator, dtype=torch.float64)
    return hidden, weight, labels, DenseTargets(teacher.log_softmax(-1))


def test_mixes_the_two_losses_over_labelled_positions(problem: tuple[Tensor, Tensor, Tensor, DenseTargets]) -> None:
    hidden, weight, labels, targets = problem
    terms = Objective()(hidden[None], head(weight), labels[None], targets, 0.3)
    counted = labels != -100
    log_q = (hidden @ weight.T).log_softmax(-1)[counted]
    log_p = targets.logprobs[counted]
    lm = F.nll_loss(log_q, labels[counted], reduction="sum")
    kd = F.kl_div(log_q, log_p, reduction="sum", log_target=True)
    torch.testing.assert_close(terms.loss, 0.7 * lm + 0.3 * kd)
    torch.testing.assert_close(terms.lm_loss, lm.detach())
    torch.testing.assert_close(terms.kd_loss, kd.detach())
    assert terms.num_tokens == 5
    assert terms.agreement == (log_q.argmax(-1) == log_p.argmax(-1)).sum()


@pytest.mark.parametrize("fused", [True, False])
def test_figures_of_the_student(problem: tuple[Tensor, Tensor, Tensor, DenseTargets], fused: bool) -> None:
    hidden, weight, labels, targets = problem
    one = head(weight) if fused else Head(head(weight).project, (weight,), len(weight))
    counted = labels != -100
    log_q = (hidden @ weight.T).log_softmax(-1)[counted].detach()
    labels = torch.where(counted, (hidden @ weight.T).argmax(-1).where(torch.arange(N) < 4, labels), -100)
    objective = Objective(transforms={"cut": TopPK(1.0, 3), "tau": Temperature(2.0)})
    terms = objective(hidden[None], one, labels[None], targets, 0.3, observed=True)
    assert 1 < terms.top1_accuracy == (log_q.argmax(-1) == labels[counted]).sum() < 5
    torch.testing.assert_close(terms.student_entropy, -(log_q.exp() * log_q).sum())
    kept = targets.logprobs[counted].topk(3).indices
    torch.testing.assert_close(terms.student_kept_mass, log_q.exp().gather(-1, kept).sum())
    for name, value in vars(terms).items():
        assert (value is None) == (name in ("dropped_mass", "router_aux_loss"))
        assert value is None or value.requires_grad == (name == "loss")
    assert Objective()(hidden[None], one, labels[None], targets, 0.3).student_entropy is None
    assert Objective()(hidden[None], one, labels[None], targets, 0.3, observed=True).student_kept_mass is None


@pytest.mark.parametrize("chunk_size", [1, 3, 100])
def test_the_chunk_size_is_a_setting(
    problem: tuple[Tensor, Tensor, Tensor, DenseTargets], chunk_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    hidden, weight, labels, targets = problem
    seen = []
    compare = Projection.compare

    def watched(self: Projection, part: Tensor, *args: Any) -> Any:
        seen.append(len(part))
        return compare(self, part, *args)

    monkeypatch.setattr(Projection, "compare", watched)
    terms = Objective(chunk_size=chunk_size)(hidden[None], head(weight), labels[None], targets, 0.3)
    assert max(seen) == min(chunk_size, N)
    assert sum(seen) == N
    torch.testing.assert_close(terms.loss, Objective()(hidden[None], head(weight), labels[None], targets, 0.3).loss)


def test_a_chunk_has_a_position_at_least() -> None:
    with pytest.raises(ValueError, match=r"^chunk_size must be at least 1, got 0\. Set model\.chunk_size, or leave it"):
        Objective(chunk_size=0)


def test_no_positions_are_no_loss(problem: tuple[Tensor, Tensor, Tensor, DenseTargets]) -> None:
    hidden, weight, labels, targets = problem
    terms = Objective()(hidden[None, :0], head(weight), labels[None, :0], targets.rows(slice(0)), 0.3)
    assert terms.loss == terms.num_tokens == 0
    gradients = torch.autograd.grad(terms.loss, (hidden, weight), allow_unused=True)
    assert not gradients[1].any()


WHOLE = ["dense", "bucket", "renormalize", "uniform"]
LOSSES: list[tuple[Loss, list[str]]] = [
    (losses.ForwardKL(), [*WHOLE, "none", "sampled"]),
    (losses.SoftCrossEntropy(), [*WHOLE, "none", "sampled"]),
    (losses.ReverseKL(), ["dense", "bucket", "uniform"]),
    (losses.JensenShannon(0.3), WHOLE),
    (losses.SkewedForwardKL(), WHOLE),
    (losses.SkewedReverseKL(), WHOLE),
    (losses.TotalVariation(), WHOLE),
    (losses.MeanSquaredError(), WHOLE),
    (losses.MeanSquaredError("logits"), ["dense", "bucket", "none"]),
    (losses.DecoupledTopK(), ["bucket"]),
    (losses.TailAware(2, 1.5), ["dense"]),
    (losses.WeightedSum({"kl": losses.ForwardKL(), "tv": losses.TotalVariation()}, {"tv": 0.5}), WHOLE),
]


def of_every_loss(tails: list[str]) -> pytest.MarkDecorator:
    pairs = [(loss, tail) for loss, allowed in LOSSES for tail in allowed if tail in tails]
    return pytest.mark.parametrize(("loss", "tail"), pairs, ids=lambda x: x if isinstance(x, str) else type(x).__name__)


def objective_with(loss: Loss, tail: str, k: int = 2, tau: float = 2.0) -> Objective:
    """An objective that keeps the k most probable ids, and tempers what can be tempered."""
    if tail == "sampled":
        return Objective(loss, {"sample": SampleTokens(4)})
    cut: dict[str, Transform] = {} if tail == "dense" else {"cut": TopPK(k=k, tail=tail)}  # type: ignore[arg-type]
    return Objective(loss, cut if tail == "none" else {**cut, "temperature": Temperature(tau)})


@pytest.fixture
def small() -> tuple[Tensor, Tensor, Tensor, DenseTargets]:
    """The same with three positions, the second of them without a label, and five ids."""
    generator = torch.Generator().manual_seed(2)
    hidden = torch.randn(3, 2, generator=generator, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(5, 2, generator=generator, dtype=torch.float64, requires_grad=True)
    teacher = 2 * torch.randn(3, 5, generator=generator, dtype=torch.float64)
    log_z = teacher.logsumexp(-1)
    targets = DenseTargets(teacher - log_z[:, None], statistics={"log_z": log_z})
    return hidden, weight, torch.tensor([4, -100, 0]), targets


@of_every_loss([*WHOLE, "none", "sampled"])
def test_gradcheck_of_the_mixed_loss(small: tuple[Tensor, Tensor, Tensor, DenseTargets], loss: Loss, tail: str) -> None:
    hidden, weight, labels, targets = small
    objective = objective_with(loss, tail)

    def mixed(hidden: Tensor, weight: Tensor) -> Tensor:
        return objective(hidden[None], head(weight), labels[None], targets, 0.6).loss

    assert torch.autograd.gradcheck(mixed, (hidden, weight))


@of_every_loss(["bucket", "renormalize", "uniform", "none"])
def test_a_truncation_that_keeps_all_ids_changes_nothing(
    small: tuple[Tensor, Tensor, Tensor, DenseTargets], loss: Loss, tail: str
) -> None:
    hidden, weight, labels, targets = small
    tau = 1.0 if tail == "none" else 2.0
    dense = losses.ForwardKL() if isinstance(loss, losses.DecoupledTopK) else loss
    results = []
    for objective in (objective_with(loss, tail, k=5, tau=tau), objective_with(dense, "dense", tau=tau)):
        terms = objective(hidden[None], head(weight), labels[None], targets, 0.6)
        results.append((terms.kd_loss, *torch.autograd.grad(terms.loss, (hidden, weight))))
    torch.testing.assert_close(*results)


@of_every_loss([*WHOLE, "none", "sampled"])
def test_all_positions_masked_give_a_zero_that_back_propagates(
    small: tuple[Tensor, Tensor, Tensor, DenseTargets], loss: Loss, tail: str
) -> None:
    hidden, weight, labels, targets = small
    objective = objective_with(loss, tail)
    terms = objective(hidden[None], head(weight), torch.full_like(labels, -100)[None], targets, 0.5)
    terms.loss.backward()
    assert terms.loss == 0
    assert terms.num_tokens == 0
    for gradient in (hidden.grad, weight.grad):
        assert gradient is not None
        assert not gradient.any()


def test_only_the_loss_has_a_graph(problem: tuple[Tensor, Tensor, Tensor, DenseTargets]) -> None:
    hidden, weight, labels, targets = problem
    terms = Objective()(hidden[None], head(weight), labels[None], targets, 0.3)
    others = (terms.lm_loss, terms.kd_loss, terms.agreement, terms.num_tokens)
    assert terms.loss.requires_grad
    assert not any(value is not None and value.requires_grad for value in others)


def test_without_targets_it_is_the_lm_loss(problem: tuple[Tensor, Tensor, Tensor, DenseTargets]) -> None:
    hidden, weight, labels, _ = problem
    terms = Objective()(hidden[None], head(weight), labels[None], None, 0.9)
    torch.testing.assert_close(terms.loss.detach(), terms.lm_loss)
    assert terms.kd_loss is None
    assert terms.agreement is None


MISSING = torch.tensor([False, True, True, False, False, False, True])


@of_every_loss([*WHOLE, "none", "sampled"])
def test_where_the_teacher_said_nothing_the_lm_loss_alone_counts(
    small: tuple[Tensor, Tensor, Tensor, DenseTargets], loss: Loss, tail: str
) -> None:
    """As if those positions had come in a batch of their own, without targets."""
    hidden, weight, labels, targets = small
    missing = MISSING[: len(labels)]
    certain = torch.full_like(targets.logprobs, -torch.inf).index_fill(1, torch.tensor([0]), 0.0)
    mixed = replace(
        targets,
        logprobs=torch.where(missing[:, None], certain, targets.logprobs),
        statistics={"log_z": targets.statistics["log_z"].masked_fill(missing, 0.0)},
        missing=missing,
    )
    objective = objective_with(loss, tail)
    whole = objective(hidden[None], head(weight), labels[None], mixed, 0.6)
    with_targets = objective(
        hidden[None], head(weight), labels.masked_fill(missing, -100)[None], replace(mixed, missing=None), 0.6
    )
    without = objective(hidden[None], head(weight), labels.masked_fill(~missing, -100)[None])
    assert with_targets.kd_loss is not None
    torch.testing.assert_close(whole.loss, with_targets.loss + without.loss)
    torch.testing.assert_close(whole.lm_loss, with_targets.lm_loss + without.lm_loss)
    assert (whole.kd_loss, whole.agreement) == (with_targets.kd_loss, with_targets.agreement)
    assert (whole.num_tokens, whole.num_targets) == (
        with_targets.num_tokens + without.num_tokens,
        with_targets.num_tokens,
    )
    torch.testing.assert_close(
        torch.autograd.grad(whole.loss, (hidden, weight)),
        torch.autograd.grad(with_targets.loss + without.loss, (hidden, weight)),
    )


def test_routing_by_figures_leaves_positions_without_targets_out(
    problem: tuple[Tensor, Tensor, Tensor, DenseTargets],
) -> None:
    hidden, weight, labels, targets = problem
    entropy = torch.tensor([0.1, 0.0, 0.0, 0.2, 0.3, 0.0, 0.0])
    mixed = replace(targets, missing=MISSING, statistics={"entropy": entropy})
    weights = position_weights([TeacherEntropy(0.5)], hidden, head(weight), labels[None], mixed, 0.6)
    # Positions 0, 3 and 4 have labels and targets; half of them is two, the surest.
    torch.testing.assert_close(weights.kd.float(), torch.tensor([0.0, 0.0, 0.0, 0.0, 0.6, 0.6, 0.0]))
    torch.testing.assert_close(weights.lm.float(), torch.tensor([1.0, 1.0, 1.0, 1.0, 0.4, 0.4, 1.0]))


def test_hidden_targets_are_the_teachers_distribution(problem: tuple[Tensor, Tensor, Tensor, DenseTargets]) -> None:
    hidden, weight, _, _ = problem
    targets = HiddenTargets(hidden.detach(), head(weight))
    rows = targets.rows(slice(2, 4))
    torch.testing.assert_close(rows.logprobs, (hidden[2:4] @ weight.T).log_softmax(-1).detach())
    assert not rows.logprobs.requires_grad


@pytest.mark.parametrize("size", [1, 3, 4, 100])
def test_chunked_equals_plain(
    problem: tuple[Tensor, Tensor, Tensor, DenseTargets], size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    hidden, weight, labels, targets = problem
    objective = Objective(transforms={"cut": TopPK(0.8, 4)})
    plain = objective(hidden[None], head(weight), labels[None], targets, 0.6, observed=True)
    expected = torch.autograd.grad(2.0 * plain.loss, (hidden, weight))
    monkeypatch.setattr("pd_lightning.objective.chunking.rows_per_chunk", lambda *args: size)
    terms = objective(hidden[None], head(weight), labels[None], targets, 0.6, observed=True)
    actual = torch.autograd.grad(2.0 * terms.loss, (hidden, weight))
    torch.testing.assert_close(vars(terms), vars(plain))
    torch.testing.assert_close(actual, expected)


def test_no_more_logits_than_a_chunk_exist_at_once(problem: tuple[Tensor, Tensor, Tensor, DenseTargets]) -> None:
    hidden = torch.randn(600, 5, requires_grad=True)
    weight = torch.randn(131_072, 5, requires_grad=True)
    seen: list[int] = []

    def project(rows: Tensor) -> Tensor:
        seen.append(len(rows))
        return rows @ weight.T

    terms = Objective()(hidden[None], Head(project, (weight,), 131_072), torch.zeros(1, 600, dtype=torch.long))
    terms.loss.backward()
    assert seen == [128, 128, 128, 128, 88]


def test_a_head_that_is_not_trained_gets_no_gradient(problem: tuple[Tensor, Tensor, Tensor, DenseTargets]) -> None:
    hidden, weight, labels, targets = problem
    frozen = weight.detach()
    Objective()(hidden[None], head(frozen), labels[None], targets, 0.5).loss.backward()
    assert frozen.grad is None
    assert hidden.grad is not None


def test_a_second_derivative_is_refused(problem: tuple[Tensor, Tensor, Tensor, DenseTargets]) -> None:
    hidden, weight, labels, targets = problem
    terms = Objective()(hidden[None], head(weight), labels[None], targets, 0.5)
    with pytest.raises(RuntimeError, match="can be differentiated once, got create_graph=True"):
        torch.autograd.grad(terms.loss, hidden, create_graph=True)


def test_a_loss_of_the_users_own_must_give_one_number_a_position(
    problem: tuple[Tensor, Tensor, Tensor, DenseTargets],
) -> None:
    class Summed(losses.ForwardKL):
        def __call__(self, student_logits: Tensor, targets: Any) -> Tensor:
            return super().__call__(student_logits, targets).sum()

    hidden, weight, labels, targets = problem
    with pytest.raises(ValueError, match=r"one number for each of 7 positions, got .*Correct Summed of model"):
        Objective(Summed())(hidden[None], head(weight), labels[None], targets, 0.5)


def test_a_run_says_what_is_compared_with_what() -> None:
    objective = Objective(
        losses.ReverseKL(), {"a": TopPK(0.9), "b": Temperature(2.0)}, weighting={"c": MaskFirstTokens()}
    )
    assert objective.describe("bucket") == (
        "ReverseKL over the kept ids and one bucket for the tail (transforms TopPK, Temperature; weighting "
        "MaskFirstTokens)"
    )
    assert Objective().describe("dense") == "ForwardKL over all ids"
