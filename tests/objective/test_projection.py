"""The closed form against autograd through all logits: the same values and gradients, with less."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pd_lightning import losses
from pd_lightning.language_model import LanguageModel, build_causal_lm
from pd_lightning.losses import Loss
from pd_lightning.objective.objective import Objective, Terms
from pd_lightning.targets import Form, HiddenTargets, SparseTargets, Targets
from pd_lightning.targets.blockwise import Workspace
from pd_lightning.targets.heads import Head, LinearHead
from pd_lightning.transforms import AdaKD, LabelSmoothing, NormKD, SampleTokens, Temperature, TopPK, Transform
from pd_lightning.weightings import MaskFirstTokens, StudentEntropy

N, D, V = 23, 6, 37
LOSSES: list[Loss] = [
    losses.ForwardKL(),
    losses.ForwardKL(temperature_squared=False),
    losses.ForwardKL(student_temperature=False, temperature_squared=False),
    losses.SoftCrossEntropy(),
    losses.ReverseKL(),
    losses.JensenShannon(0.3),
    losses.SkewedForwardKL(),
    losses.SkewedReverseKL(),
    losses.TotalVariation(),
    losses.MeanSquaredError(),
    losses.MeanSquaredError("logits"),
    losses.DecoupledTopK(),
    losses.TailAware(2, 1.5),
    losses.WeightedSum({"kl": losses.ForwardKL(), "tv": losses.TotalVariation()}, {"tv": 0.5}),
]
TRANSFORMS: dict[str, dict[str, Transform]] = {
    "dense": {},
    "smoothed": {"smooth": LabelSmoothing(0.1)},
    "bucket": {"cut": TopPK(0.8, 5)},
    "bucket, tempered": {"cut": TopPK(0.8, 5), "tau": Temperature(2.0)},
    "dense, tempered": {"tau": Temperature(2.0)},
    "renormalized": {"cut": TopPK(0.8, 5, tail="renormalize")},
    "renormalized, tempered": {"cut": TopPK(0.8, 5, tail="renormalize"), "tau": Temperature(2.0)},
    "none": {"cut": TopPK(0.8, 5, tail="none")},
    "sampled": {"draw": SampleTokens(8)},
    "bucket, by student loss": {"cut": TopPK(0.8, 5), "tau": AdaKD("student_loss")},
    "dense, by student loss": {"tau": AdaKD("student_loss")},
    "dense, normed": {"tau": NormKD(student="own")},
}
# Of these, transforms that look at the student's logits themselves.
NEED_LOGITS = {"bucket, by student loss", "dense, by student loss", "dense, normed"}


def pairs() -> list[Any]:
    found = []
    for loss in LOSSES:
        for name, transforms in TRANSFORMS.items():
            try:
                Objective(loss, transforms).check(Form("dense"))
            except ValueError:
                continue
            found.append(pytest.param(loss, name, id=f"{type(loss).__name__}-{name}"))
    return found


class Problem:
    """Hidden states of student and teacher, heads, and labels of which some are missing."""

    def __init__(
        self, dtype: torch.dtype = torch.float64, bias: bool = False, scale: float = 1.0, cap: float | None = None
    ) -> None:
        generator = torch.Generator().manual_seed(3)

        def random(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

        self.hidden, self.weight = random(1, N, D).requires_grad_(), random(V, D).requires_grad_()
        self.bias = random(V).requires_grad_() if bias else None
        self.labels = torch.randint(0, V, (1, N), generator=generator)
        self.labels[0, [2, 5, 22]] = -100
        teacher = 0.7 * random(V, D)
        project = Head(lambda hidden: hidden @ teacher.T, vocab_size=V, linear=LinearHead(teacher))
        self.teacher = HiddenTargets(random(N, D), project)
        self.linear = LinearHead(self.weight, self.bias, scale, cap)

    def head(self, fused: bool) -> Head:
        def project(hidden: Tensor) -> Tensor:
            logits = self.linear.scale * nn.functional.linear(hidden, self.weight, self.bias)
            return logits if self.linear.cap is None else self.linear.cap * torch.tanh(logits / self.linear.cap)

        return Head(project, self.leaves[1:], V, self.linear if fused else None)

    @property
    def leaves(self) -> tuple[Tensor, ...]:
        return (self.hidden, self.weight, *(() if self.bias is None else (self.bias,)))

    def solve(
        self, objective: Objective, fused: bool, targets: Targets | None = None, kd_weight: float = 0.6
    ) -> tuple[Terms, tuple[Tensor, ...]]:
        targets = targets or self.teacher
        terms = objective(self.hidden, self.head(fused), self.labels, targets, kd_weight, observed=True)
        return terms, torch.autograd.grad(3.0 * terms.loss, self.leaves)


def assert_same(problem: Problem, objective: Objective, tolerance: float = 1e-12, **kwargs: Any) -> None:
    (fused, gradients), (plain, expected) = (problem.solve(objective, which, **kwargs) for which in (True, False))
    for name, value in vars(plain).items():
        actual = getattr(fused, name)
        if value is None:
            assert actual is None
        else:
            torch.testing.assert_close(actual, value, rtol=tolerance, atol=tolerance * N)
    for gradient, one in zip(gradients, expected, strict=True):
        torch.testing.assert_close(gradient, one, rtol=tolerance, atol=tolerance * float(one.abs().max()))


@pytest.fixture
def chunks_of_five(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks that divide neither the positions nor the vocabulary."""
    monkeypatch.setattr("pd_lightning.objective.chunking.rows_per_chunk", lambda *args: 5)


@pytest.mark.usefixtures("chunks_of_five")
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
@pytest.mark.parametrize(("loss", "name"), pairs())
def test_values_and_gradients_are_those_of_autograd(
    loss: Loss, name: str, dtype: torch.dtype, tolerance: float
) -> None:
    weighting = {"first": MaskFirstTokens(3), "surest": StudentEntropy(0.5)}
    assert_same(Problem(dtype), Objective(loss, TRANSFORMS[name], weighting), tolerance)


@pytest.mark.usefixtures("chunks_of_five")
@pytest.mark.parametrize("name", ["dense", "bucket", "none"])
@pytest.mark.parametrize("vocab_size", [36, 30, V + 4])
def test_a_shared_vocabulary(name: str, vocab_size: int) -> None:
    """The student's padding is in the LM loss and not in what it is compared with."""
    objective = Objective(transforms=TRANSFORMS[name])
    objective.share_vocabulary(vocab_size)
    assert_same(Problem(), objective)


@pytest.mark.usefixtures("chunks_of_five")
@pytest.mark.parametrize("name", ["dense", "bucket"])
def test_a_teacher_whose_padding_is_most_probable_agrees_with_nobody(name: str) -> None:
    problem, objective = Problem(), Objective(transforms=TRANSFORMS[name])
    objective.share_vocabulary(V)
    wide = torch.cat([problem.teacher.rows(slice(None)).logprobs, torch.full((N, 3), 5.0)], dim=-1)
    problem.teacher = HiddenTargets(wide.double(), Head(lambda logits: logits, vocab_size=V + 3))
    assert_same(problem, objective)
    assert problem.solve(objective, True)[0].agreement == 0


@pytest.mark.usefixtures("chunks_of_five")
@pytest.mark.parametrize("name", ["dense", "bucket", "dense, tempered", "renormalized, tempered"])
@pytest.mark.parametrize(
    ("bias", "scale", "cap"),
    [(True, 1.0, None), (False, 0.3, None), (True, 0.3, None), (False, 1.0, 2.0), (True, 0.3, 1.5)],
)
def test_a_bias_a_scale_and_a_cap(name: str, bias: bool, scale: float, cap: float | None) -> None:
    assert_same(Problem(bias=bias, scale=scale, cap=cap), Objective(transforms=TRANSFORMS[name]))


@pytest.mark.usefixtures("chunks_of_five")
@pytest.mark.parametrize("name", ["dense", "bucket"])
def test_a_teacher_in_a_narrower_type(name: str) -> None:
    problem = Problem()
    wide = problem.teacher
    problem.teacher = HiddenTargets(wide.hidden.float(), Head(lambda hidden: wide.head(hidden.double()).float()))
    assert_same(problem, Objective(transforms=TRANSFORMS[name]), 1e-6)


@pytest.mark.usefixtures("chunks_of_five")
def test_the_lm_loss_alone_and_a_batch_without_labels() -> None:
    problem = Problem(bias=True)
    assert_same(problem, Objective(), kd_weight=0.0)
    for fused in (True, False):
        terms = Objective()(problem.hidden, problem.head(fused), problem.labels)
        problem.leaves[0].grad = None
        terms.loss.backward()
        assert terms.kd_loss is None
        (gradient,) = (problem.hidden.grad,)
        assert gradient is not None
        if fused:
            first = gradient.clone()
    torch.testing.assert_close(first, gradient)
    problem.labels.fill_(-100)
    for name in ("dense", "bucket"):
        terms, gradients = problem.solve(Objective(transforms=TRANSFORMS[name]), True)
        assert terms.loss == 0
        assert not any(gradient.any() for gradient in gradients)


def test_a_sure_student_keeps_the_gradient_of_its_tail() -> None:
    """Off the kept ids the student has e-20, which 1 - Σ q in float32 would make 0, and a share of 1/e-20 cancel."""
    logits = torch.tensor([[20.0, 0.0, -1.0, -2.0]], dtype=torch.float64)
    targets = SparseTargets(torch.tensor([[0]]), torch.tensor([[-0.1]]), torch.tensor([-0.1]).exp().neg().log1p())
    found = {}
    for dtype in (torch.float64, torch.float32):
        hidden = torch.ones(1, 1, 1, dtype=dtype, requires_grad=True)
        weight = logits.T.to(dtype).requires_grad_()
        head = Head(lambda rows, w=weight: rows @ w.T, (weight,), 4, LinearHead(weight))
        terms = Objective()(hidden, head, torch.tensor([[-100]]), targets, 1.0)
        assert terms.kd_loss == 0
        terms = Objective()(hidden, head, torch.tensor([[0]]), targets, 1.0)
        (found[dtype],) = torch.autograd.grad(terms.loss, weight)
    assert found[torch.float64].abs().min() > 1e-3
    torch.testing.assert_close(found[torch.float32].double(), found[torch.float64], rtol=1e-5, atol=0)


@pytest.mark.parametrize("name", ["dense", "bucket"])
def test_under_autocast_sums_stay_in_float32(name: str) -> None:
    problem, objective = Problem(torch.float32), Objective(transforms=TRANSFORMS[name])
    expected, gradients = problem.solve(objective, True)
    with torch.autocast("cpu", torch.bfloat16):
        terms, narrow = problem.solve(objective, True)
        _, plain = problem.solve(objective, False)
    assert terms.loss.dtype == torch.float32
    torch.testing.assert_close(terms.loss, expected.loss, rtol=1e-2, atol=0)
    for gradient, one, autocast in zip(narrow, gradients, plain, strict=True):
        assert gradient.dtype == torch.float32
        scale = float(one.abs().max())
        torch.testing.assert_close(gradient, one, rtol=1e-2, atol=2e-2 * scale)
        # No further from the truth than autograd is.
        assert (gradient - one).norm() <= 1.5 * (autocast - one).norm()


def test_a_head_in_bfloat16() -> None:
    problem, wide = Problem(torch.bfloat16), Problem(torch.float32)
    terms, gradients = problem.solve(Objective(transforms=TRANSFORMS["bucket"]), True)
    expected, exact = wide.solve(Objective(transforms=TRANSFORMS["bucket"]), True)
    assert [gradient.dtype for gradient in gradients] == [torch.bfloat16] * 2
    torch.testing.assert_close(terms.loss, expected.loss, rtol=1e-2, atol=0)
    for gradient, one in zip(gradients, exact, strict=True):
        torch.testing.assert_close(gradient.float(), one, rtol=2e-2, atol=3e-2 * float(one.abs().max()))


@pytest.mark.parametrize(("name", "expected"), [(name, name not in NEED_LOGITS) for name in TRANSFORMS])
def test_what_needs_no_logits_makes_none(name: str, expected: bool) -> None:
    """A student whose logits nobody can have: only what the projection gives."""
    problem = Problem()
    head = problem.head(True)
    asked = []

    def project(hidden: Tensor) -> Tensor:
        asked.append(len(hidden))
        return head.project(hidden)

    seen = Head(project, head.parameters, head.vocab_size, head.linear)
    Objective(transforms=TRANSFORMS[name])(problem.hidden, seen, problem.labels, problem.teacher, 0.5)
    assert (asked == []) == expected


def test_one_buffer_serves_all_chunks(monkeypatch: pytest.MonkeyPatch, chunks_of_five: None) -> None:
    made: list[int] = []
    take = Workspace.take

    def counted(self: Workspace, *args: Any) -> Tensor:
        had = len(self._flat)
        taken = take(self, *args)
        made.extend([taken.numel()] * (len(self._flat) - had))
        return taken

    monkeypatch.setattr(Workspace, "take", counted)
    problem = Problem()
    stored = problem.teacher.rows(slice(None)).keep(*problem.teacher.rows(slice(None)).logprobs.topk(4)[::-1])
    problem.solve(Objective(), True, stored)
    assert made == [5 * V]
    made.clear()
    problem.solve(Objective(), True)
    # The student's, the teacher's, and the teacher's probabilities.
    assert made == [5 * V] * 3


def test_gradients_are_given_away_once_and_kept_where_the_graph_is() -> None:
    problem = Problem()
    terms = Objective()(problem.hidden, problem.head(True), problem.labels, problem.teacher, 0.5)
    first = torch.autograd.grad(terms.loss, problem.leaves, retain_graph=True)
    again = torch.autograd.grad(2.0 * terms.loss, problem.leaves)
    torch.testing.assert_close(again, tuple(2.0 * gradient for gradient in first))
    with pytest.raises(RuntimeError, match=r"can be differentiated once, got .* a second backward pass"):
        torch.autograd.grad(terms.loss, problem.leaves)


TINY: dict[str, Any] = {
    "vocab_size": V,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
}


@pytest.mark.parametrize(
    ("settings", "scale"),
    [
        ({"model_type": "llama"}, 1.0),
        ({"model_type": "llama", "tie_word_embeddings": True}, 1.0),
        ({"model_type": "granite", "logits_scaling": 8.0}, 0.125),
        ({"model_type": "cohere", "logit_scale": 0.5}, 0.5),
        ({"model_type": "gemma2", "final_logit_softcapping": 0.3}, 1.0),
    ],
    ids=["llama", "tied", "granite", "cohere", "gemma2"],
)
def test_heads_of_hugging_face_models(settings: dict[str, Any], scale: float | None) -> None:
    torch.manual_seed(0)
    model = LanguageModel(build_causal_lm({**TINY, **settings}))
    head = model.head
    assert (None if head.linear is None else head.linear.scale) == scale
    ids = torch.randint(0, V, (2, 8))
    results = []
    for one in (head, Head(head.project, head.parameters, head.vocab_size)):
        model.zero_grad()
        targets = HiddenTargets(torch.randn(16, V, generator=torch.Generator().manual_seed(1)), Head(lambda h: h))
        Objective(transforms={"cut": TopPK(0.9, 6)})(model.hidden(ids), one, ids, targets, 0.7).loss.backward()
        results.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    for fused, plain in zip(*results, strict=True):
        torch.testing.assert_close(fused, plain, rtol=1e-4, atol=1e-6)


def test_a_head_with_a_hook_or_of_another_kind_is_called() -> None:
    """LogitsRecorder looks at what the head gives; an adapter adds to it."""

    class Adapted(nn.Linear):
        pass

    model: Any = build_causal_lm({**TINY, "model_type": "llama"})
    assert LanguageModel(model).head.linear is not None
    handle = model.lm_head.register_forward_hook(lambda *call: None)
    assert LanguageModel(model).head.linear is None
    handle.remove()
    assert LanguageModel(model).head.linear is not None
    model.lm_head = Adapted(16, V, bias=False)
    assert LanguageModel(model).head.linear is None


@pytest.mark.parametrize("name", ["dense", "bucket"])
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compiled_is_the_same(name: str, backend: str) -> None:
    problem, objective = Problem(), Objective(transforms=TRANSFORMS[name])

    def whole(hidden: Tensor) -> Tensor:
        return objective(hidden.sin(), problem.head(True), problem.labels, problem.teacher, 0.6).loss

    expected = torch.autograd.grad(whole(problem.hidden), problem.leaves)
    torch._dynamo.reset()
    compiled: Any = torch.compile(whole, backend=backend)
    torch.testing.assert_close(torch.autograd.grad(compiled(problem.hidden), problem.leaves), expected)
    torch._dynamo.reset()
