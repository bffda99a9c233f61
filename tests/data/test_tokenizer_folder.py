"""The tokenizer of a store is there whole or not at all; its code is neither run nor copied."""

import json
import shutil
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models

from pd_lightning.data import bpe
from pd_lightning.data.tokenizer_folder import save_tokenizer
from pd_lightning.store.manifest import read_manifest


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    folder.mkdir()
    Tokenizer(models.BPE(vocab={"a": 0, "<e>": 1}, merges=[])).save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<e>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def with_code(folder: Path) -> Path:
    """Make it a tokenizer whose class is in a file of its own; gives what that file would leave behind."""
    left = folder.parent / "executed"
    config = {
        "tokenizer_class": "Own",
        "eos_token": "<e>",
        "auto_map": {"AutoTokenizer": [None, "own.Own"]},
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    code = "from transformers import PreTrainedTokenizerFast\nclass Own(PreTrainedTokenizerFast):\n    pass\n"
    (folder / "own.py").write_text(f"open({str(left)!r}, 'w').close()\n{code}")
    return left


def test_a_copy_has_the_same_digest_and_nothing_else(source: Path, tmp_path: Path) -> None:
    for name in ("own.py", "model.safetensors", "pytorch_model.bin", "chat_template.jinja"):
        (source / name).touch()
    info = save_tokenizer(str(source), tmp_path / "copy")
    assert (info.eos_token_id, info.vocab_size) == (1, 2)
    copied = {path.name for path in (tmp_path / "copy").iterdir()}
    assert copied == {"tokenizer.json", "tokenizer_config.json", "chat_template.jinja"}
    assert save_tokenizer(str(source), tmp_path / "copy") == info


def test_code_of_a_tokenizer_is_not_run(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left = with_code(source)
    monkeypatch.setattr("builtins.input", lambda *args: "y")  # where transformers asks, the user says yes
    for load in (lambda: bpe.load(source), lambda: save_tokenizer(str(source), tmp_path / "copy")):
        with pytest.raises(ValueError, match=r"must hold a tokenizer that loads without code of its own, got: .* Name"):
            load()
        assert not left.exists()


def test_a_copy_that_was_cut_off_is_made_again(blocks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer, folder = blocks / "tokenizer", tmp_path / "store" / "tokenizer"

    copy, copied = shutil.copy, []

    def cut_off(source: Path, target: Path) -> None:
        if copied:
            raise KeyError("killed")
        copied.append(copy(source, target))

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "copy", cut_off)
        with pytest.raises(KeyError, match="killed"):
            save_tokenizer(str(tokenizer), folder)
    assert save_tokenizer(str(tokenizer), folder) == read_manifest(blocks).tokenizer
    assert {path.name for path in folder.iterdir()} == {path.name for path in tokenizer.iterdir()}
    assert [path.name for path in folder.parent.iterdir()] == ["tokenizer"]
