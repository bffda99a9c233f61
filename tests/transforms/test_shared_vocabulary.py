"""Padding on either side: ids that only one of the two has."""

import numpy as np
import pytest
import torch
from transform_cases import (
    DTYPES,
    PROBLEMS,
    TOLERANCE,
    Problem,
    context,
    dense,
    forward_kl,
    kl,
    probabilities,
    rounded,
    softmax,
    stored,
)

from pd_lightning.losses import ForwardKL
from pd_lightning.targets import Form, SparseTargets
from pd_lightning.transforms import Temperature
from pd_lightning.transforms.shared_vocabulary import SharedVocabulary

P = PROBLEMS["plain"]
SIZE = 17


def narrow_student() -> Problem:
    return P._replace(student=P.student[:, :SIZE], labels=np.minimum(P.labels, SIZE - 1))


@pytest.mark.parametrize("dtype", DTYPES)
def test_dense_targets_of_a_wider_teacher(dtype: torch.dtype) -> None:
    actual = SharedVocabulary(SIZE).teacher(dense(P, dtype), context(narrow_student()))
    teacher = rounded(P, dtype).teacher
    np.testing.assert_allclose(probabilities(actual, 0), softmax(teacher[:, :SIZE]), atol=TOLERANCE[dtype])
    assert actual.dropped is not None
    np.testing.assert_allclose(actual.dropped, softmax(teacher)[:, SIZE:].sum(-1), atol=TOLERANCE[dtype])


@pytest.mark.parametrize("k", [1, 5, 23])
def test_stored_targets_of_a_wider_teacher(k: int) -> None:
    targets, kept = stored(P, k)
    actual = SharedVocabulary(SIZE).teacher(targets, context(narrow_student()))
    p = softmax(P.teacher)
    dropped = (p * kept)[:, SIZE:].sum(-1, keepdims=True)
    both = np.concatenate([(p * kept)[:, :SIZE], (p * ~kept).sum(-1, keepdims=True)], -1) / (1 - dropped)
    np.testing.assert_allclose(probabilities(actual, SIZE), both, atol=1e-12)
    assert actual.dropped is not None
    np.testing.assert_allclose(actual.dropped.numpy(), dropped[:, 0], atol=1e-12)
    assert isinstance(actual, SparseTargets)
    assert actual.ids.max() < SIZE


def test_unused_slots_repeat_an_id_of_their_row() -> None:
    targets, _ = stored(P, 9)
    actual = SharedVocabulary(SIZE).teacher(targets, context(narrow_student()))
    assert isinstance(actual, SparseTargets)
    for ids, used in zip(actual.ids, actual.logprobs > -torch.inf, strict=True):
        assert set(ids.tolist()) == set(ids[used].tolist())


@pytest.mark.parametrize("k", [5, 23])
def test_the_students_padding_takes_no_part(k: int) -> None:
    """A student of 23 ids against a teacher of 17: as if the student had 17."""
    shared = SharedVocabulary(SIZE)
    wide = P._replace(teacher=P.teacher[:, :SIZE], labels=narrow_student().labels)
    student = torch.tensor(P.student, requires_grad=True)
    logits = shared.student(student, context(wide))
    for targets in (dense(wide), stored(wide, min(k, SIZE))[0]):
        treated = shared.teacher(targets, context(wide, logits))
        cut = wide._replace(student=P.student[:, :SIZE])
        expected, _ = forward_kl(Temperature(1.0), targets, cut, torch.float64)
        loss = ForwardKL()(logits, treated)
        np.testing.assert_allclose(loss.detach().numpy(), expected, atol=1e-12)
    loss.sum().backward()
    assert student.grad is not None
    assert (student.grad[:, SIZE:] == 0).all()


def test_equal_distributions_over_the_shared_ids_cost_nothing() -> None:
    p = narrow_student()
    student = torch.tensor(P.teacher[:, :SIZE])
    loss = ForwardKL()(student, SharedVocabulary(SIZE).teacher(dense(P), context(p, student)))
    np.testing.assert_allclose(loss.numpy(), kl(softmax(student.numpy()), softmax(student.numpy())), atol=1e-12)


def test_log_probability_and_log_z_stay_a_logit() -> None:
    ctx = context(narrow_student())
    whole = SharedVocabulary(SIZE).teacher(dense(P), ctx)
    np.testing.assert_allclose(
        (whole.logprobs + whole.statistic("log_z")[:, None]).numpy(), P.teacher[:, :SIZE], atol=1e-12
    )
    before, _ = stored(P, 4)
    after = SharedVocabulary(SIZE).teacher(before, ctx)
    assert isinstance(after, SparseTargets)
    logits = (after.logprobs + after.statistic("log_z")[:, None]).numpy()
    expected = np.take_along_axis(P.teacher, after.ids.numpy(), -1)
    np.testing.assert_allclose(logits[logits > -np.inf], expected[logits > -np.inf], atol=1e-12)
    for name in ("mean", "label_logprob"):
        torch.testing.assert_close(
            after.statistic(name) + after.statistic("log_z"), before.statistic(name) + before.statistic("log_z")
        )


def test_form() -> None:
    assert SharedVocabulary(SIZE).form(Form("bucket", vocab_size=23)) == Form("bucket", vocab_size=SIZE)
