"""Other people's batches in our layout."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from pd_lightning.data.inputs import BatchInputs

TOKENS = torch.tensor([[5, 6, 7, 8, 9], [1, 2, 3, 4, 0]])
IDS, NEXT = TOKENS[:, :-1], TOKENS[:, 1:]
NOTHING = torch.full((2, 1), -100)
SHIFTED = torch.cat([TOKENS[:, 1:], NOTHING], dim=1)


@pytest.mark.parametrize(
    ("batch", "input_ids", "labels"),
    [
        ({"input_ids": IDS, "labels": NEXT}, IDS, NEXT),
        ((IDS, NEXT), IDS, NEXT),
        ([IDS, NEXT], IDS, NEXT),
        (TOKENS, TOKENS, SHIFTED),
        ({"input_ids": TOKENS}, TOKENS, SHIFTED),
        ({"input_ids": TOKENS, "labels": TOKENS}, TOKENS, SHIFTED),
        ({"input_ids": TOKENS, "labels": SHIFTED}, TOKENS, SHIFTED),
        ((TOKENS, TOKENS), TOKENS, SHIFTED),
    ],
)
def test_layouts(batch: Any, input_ids: torch.Tensor, labels: torch.Tensor) -> None:
    found = BatchInputs()(batch)
    assert found["input_ids"].equal(input_ids)
    assert found["labels"].equal(labels)


def test_positions_without_a_label() -> None:
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
    expected = torch.tensor([[6, 7, 8, 9, -100], [2, 3, -100, -100, -100]])
    assert BatchInputs()({"input_ids": TOKENS, "attention_mask": mask})["labels"].equal(expected)
    same = {"input_ids": TOKENS, "labels": TOKENS.masked_fill(mask == 0, -100)}
    assert BatchInputs()(same)["labels"].equal(expected)
    prompt = NEXT.clone()
    prompt[:, :2] = -100
    assert BatchInputs()((IDS, prompt))["labels"].equal(prompt)


def test_the_first_batch_tells_and_one_without_labels_does_not() -> None:
    inputs = BatchInputs()
    empty = torch.full_like(TOKENS, -100)
    assert inputs({"input_ids": TOKENS, "labels": empty})["labels"].equal(empty)
    assert inputs({"input_ids": TOKENS, "labels": TOKENS})["labels"].equal(SHIFTED)
    # All its tokens are alike: it could be either.
    ones = torch.ones_like(TOKENS)
    assert inputs({"input_ids": ones, "labels": ones})["labels"][:, -1].eq(-100).all()


def test_a_map_of_ones_own() -> None:
    batch = SimpleNamespace(tokens=TOKENS)
    found = BatchInputs(lambda batch: {"input_ids": batch.tokens, "name": "a"})(batch)
    assert found.keys() == {"input_ids", "labels"}
    assert found["labels"].equal(SHIFTED)


def test_validation_may_have_another_layout_than_training() -> None:
    inputs = BatchInputs()
    assert inputs((IDS, NEXT))["labels"].equal(NEXT)
    with torch.no_grad():
        assert inputs({"input_ids": TOKENS, "labels": TOKENS})["labels"].equal(SHIFTED)
    assert inputs((IDS, NEXT))["labels"].equal(NEXT)


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (
            {"tokens": TOKENS, "weights": 1},
            r"ids `input_ids` of shape \[B, T\], got a mapping of tokens, weights",
        ),
        ({"input_ids": TOKENS.float()}, r"got a mapping of input_ids\. Set batch_map to a function"),
        ((TOKENS, torch.ones(2)), "got tuple"),
        ("text", "got str"),
        ((TOKENS, TOKENS.roll(1, 1)), r"labels must be the next tokens.*got others, \[2, 5\] for \[2, 5\] input_ids"),
        ((TOKENS, TOKENS[:, :3]), r"got others, \[2, 3\] for \[2, 5\]"),
        ({"input_ids": TOKENS, "attention_mask": torch.tensor([[0, 1, 1, 1, 1]] * 2)}, "Set padding_side to right"),
        ({"input_ids": TOKENS, "seq_idx": TOKENS}, r"told by position_ids.*got seq_idx\. Set batch_map"),
    ],
)
def test_batches_that_are_none(batch: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BatchInputs()(batch)


def test_documents_told_by_positions() -> None:
    positions = torch.tensor([[0, 1, 0, 1, 2]] * 2)
    found = BatchInputs()({"input_ids": TOKENS, "seq_idx": TOKENS, "position_ids": positions})
    assert found["position_ids"].equal(positions)
