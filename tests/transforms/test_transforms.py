"""What every transform keeps to, whatever it does."""

from dataclasses import fields, replace
from typing import Any

import pytest
import torch
from transform_cases import PROBLEMS, AnyTargets, context, dense, narrowed, stored

from pd_lightning import transforms
from pd_lightning.losses import ForwardKL
from pd_lightning.targets import DenseTargets, Form
from pd_lightning.transforms import (
    WTTM,
    AdaKD,
    Clip,
    LabelSmoothing,
    NormKD,
    SampleTokens,
    Standardize,
    Temperature,
    TopK,
    TopP,
    TopPK,
    Transform,
)
from pd_lightning.transforms.shared_vocabulary import SharedVocabulary

EACH: dict[str, Transform] = {
    "AdaKD SD": AdaKD("student_loss"),
    "AdaKD H": AdaKD("teacher_entropy"),
    "Clip": Clip(1.0),
    "Clip in std": Clip(0.5, "mean", "std"),
    "LabelSmoothing": LabelSmoothing(0.1),
    "LabelSmoothing towards label": LabelSmoothing(0.1, "label"),
    "NormKD": NormKD(),
    "SampleTokens": SampleTokens(9),
    "SharedVocabulary": SharedVocabulary(20),
    "Standardize": Standardize(),
    "Temperature": Temperature(2.0),
    "TopK": TopK(4),
    "TopP": TopP(0.8, tail="uniform"),
    "TopPK": TopPK(0.8, 4, tail="renormalize"),
    "WTTM": WTTM(),
}
P = PROBLEMS["plain"]._replace(labels=PROBLEMS["plain"].labels.clip(max=19))
GIVEN: dict[str, AnyTargets] = {
    "dense": dense(P),
    "store": stored(P, 6)[0],
    "store of all": stored(P, 23)[0],
    "kept on the fly": narrowed(P, 6),
    "renormalized": stored(P, 6, "renormalized")[0],
}


def works(transform: Transform, targets: AnyTargets) -> bool:
    try:
        transform.form(Form(targets.kind, vocab_size=23))
    except ValueError:
        return False
    return True


PAIRS = [(name, kind) for name, transform in EACH.items() for kind in GIVEN if works(transform, GIVEN[kind])]
each_pair = pytest.mark.parametrize(("name", "kind"), PAIRS)


def tensors(value: Any) -> list[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, dict):
        return [tensor for part in value.values() for tensor in tensors(part)]
    if isinstance(value, DenseTargets):
        return [tensor for f in fields(value) for tensor in tensors(getattr(value, f.name))]
    return []


@each_pair
def test_what_is_given_is_left_as_it_is(name: str, kind: str) -> None:
    transform, given = EACH[name], GIVEN[kind]
    before = {f.name: getattr(given, f.name) for f in fields(given)}
    copies = {key: [tensor.clone() for tensor in tensors(value)] for key, value in before.items()}
    student = torch.tensor(P.student)
    logits = student.clone()
    transform.teacher(given, context(P, transform.student(student, context(P, student))))
    assert torch.equal(student, logits)
    for key, value in before.items():
        assert getattr(given, key) is value
        assert all(torch.equal(a, b) for a, b in zip(tensors(value), copies[key], strict=True))


@each_pair
def test_targets_have_the_form_that_was_foretold(name: str, kind: str) -> None:
    transform, given = EACH[name], GIVEN[kind]
    after = transform.form(Form(given.kind, vocab_size=23))
    logits = transform.student(torch.tensor(P.student), context(P))
    treated = transform.teacher(given, context(P, logits))
    assert treated.kind == after.kind
    assert after.tempered == (not isinstance(treated.temperature, float) or treated.temperature != 1.0)
    assert after.standardized == treated.standardized
    assert after.vocab_size == logits.shape[-1]
    assert after.statistics is not None
    for figure in after.statistics - {"log_z"}:
        assert treated.statistic(figure, torch.tensor(P.labels)).shape == (6,)


@each_pair
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_was_asked_of_the_loss_before_is_kept(name: str, kind: str, dtype: torch.dtype) -> None:
    """A weight and dropped mass; with a student in low precision, and a finite loss at the end."""
    transform, given = EACH[name], replace(GIVEN[kind], weight=torch.arange(1.0, 7.0), dropped=torch.full((6,), 0.1))
    student = torch.tensor(P.student, dtype=dtype, requires_grad=True)
    logits = transform.student(student, context(P, student))
    treated = transform.teacher(given, context(P, logits))
    assert treated.weight is not None
    if name != "WTTM":
        assert treated.weight is given.weight
    if name != "SharedVocabulary":
        assert treated.dropped is given.dropped
    (gradient,) = torch.autograd.grad(ForwardKL()(logits, treated).sum(), student)
    assert gradient.isfinite().all()


@pytest.mark.parametrize(("name", "kind"), [pair for pair in PAIRS if pair[0] != "SampleTokens"])
def test_each_position_is_transformed_by_itself(name: str, kind: str) -> None:
    transform, given = EACH[name], GIVEN[kind]
    student = torch.tensor(P.student)

    def loss(rows: slice) -> torch.Tensor:
        part = context(P._replace(labels=P.labels[rows]), student[rows])
        logits = transform.student(student[rows], part)
        return ForwardKL()(logits, transform.teacher(given.rows(rows), part.with_logits(logits)))

    torch.testing.assert_close(torch.cat([loss(slice(0, 2)), loss(slice(2, 6))]), loss(slice(0, 6)))


def test_every_transform_is_among_these() -> None:
    ours = {name for name in transforms.__all__ if name != "Transform"} | {"SharedVocabulary"}
    assert {type(transform).__name__ for transform in EACH.values()} == ours
