from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from pd_lightning.language_model import LanguageModel
from pd_lightning.module.surroundings import look_around, student_defaults
from pd_lightning.store.manifest import Manifest, TokenizerInfo

TOKENS, BLOCK = 300, 16


class Model(nn.Module):
    """Logits of a given width that depend on all tokens before, or on those of the document."""

    def __init__(self, vocab_size: int | None, isolates: bool = True) -> None:
        super().__init__()
        self.config = SimpleNamespace(vocab_size=vocab_size)
        self.table = nn.Embedding(9, 9)
        self.isolates = isolates

    def forward(self, input_ids: torch.Tensor, position_ids: torch.Tensor | None = None) -> torch.Tensor:
        before = torch.ones(input_ids.shape[1], input_ids.shape[1]).tril()[None]
        if position_ids is not None and self.isolates:
            documents = (position_ids == 0).cumsum(-1)
            before = before * (documents[:, :, None] == documents[:, None])
        return before @ self.table(input_ids)


def manifest(**fields: Any) -> Manifest:
    tokenizer = TokenizerInfo("d", 0, vocab_size=fields.pop("tokens", TOKENS))
    required = {"kind": "blocks", "block_size": BLOCK, "vocab_size": TOKENS, "splits": {}}
    return Manifest(**(required | fields), tokenizer=tokenizer)


def trainer(**fields: Any) -> Any:
    data = manifest(**fields)
    datamodule = SimpleNamespace(manifest=data, kind=data.kind, block_size=BLOCK, tokenizer_dir="tokenizer")
    return SimpleNamespace(strategy=SimpleNamespace(root_device=torch.device("cpu")), datamodule=datamodule)


def test_all_that_the_data_tell_is_passed_on() -> None:
    store = {"kind": "logits", "vocab_size": 320, "columns": ("log_tail", "entropy"), "document_attention": "isolated"}
    found = look_around(trainer(**store), LanguageModel(Model(384)))
    assert (found.vocab_size, found.data_vocab_size, found.tokenizer_vocab_size) == (384, 320, TOKENS)
    assert (found.data_kind, found.block_size, found.tokenizer_dir) == ("logits", BLOCK, Path("tokenizer"))
    assert found.document_attention == "isolated"
    assert student_defaults(trainer(**store))["vocab_size"] == TOKENS, "as on the fly, without the teacher's padding"
    assert student_defaults(trainer(**store, tokens=None))["vocab_size"] == 320


@pytest.mark.parametrize(
    ("fields", "width", "message"),
    [
        ({}, 299, r"got 299 for 300 ids\. Set model.student.init_args.config.vocab_size to 300, or leave it out"),
        ({"kind": "logits", "vocab_size": 320}, 299, r"got 299 for 300 ids\. Set .*vocab_size to 320"),
        ({"kind": "logits", "vocab_size": 320, "tokens": None}, 310, r"got 310 for 320 ids\. Set .*vocab_size to 320"),
    ],
)
def test_a_student_must_have_every_id_of_the_data(fields: dict, width: int, message: str) -> None:
    with pytest.raises(ValueError, match=f"must hold every id of the data, {message}"):
        look_around(trainer(**fields), LanguageModel(Model(width)))


@pytest.mark.parametrize(
    ("fields", "width"),
    [({}, 300), ({}, 384), ({"kind": "logits", "vocab_size": 320}, 300)],
)
def test_a_student_may_have_more_or_lack_padding(fields: dict, width: int) -> None:
    assert look_around(trainer(**fields), LanguageModel(Model(width))).vocab_size == width


class OfBlocks(nn.Module):
    """Tells no width, and takes whole blocks alone."""

    def __init__(self, width: int, block_size: int) -> None:
        super().__init__()
        self.table, self.block_size = nn.Embedding(width, width), block_size

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        return self.table(input_ids.view(-1, self.block_size))


def test_the_width_of_any_module_is_tried() -> None:
    assert look_around(trainer(), LanguageModel(OfBlocks(310, 1))).vocab_size == 310
    assert look_around(trainer(), LanguageModel(OfBlocks(9, 16))).vocab_size is None
    with pytest.raises(ValueError, match="must hold every id of the data, got 9 for 300 ids"):
        look_around(trainer(), LanguageModel(OfBlocks(9, 1)))


def test_a_student_must_keep_to_a_document_where_the_data_do() -> None:
    for attention, isolates in (("full", False), ("full", True), ("isolated", True)):
        look_around(trainer(document_attention=attention), LanguageModel(Model(TOKENS, isolates)))
    with pytest.raises(ValueError, match=r"The student must keep to one document .* isolated, got Model"):
        look_around(trainer(document_attention="isolated"), LanguageModel(Model(TOKENS, isolates=False)))
