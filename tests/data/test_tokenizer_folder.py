"""The tokenizer of a store is there whole, or not at all."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from pd_lightning.data.tokenizer_folder import save_tokenizer
from pd_lightning.store.manifest import read_manifest


def test_a_copy_that_was_cut_off_is_made_again(blocks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer, folder = blocks / "tokenizer", tmp_path / "store" / "tokenizer"

    def cut_off(source: Any, target: Path) -> None:
        target.mkdir(parents=True)
        shutil.copy(Path(source) / "tokenizer.json", target)
        raise KeyError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "copytree", cut_off)
        with pytest.raises(KeyError, match="killed"):
            save_tokenizer(str(tokenizer), folder)
    assert save_tokenizer(str(tokenizer), folder) == read_manifest(blocks).tokenizer
    assert {path.name for path in folder.iterdir()} == {path.name for path in tokenizer.iterdir()}
    assert [path.name for path in folder.parent.iterdir()] == ["tokenizer"]
