import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from pd_lightning.objective import Objective
from pd_lightning.targets import DenseTargets, Head, HiddenTargets
from pd_lightning.transforms import Temperature, TopPK

N, D, V = 7, 5, 11


def head(weight: Tensor) -> Head:
    return Head(lambda hidden: hidden @ weight.T, (weight,), V)


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
    terms = Objective()(hidden, head(weight), labels, targets, 0.3)
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


@pytest.mark.parametrize("tail", ["bucket", "renormalize", "none"])
def test_gradcheck_of_the_mixed_loss(problem: tuple[Tensor, Tensor, Tensor, DenseTargets], tail: str) -> None:
    hidden, weight, labels, targets = problem
    tau = 1.0 if tail == "none" else 2.0
    cut = TopPK(0.8, 4, tail=tail)  # type: ignore[arg-type]
    objective = Objective(transforms={"cut": cut, "temperature": Temperature(tau)})

    def loss(hidden: Tensor, weight: Tensor) -> Tensor:
        return objective(hidden, head(weight), labels, targets, 0.6).loss

    assert torch.autograd.gradcheck(loss, (hidden, weight))


def test_only_the_loss_has_a_graph(problem: tuple[Tensor, Tensor, Tensor, DenseTargets]) -> None:
    hidden, weight, labels, targets = problem
    terms = Objective()(hidden, head(weight), labels, targets, 0.3)
    others = (terms.lm_loss, terms.kd_loss, terms.agreement, terms.num_tokens)
    assert terms.loss.requires_grad
    assert not any(value is not None and value.requires_grad for value in others)


def test_without_targets_it_is_the_lm_loss(problem: tuple[Tensor, Tensor, Tensor, DenseTargets]) -> None:
    hidden, weight, labels, _ = problem
    terms = Objective()(hidden, head(weight), labels, None, 0.9)
    torch.testing.assert_close(terms.loss.detach(), terms.lm_loss)
    assert terms.kd_loss is None
    assert terms.agreement is None


def test_all_positions_masked_give_a_zero_that_back_propagates(
    problem: tuple[Tensor, Tensor, Tensor, DenseTargets],
) -> None:
    hidden, weight, _, targets = problem
    labels = torch.full((N,), -100)
    terms = Objective(transforms={"cut": TopPK(0.8)})(hidden, head(weight), labels, targets, 0.5)
    terms.loss.backward()
    assert terms.loss == 0
    assert terms.num_tokens == 0
    assert hidden.grad is not None
    assert torch.equal(hidden.grad, torch.zeros(N, D, dtype=torch.float64))


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
    plain = objective._sums(head(weight), labels, targets, 0.6, hidden, slice(None))
    expected = torch.autograd.grad(2.0 * plain[0], (hidden, weight))
    monkeypatch.setattr("pd_lightning.chunking.rows_per_chunk", lambda *args: size)
    terms = objective(hidden, head(weight), labels, targets, 0.6)
    actual = torch.autograd.grad(2.0 * terms.loss, (hidden, weight))
    torch.testing.assert_close(terms.loss, plain[0])
    torch.testing.assert_close([terms.lm_loss, terms.kd_loss, terms.agreement, terms.num_tokens], list(plain[1:]))
    torch.testing.assert_close(actual, expected)


def test_no_more_logits_than_a_chunk_exist_at_once(problem: tuple[Tensor, Tensor, Tensor, DenseTargets]) -> None:
    hidden = torch.randn(600, 5, requires_grad=True)
    weight = torch.randn(20_000, 5, requires_grad=True)
    seen: list[int] = []

    def project(rows: Tensor) -> Tensor:
        seen.append(len(rows))
        return rows @ weight.T

    terms = Objective()(hidden, Head(project, (weight,), 20_000), torch.zeros(600, dtype=torch.long))
    terms.loss.backward()
    assert seen == [128, 128, 128, 128, 88]


def test_a_head_that_is_not_trained_gets_no_gradient(problem: tuple[Tensor, Tensor, Tensor, DenseTargets]) -> None:
    hidden, weight, labels, targets = problem
    frozen = weight.detach()
    Objective()(hidden, head(frozen), labels, targets, 0.5).loss.backward()
    assert frozen.grad is None
    assert hidden.grad is not None


def test_a_second_derivative_is_refused(problem: tuple[Tensor, Tensor, Tensor, DenseTargets]) -> None:
    hidden, weight, labels, targets = problem
    terms = Objective()(hidden, head(weight), labels, targets, 0.5)
    with pytest.raises(RuntimeError, match="can be differentiated once, got create_graph=True"):
        torch.autograd.grad(terms.loss, hidden, create_graph=True)
