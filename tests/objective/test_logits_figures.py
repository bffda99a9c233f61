"""Figures of single positions against NumPy in float64, written from the formulas."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from pd_lightning.losses import JensenShannon, ReverseKL
from pd_lightning.objective import Objective
from pd_lightning.objective.logits_figures import LOGITS_PER_POSITION, MASS_AT, UNKNOWN, WIDTHS, Asked, logits_figures
from pd_lightning.targets import DenseTargets, HiddenTargets, SparseTargets
from pd_lightning.targets.heads import Head
from pd_lightning.transforms import SampleTokens, Temperature, TopPK
from pd_lightning.transforms.shared_vocabulary import SharedVocabulary

N, V = 9, 130


@pytest.fixture
def logits() -> Tensor:
    return 3 * torch.randn(N, V, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) + 1


@pytest.fixture
def teacher() -> Tensor:
    return 4 * torch.randn(N, V, dtype=torch.float64, generator=torch.Generator().manual_seed(2)) - 2


@pytest.fixture
def labels() -> Tensor:
    labels = torch.randint(V, (N,), generator=torch.Generator().manual_seed(3))
    labels[4] = -100
    return labels


def dense(teacher: Tensor) -> DenseTargets:
    return HiddenTargets(teacher, Head(lambda hidden: hidden)).rows(slice(None))


def stored(teacher: Tensor, k: int, **columns: Tensor) -> SparseTargets:
    log_p = teacher.log_softmax(-1)
    logprobs, ids = log_p.topk(k)
    # An unused slot, as where top-p kept fewer.
    logprobs[0, -1], ids[0, -1] = -torch.inf, ids[0, 0]
    kept = logprobs.exp().sum(-1)
    return SparseTargets(ids, logprobs, (1 - kept).log(), "bucket", statistics=columns)


def softmax(z: np.ndarray) -> np.ndarray:
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def reference(z: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
    p = softmax(z)
    entropy = -(p * np.log(p)).sum(-1)
    ordered = np.sort(p, axis=-1)[:, ::-1]
    return {
        "entropy": entropy,
        "effective_support": np.exp(entropy),
        "max_probability": p.max(-1),
        "label_rank": np.array([1 + (row > row[label]).sum() for row, label in zip(p, labels, strict=True)]),
        "logit_mean": z.mean(-1),
        "logit_std": np.sqrt(((z - z.mean(-1, keepdims=True)) ** 2).mean(-1)),
        **{f"mass_at_{k}": ordered[:, :k].sum(-1) for k in MASS_AT},
    }


def known(figures: dict[str, Tensor], name: str) -> np.ndarray:
    values = figures[name]
    assert values[4].eq(UNKNOWN).all(), "without a label a position counts for nothing"
    return np.delete(values.numpy(), 4, axis=0)


def compare(figures: dict[str, Tensor], expected: dict[str, np.ndarray], side: str = "") -> None:
    for name, values in expected.items():
        got = known(figures, f"{side}{name}")
        np.testing.assert_allclose(got, np.delete(values, 4, axis=0), rtol=1e-9, atol=1e-12, err_msg=name)


def test_both_sides_and_their_divergence(logits: Tensor, teacher: Tensor, labels: Tensor) -> None:
    found = logits_figures(Asked(Objective()), logits, labels, dense(teacher))
    compare(found, reference(logits.numpy(), labels.numpy()), "student_")
    compare(found, reference(teacher.numpy(), labels.numpy()), "teacher_")
    p, q = softmax(teacher.numpy()), softmax(logits.numpy())
    compare(found, {"kl": (p * np.log(p / q)).sum(-1)})
    onehot = np.eye(V)[labels.clamp(min=0).numpy()]
    lm, kd = q - onehot, q - p
    squares = {"lm_gradient": (lm**2).sum(-1), "kd_gradient": (kd**2).sum(-1), "gradient_product": (lm * kd).sum(-1)}
    compare(found, squares)
    some = known(found, "student_logits")
    assert some.shape == (N - 1, LOGITS_PER_POSITION)
    np.testing.assert_array_equal(some[:, :44], np.delete(logits.numpy(), 4, axis=0)[:, ::3])
    assert (some[:, 44:] == UNKNOWN).all()
    np.testing.assert_allclose(known(found, "teacher_logits")[:, :44], np.delete(teacher.numpy(), 4, axis=0)[:, ::3])
    assert "tail_mass" not in found
    assert "kept_ids" not in found
    assert found.keys() < WIDTHS.keys()


def test_gradients_are_those_of_transforms_and_loss(logits: Tensor, teacher: Tensor, labels: Tensor) -> None:
    """KL at a temperature of 2 over the 7 most probable ids, renormalized; its square undoes one of the halves."""
    objective = Objective(transforms={"cut": TopPK(1.0, 7, tail="renormalize"), "warm": Temperature(2.0)})
    found = logits_figures(Asked(objective), logits, labels, dense(teacher))
    p_all, q_warm = softmax(teacher.numpy()), softmax(logits.numpy() / 2)
    p = np.where(p_all >= np.sort(p_all, -1)[:, [-7]], p_all, 0)
    p = np.sqrt(p) / np.sqrt(p).sum(-1, keepdims=True)
    kd = 2**2 / 2 * (q_warm - p)
    lm = softmax(logits.numpy()) - np.eye(V)[labels.clamp(min=0).numpy()]
    compare(found, {"kd_gradient": (kd**2).sum(-1), "gradient_product": (kd * lm).sum(-1)})
    compare(found, {"tail_mass": 1 - np.sort(p_all, -1)[:, -7:].sum(-1), "kept_ids": np.full(N, 7.0)})
    compare(found, {"kl": (p_all * np.log(p_all / softmax(logits.numpy()))).sum(-1)})


@pytest.mark.parametrize("loss", [ReverseKL(), JensenShannon()])
def test_any_loss_has_gradients(loss: Any, logits: Tensor, teacher: Tensor, labels: Tensor) -> None:
    objective = Objective(loss, {"cut": TopPK(0.9, 20)})
    found = logits_figures(Asked(objective), logits, labels, dense(teacher))
    leaf = logits.clone().requires_grad_()
    loss(leaf, objective.transforms["cut"].teacher(dense(teacher), type("Ctx", (), {"vocab_size": V}))).sum().backward()
    assert leaf.grad is not None
    compare(found, {"kd_gradient": leaf.grad.square().sum(-1).numpy()})
    without = logits_figures(Asked(objective, gradients=False), logits, labels, dense(teacher))
    assert found.keys() - without.keys() == {"lm_gradient", "kd_gradient", "gradient_product"}


def test_what_a_store_tells(logits: Tensor, teacher: Tensor, labels: Tensor) -> None:
    """Its columns, the kept ids, and of the divergence what K+1 outcomes show."""
    whole = dense(teacher)
    columns = {name: whole.statistic(name) for name in ("log_z", "mean", "std", "entropy")}
    labels[1] = teacher[1].argmax()
    labels[2] = teacher[2].topk(3).indices[2]
    said = stored(teacher, 20, **columns)
    found = logits_figures(Asked(Objective(transforms={"cut": TopPK(1.0, 5)})), logits, labels, said)
    expected = reference(teacher.numpy(), labels.numpy())
    given = ("entropy", "effective_support", "max_probability", "logit_mean", "logit_std")
    compare(found, {name: expected[name] for name in given}, "teacher_")
    assert {name for name in found if name.startswith("teacher_")} == {
        f"teacher_{name}" for name in (*given, "label_rank")
    }
    ranks = expected["label_rank"].astype(float)
    kept = np.array([int(label) in ids for label, ids in zip(labels, said.ids.tolist(), strict=True)])
    assert kept[1:3].all()
    compare(found, {"label_rank": np.where(kept, ranks, np.inf)}, "teacher_")
    p, q = softmax(teacher.numpy()), softmax(logits.numpy())
    kl, tail = np.zeros(N), np.zeros(N)
    for row in range(N):
        ids = said.ids[row].numpy()[: 19 if row == 0 else 20]
        pairs = [*zip(p[row, ids], q[row, ids], strict=True), (1 - p[row, ids].sum(), 1 - q[row, ids].sum())]
        kl[row] = sum(a * np.log(a / b) for a, b in pairs)
        tail[row] = 1 - np.sort(p[row])[-5:].sum()
    compare(found, {"kl": kl, "tail_mass": tail, "kept_ids": np.full(N, 5.0)})
    bare = logits_figures(Asked(Objective()), logits, labels, stored(teacher, 20))
    assert {name for name in bare if name.startswith("teacher_")} == {"teacher_max_probability", "teacher_label_rank"}


def test_missing_positions_count_for_the_student_alone(logits: Tensor, teacher: Tensor, labels: Tensor) -> None:
    said = stored(teacher, 20)
    said.missing = torch.arange(N) < 2
    found = logits_figures(Asked(Objective()), logits, labels, said)
    for name, values in found.items():
        own = name.startswith("student") or name == "lm_gradient"
        assert (values.view(N, -1)[:2, 0] == UNKNOWN).all() == (not own), name


def test_sampled_targets_tell_how_many_ids(logits: Tensor, teacher: Tensor, labels: Tensor) -> None:
    drawn = logits_figures(Asked(Objective(transforms={"draw": SampleTokens(9)})), logits, labels, dense(teacher))
    assert (drawn["kept_ids"][:4] <= 9).all()
    assert (drawn["tail_mass"][:4] > 0).all()
    log_p = torch.full((N, 2), 0.5).double().log()
    counted = SparseTargets(torch.arange(2).expand(N, 2), log_p, None, "sampled")
    found = logits_figures(Asked(Objective()), logits, labels, counted)
    assert not {"kl", "tail_mass", "teacher_max_probability", "teacher_label_rank"} & found.keys()
    assert known(found, "kept_ids").tolist() == [2.0] * (N - 1)


@pytest.mark.parametrize("wider", ["student", "teacher"])
def test_padding_of_the_vocabulary_is_left_out(wider: str, logits: Tensor, teacher: Tensor, labels: Tensor) -> None:
    labels = labels.clamp(max=99)
    student, said = (logits, teacher[:, :100]) if wider == "student" else (logits[:, :100], teacher)
    objective = Objective()
    objective.share_vocabulary(100)
    found = logits_figures(Asked(objective, 100), student, labels, dense(said))
    p, q = softmax(teacher.numpy()[:, :100]), softmax(logits.numpy()[:, :100])
    compare(found, {"kl": (p * np.log(p / q)).sum(-1), "kd_gradient": ((p - q) ** 2).sum(-1)})
    compare(found, reference(student.numpy(), labels.numpy()), "student_")
    kept = stored(said, 20)
    shared = SharedVocabulary(100).teacher(kept, None)  # type: ignore[arg-type]
    one = logits_figures(Asked(objective, 100), student, labels, kept)
    other = logits_figures(Asked(Objective()), logits[:, :100], labels, shared)
    np.testing.assert_allclose(known(one, "kl"), known(other, "kl"), rtol=1e-9)
    if wider == "teacher":
        with pytest.raises(ValueError, match="must share a vocabulary, got logits of 100 ids of the student and 130"):
            logits_figures(Asked(Objective()), student, labels, dense(said))


def test_equal_distributions_and_ties(teacher: Tensor, labels: Tensor) -> None:
    found = logits_figures(Asked(Objective()), teacher, labels, dense(teacher))
    np.testing.assert_allclose(known(found, "kl"), 0.0, atol=1e-14)
    np.testing.assert_allclose(known(found, "kd_gradient"), 0.0, atol=1e-28)
    flat = logits_figures(Asked(Objective()), torch.zeros(N, V), labels, None)
    np.testing.assert_allclose(known(flat, "student_entropy"), np.log(V), rtol=1e-6)
    assert known(flat, "student_label_rank").tolist() == [1.0] * (N - 1)
    assert {name for name in flat if not name.startswith("student")} == {"lm_gradient"}


def test_what_has_diverged_is_shown(logits: Tensor, labels: Tensor) -> None:
    logits[2] = torch.nan
    found = logits_figures(Asked(Objective()), logits, labels, None)
    for name, values in found.items():
        assert values[2].isnan().any(), name


def test_half_precision_is_widened(logits: Tensor, teacher: Tensor, labels: Tensor) -> None:
    found = logits_figures(Asked(Objective()), logits.bfloat16(), labels, dense(teacher.float()))
    assert {values.dtype for values in found.values()} == {torch.float32}
    own = logits_figures(Asked(Objective()), logits.bfloat16().double(), labels, dense(teacher))
    np.testing.assert_allclose(known(found, "kl"), known(own, "kl"), rtol=1e-5)
