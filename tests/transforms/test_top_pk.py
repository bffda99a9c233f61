import numpy as np
import pytest
import torch

from pd_lightning.objective import Objective
from pd_lightning.targets import DenseTargets, SparseTargets
from pd_lightning.transforms import Temperature, TopPK, Transform

PROBS = torch.tensor([[0.5, 0.1, 0.3, 0.06, 0.04], [0.2, 0.2, 0.2, 0.2, 0.2]])
DENSE = DenseTargets(PROBS.log())


def truncate(targets: DenseTargets | SparseTargets = DENSE, **settings: object) -> SparseTargets:
    truncated = TopPK(**settings).teacher(targets)  # type: ignore[arg-type]
    assert isinstance(truncated, SparseTargets)
    return truncated


def kept(targets: SparseTargets, row: int = 0) -> dict[int, float]:
    used = targets.logprobs[row] > -torch.inf
    probs = targets.logprobs[row][used].exp()
    return dict(zip(targets.ids[row][used].tolist(), probs.tolist(), strict=True))


def test_keeps_the_fewest_ids_that_reach_p() -> None:
    assert kept(truncate(p=0.75)) == pytest.approx({0: 0.5, 2: 0.3})
    assert kept(truncate(p=0.45)) == pytest.approx({0: 0.5})
    assert len(kept(truncate(p=0.5), row=1)) == 3


def test_k_and_min_k_bound_what_p_keeps() -> None:
    assert list(kept(truncate(p=1.0, k=3))) == [0, 2, 1]
    assert list(kept(truncate(p=0.1, k=3, min_k=2))) == [0, 2]


def test_what_is_cut_off_is_the_bucket() -> None:
    torch.testing.assert_close(truncate(p=0.75).log_tail, torch.tensor([0.2, 0.2]).log(), rtol=1e-5, atol=0)


def test_other_tails() -> None:
    renormalized = truncate(p=0.75, tail="renormalize")
    assert renormalized.log_tail is None
    assert kept(renormalized) == pytest.approx({0: 0.625, 2: 0.375})
    forgotten = truncate(p=0.75, tail="none")
    assert forgotten.log_tail is None
    assert kept(forgotten) == pytest.approx({0: 0.5, 2: 0.3})


def test_narrowing_stored_targets_equals_truncating_dense_ones() -> None:
    stored = truncate(p=0.95, k=5)
    for settings in ({"p": 0.75}, {"k": 2}, {"p": 0.75, "tail": "renormalize"}):
        narrow, direct = truncate(stored, **settings), truncate(**settings)
        assert kept(narrow) == pytest.approx(kept(direct))
        if direct.log_tail is not None:
            torch.testing.assert_close(narrow.log_tail, direct.log_tail, rtol=1e-5, atol=0)


def test_unused_slots_repeat_an_id_of_their_row() -> None:
    truncated = truncate(p=0.75)
    for row in range(2):
        assert set(truncated.ids[row].tolist()) == set(kept(truncated, row))


def test_a_tiny_tail_is_kept_from_the_store() -> None:
    """1 - Σ p is 0 in float32 where the store knows that e^-20 was cut off."""
    stored = SparseTargets(torch.tensor([[3]]), torch.zeros(1, 1), torch.tensor([-20.0]))
    np.testing.assert_allclose(truncate(stored).log_tail, [-20.0], rtol=1e-6)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"p": 0.0}, r"p must be in \(0, 1\], got 0.0. Set init_args.p of TopPK"),
        ({"p": 1.5}, r"p must be in \(0, 1\], got 1.5"),
        ({"k": 0}, "must satisfy 1 <= min_k <= k, got k 0"),
        ({"k": 3, "min_k": 4}, "got k 3 and min_k 4"),
    ],
)
def test_bad_settings(settings: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TopPK(**settings)  # type: ignore[arg-type]


def test_p_of_one_keeps_all_that_k_allows() -> None:
    """One id has nearly all the probability: rounding must not cut the others, which count at a high temperature."""
    sure = torch.zeros(1, 200)
    sure[0, 7] = 15.0
    targets = DenseTargets(sure.log_softmax(-1))
    assert len(kept(truncate(targets, p=1.0, k=200))) == 200
    assert len(kept(truncate(targets, p=1.0, k=50))) == 50


def test_what_was_forgotten_cannot_be_tempered() -> None:
    forgetful = {"truncate": TopPK(0.9, tail="none")}
    Objective(transforms={**forgetful, "temperature": Temperature(1.0)})
    with pytest.raises(ValueError, match="got tail none before it"):
        Objective(transforms={**forgetful, "temperature": Temperature(2.0)})


def test_a_transform_of_the_users_own_is_tried_on_no_made_up_targets() -> None:
    class NeedsItsVocabulary(Transform):
        def teacher(self, targets: object) -> object:  # type: ignore[override]
            raise IndexError("id 50")

    Objective(transforms={"mine": NeedsItsVocabulary()})


def test_temperature_must_be_positive_and_come_last() -> None:
    with pytest.raises(ValueError, match="temperature must be positive, got -1"):
        Temperature(-1)
    with pytest.raises(ValueError, match="Truncation must come before temperature"):
        Objective(transforms={"temperature": Temperature(2.0), "truncate": TopPK(0.9)})
