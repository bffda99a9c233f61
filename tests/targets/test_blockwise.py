"""Reductions in blocks against the plain ones, in both ways that a tensor can lie in memory."""

import pytest
import torch
from torch import Tensor

from pd_lightning.targets.blockwise import Workspace, argmax, dot, entropy, exponentials, lies_by_column, log_softmax_

N, V = 5, 103


@pytest.fixture(params=[False, True], ids=["by row", "by column"])
def by_column(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    monkeypatch.setattr("pd_lightning.targets.blockwise._CPU_ELEMENTS", 7 * N)  # blocks that don't divide V
    column: bool = request.param
    return column


def laid(values: Tensor, by_column: bool) -> Tensor:
    placed = Workspace(values.device).take("values", *values.shape, values.dtype, by_column)
    assert lies_by_column(placed) == by_column
    return placed.copy_(values)


@pytest.fixture
def logits() -> Tensor:
    return 3.0 * torch.randn(N, V, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def test_sums_are_the_plain_ones(logits: Tensor, by_column: bool) -> None:
    values, other = laid(logits, by_column), laid(logits.flip(0), not by_column)
    torch.testing.assert_close(dot(values, other), (logits * logits.flip(0)).sum(-1))
    logprobs = logits.log_softmax(-1)
    torch.testing.assert_close(entropy(laid(logprobs, by_column)), -(logprobs.exp() * logprobs).sum(-1))
    below = logits - logits.amax(-1, keepdim=True)
    torch.testing.assert_close(entropy(laid(below, by_column)), -(logprobs.exp() * logprobs).sum(-1))
    out = torch.empty_like(other)
    torch.testing.assert_close(exponentials(laid(logprobs, by_column), out), (logprobs.exp() * logprobs).sum(-1))
    torch.testing.assert_close(out, logprobs.exp())


def test_log_softmax_in_place_keeps_the_digits_of_large_logits(logits: Tensor, by_column: bool) -> None:
    large = (logits + 1e6).float()
    values = laid(large, by_column)
    log_z = log_softmax_(values)
    torch.testing.assert_close(values, large.double().log_softmax(-1).float(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(log_z, large.double().logsumexp(-1).float())


def test_the_impossible_counts_for_nothing(by_column: bool) -> None:
    logprobs = torch.full((2, V), -torch.inf)
    logprobs[0, 3], logprobs[1, [4, 5]] = 0.0, torch.tensor(0.5).log()
    values = laid(logprobs, by_column)
    torch.testing.assert_close(entropy(values), torch.tensor([0.0, 2.0]).exp2().log() * torch.tensor([0.0, 0.5]))
    out = torch.empty(2, V)
    assert exponentials(values, out).isfinite().all()
    assert out.sum() == 2


def test_argmax_is_the_first_of_several(logits: Tensor, by_column: bool) -> None:
    assert torch.equal(argmax(laid(logits, by_column)), logits.argmax(-1))
    for best in ([0, 50], [50, 51], [6, 7], [V - 1], [20, V - 1]):
        tied = logits.clamp(max=8.0)
        tied[2, best] = 9.0
        assert argmax(laid(tied, by_column))[2] == best[0]


def test_a_workspace_makes_each_tensor_once() -> None:
    workspace = Workspace(torch.device("cpu"))
    first = workspace.take("a", 4, 6, torch.float32)
    assert workspace.take("a", 3, 6, torch.float32, by_column=True).data_ptr() == first.data_ptr()
    assert workspace.take("b", 4, 6, torch.float32).data_ptr() != first.data_ptr()
    assert workspace.take("a", 4, 6, torch.float64).dtype == torch.float64
    assert workspace.take("a", 8, 6, torch.float32).shape == (8, 6)
