import pytest
import torch
from torch import Tensor

from pd_lightning.objective import Objective
from pd_lightning.targets import DenseTargets, Form, SparseTargets
from pd_lightning.targets.heads import Head
from pd_lightning.transforms import TopPK
from pd_lightning.weightings import (
    MaskDocumentStarts,
    MaskFirstTokens,
    Positions,
    StudentEntropy,
    TeacherEntropy,
    Weighting,
    Weights,
)

B, T, D, V = 3, 8, 5, 13
COUNTED = torch.ones(B, T, dtype=torch.bool)
START = Weights(torch.full((B, T), 0.3), torch.full((B, T), 0.7))


def positions(**figures: Tensor) -> Positions:
    return Positions(COUNTED, None, figures)


def test_the_surest_positions_of_each_block_learn_from_the_label_alone() -> None:
    entropy = torch.stack([torch.arange(T), torch.arange(T).flip(0), torch.full((T,), 2)]).float()
    weights = TeacherEntropy(0.25)(START, positions(teacher_entropy=entropy))
    expected = torch.zeros(B, T, dtype=torch.bool)
    expected[0, :2] = expected[1, -2:] = expected[2, :2] = True
    torch.testing.assert_close(weights.lm, torch.where(expected, 1.0, 0.3))
    torch.testing.assert_close(weights.kd, torch.where(expected, 0.0, 0.7))


def test_a_fraction_is_of_the_labelled_positions() -> None:
    counted = COUNTED.clone()
    counted[0, :4] = False
    counted[1] = False
    seen = Positions(counted, None, {"teacher_entropy": torch.arange(T).float().expand(B, T)})
    lost = TeacherEntropy(0.5)(START, seen).kd == 0
    assert lost.sum(dim=-1).tolist() == [2, 0, 4]
    assert lost[0].nonzero().flatten().tolist() == [4, 5]


@pytest.mark.parametrize(("elsewhere", "lm"), [("drop", 0.3), ("lm", 1.0)])
def test_the_least_sure_positions_of_the_student_learn_from_the_teacher(elsewhere: str, lm: float) -> None:
    entropy = torch.arange(T).float().expand(B, T)
    weighting = StudentEntropy(0.25, elsewhere)  # type: ignore[arg-type]
    weights = weighting(START, positions(student_entropy=entropy))
    kept = torch.arange(T).expand(B, T) >= 6
    torch.testing.assert_close(weights.kd, torch.where(kept, 0.7, 0.0))
    torch.testing.assert_close(weights.lm, torch.where(kept, 0.3, lm))


@pytest.mark.parametrize(
    ("losses", "lm", "kd"), [("both", 0.0, 0.0), ("lm", 0.0, 0.7), ("kd", 0.3, 0.0)], ids=lambda x: str(x)
)
def test_the_first_tokens_of_a_block_count_for_nothing(losses: str, lm: float, kd: float) -> None:
    weights = MaskFirstTokens(3, losses)(START, positions())  # type: ignore[arg-type]
    first = torch.arange(T).expand(B, T) < 3
    torch.testing.assert_close(weights.lm, torch.where(first, lm, 0.3))
    torch.testing.assert_close(weights.kd, torch.where(first, kd, 0.7))


@pytest.mark.parametrize("count", [1, 2, 20])
def test_the_first_tokens_of_a_document_count_for_nothing(count: int) -> None:
    eos = 0
    tokens = torch.tensor([[5, 0, 6, 7, 8, 9, 0, 4, 3], [0, 5, 5, 5, 5, 5, 5, 5, 0], [5, 5, 5, 5, 5, 5, 5, 0, 7]])
    ends = torch.nn.functional.pad(tokens[:, :-1] == eos, (1, 0))
    seen = Positions(COUNTED, ends.cumsum(dim=-1))
    weights = MaskDocumentStarts(count)(START, seen)
    expected = torch.zeros(B, T, dtype=torch.bool)
    for row in range(B):  # the label at t is token t + 1; token i + 1 starts a document where token i ends one
        for end in (tokens[row, :-1] == eos).nonzero().flatten().tolist():
            expected[row, end : end + count] = True
    torch.testing.assert_close(weights.kd == 0, expected)
    torch.testing.assert_close(weights.lm == 0, expected)


def test_a_mask_must_leave_something_of_a_block() -> None:
    with pytest.raises(ValueError, match=f"count must be below the {T} positions of a block, got {T}"):
        MaskFirstTokens(T)(START, positions())


def test_documents_must_be_known_apart() -> None:
    with pytest.raises(ValueError, match="MaskDocumentStarts must know where documents begin, got batches without"):
        MaskDocumentStarts()(START, positions())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TeacherEntropy(0.0), r"fraction must be in \(0, 1\], got 0.0. Set init_args.fraction of TeacherEnt"),
        (lambda: StudentEntropy(1.5), r"fraction must be in \(0, 1\], got 1.5. Set init_args.fraction of StudentEnt"),
        (lambda: MaskFirstTokens(0), "count must be at least 1, got 0. Set init_args.count of MaskFirstTokens"),
    ],
)
def test_bad_settings(make: type, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


class Needy(Weighting):
    needs = frozenset({"phase_of_the_moon"})

    def __call__(self, weights: Weights, positions: Positions) -> Weights:
        return weights


def test_an_unknown_need_is_named() -> None:
    with pytest.raises(
        ValueError, match=r"got phase_of_the_moon. Correct `needs` of the class of model.weighting.mine"
    ):
        Objective(weighting={"mine": Needy()})


@pytest.fixture
def problem() -> tuple[Tensor, Head, Tensor, DenseTargets]:
    generator = torch.Generator().manual_seed(1)
    hidden = torch.randn(B, T, D, generator=generator, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(V, D, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, V, (B, T), generator=generator)
    labels[0, :3] = -100
    teacher = torch.randn(B * T, V, generator=generator, dtype=torch.float64)
    return hidden, Head(lambda rows: rows @ weight.T, (weight,), V), labels, DenseTargets(teacher.log_softmax(-1))


@pytest.mark.parametrize("size", [4, 1000])
@pytest.mark.parametrize("stored", [False, True])
def test_the_objective_weighs_each_position(
    problem: tuple[Tensor, Head, Tensor, DenseTargets], size: int, stored: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against a plain sum over positions, with entropies computed anew and quantiles found by sorting."""
    hidden, head, labels, dense = problem
    monkeypatch.setattr("pd_lightning.objective.chunking.rows_per_chunk", lambda *args: size)
    monkeypatch.setattr("pd_lightning.objective.position_statistics.rows_per_chunk", lambda *args: size)
    targets: DenseTargets | SparseTargets = dense
    if stored:
        kept = dense.keep(*reversed(dense.logprobs.topk(V, dim=-1)))
        entropy = {"entropy": dense.statistic("entropy")}
        targets = SparseTargets(kept.ids, kept.logprobs, torch.full((B * T,), -torch.inf), statistics=entropy)
    weighting = {"surest": TeacherEntropy(0.25), "unsure": StudentEntropy(0.5), "first": MaskFirstTokens(2)}
    terms = Objective(weighting=weighting)(hidden, head, labels, targets, 0.6)

    log_q = head(hidden).log_softmax(-1).detach()
    log_p = dense.logprobs.view(B, T, V)
    kl = (log_p.exp() * (log_p - log_q)).sum(-1)
    expected = 0.0
    for b in range(B):
        counted = [t for t in range(T) if labels[b, t] != -100]
        by_teacher = sorted(counted, key=lambda t: -(log_p[b, t].exp() * log_p[b, t]).sum().item())
        by_student = sorted(counted, key=lambda t: (log_q[b, t].exp() * log_q[b, t]).sum().item())
        surest = by_teacher[: round(0.25 * len(counted))]
        unsure = by_student[: round(0.5 * len(counted))]
        for t in counted:
            lm, kd = (1.0, 0.0) if t in surest else (0.4, 0.6)
            kd = kd if t in unsure else 0.0
            if t >= 2:
                expected += lm * -log_q[b, t, labels[b, t]].item() + kd * kl[b, t].item()
    assert terms.loss.item() == pytest.approx(expected, rel=1e-9)
    assert terms.kd_loss is not None
    assert terms.kd_loss.item() == pytest.approx(kl[labels != -100].sum().item())
    assert terms.num_tokens == (labels != -100).sum()


def test_without_targets_only_masks_act(problem: tuple[Tensor, Head, Tensor, DenseTargets]) -> None:
    hidden, head, labels, _ = problem
    masked = labels.masked_fill(torch.arange(T) < 2, -100)
    weighting = {"surest": TeacherEntropy(0.25), "unsure": StudentEntropy(0.5), "first": MaskFirstTokens(2)}
    terms = Objective(weighting=weighting)(hidden, head, labels, None, 0.6)
    torch.testing.assert_close(terms.loss, Objective()(hidden, head, masked).loss)


def test_a_store_without_entropy_is_refused() -> None:
    objective = Objective(transforms={"cut": TopPK(0.9)}, weighting={"surest": TeacherEntropy()})
    objective.check(Form("dense"))
    with pytest.raises(ValueError, match=r"model.weighting.surest must have the teacher's entropy at each position"):
        objective.check(Form("bucket", frozenset({"log_z"})))
