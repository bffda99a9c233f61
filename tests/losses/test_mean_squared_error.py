"""Mean squared error of logits: what is compared, and when it can be."""

import numpy as np
import pytest
import torch
from loss_cases import make, problem
from loss_references import squared_error_of_logits

from pd_lightning.losses import MeanSquaredError
from pd_lightning.targets import Form

TAUS = np.array([0.5, 1.0, 1.5, 2.0, 5.0, 0.8]), np.array([0.8, 2.0, 1.0, 0.5, 1.5, 3.0])


@pytest.mark.parametrize("kind", ["dense", "bucket", "none"])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("k", [1, 5, 23])
def test_standardized_logits_are_less_their_mean_over_the_vocabulary(kind: str, reduction: str, k: int) -> None:
    p = problem()
    own, teacher = (torch.tensor(tau).float() for tau in TAUS)
    targets, kept = make(p, kind, k, temperature=teacher, student_temperature=own, standardized=True)
    actual = MeanSquaredError("logits", reduction)(torch.tensor(p.student).float(), targets)  # type: ignore[arg-type]
    expected = squared_error_of_logits(p.student, p.teacher, kept, TAUS, reduction, standardized=True)
    np.testing.assert_allclose(actual.numpy(), expected, rtol=2e-6, atol=1e-6)


@pytest.mark.parametrize("standardized", [True, False])
def test_a_shift_of_all_logits_counts_unless_they_are_standardized(standardized: bool) -> None:
    p = problem()
    targets, _ = make(p, "bucket", dtype=torch.float64, standardized=standardized)
    loss = MeanSquaredError("logits")(torch.tensor(p.teacher) + 3.0, targets)
    torch.testing.assert_close(loss, torch.full_like(loss, 0.0 if standardized else 9.0))


def test_unused_slots_count_for_nothing() -> None:
    """How wide a batch is padded depends on its other rows."""
    p = problem()
    for on, kinds in (("probabilities", ["bucket", "renormalized"]), ("logits", ["bucket", "none"])):
        for kind in kinds:
            targets, _ = make(p, kind)
            narrow = MeanSquaredError(on)(torch.tensor(p.student).float(), targets)  # type: ignore[arg-type]
            targets.ids = torch.cat([targets.ids, targets.ids[:, :1].expand(-1, 9)], dim=-1)
            targets.logprobs = torch.cat([targets.logprobs, torch.full((len(p.student), 9), -torch.inf)], dim=-1)
            wide = MeanSquaredError(on)(torch.tensor(p.student).float(), targets)  # type: ignore[arg-type]
            torch.testing.assert_close(wide, narrow)


@pytest.mark.parametrize(
    ("form", "message"),
    [
        (Form("bucket", has_logits=False), r"on logits must have the teacher's own logits, got probabilities that a "),
        (
            Form("dense", has_logits=False),
            r"Leave tail uniform and LabelSmoothing out .*init_args.space to",
        ),
        (Form("bucket", frozenset({"mean"})), r"on logits must have the teacher's log_z at each position, got "),
        (
            Form("none", frozenset({"log_z"}), standardized=True),
            r"must have the teacher's mean at each position, got ",
        ),
    ],
)
def test_logits_that_are_not_to_be_had_are_refused(form: Form, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MeanSquaredError("logits").check(form)


@pytest.mark.parametrize(
    "form",
    [
        Form("dense", frozenset()),
        Form("bucket", None),
        Form("none", frozenset({"log_z"})),
        Form("bucket", frozenset({"mean"}), standardized=True),
    ],
)
def test_logits_that_are_to_be_had_are_taken(form: Form) -> None:
    MeanSquaredError("logits").check(form)
