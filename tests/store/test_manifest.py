import hashlib
import json
import subprocess
import sys

import pytest

from pd_lightning.store.manifest import (
    Manifest,
    SplitInfo,
    TokenizerInfo,
    read_manifest,
    software_versions,
    tokenizer_digest,
)


@pytest.fixture
def manifest():
    return Manifest(
        kind="logits",
        block_size=4,
        vocab_size=10,
        tokenizer=TokenizerInfo("sha256:0", eos_token_id=3, pad_token_id=4, vocab_size=8),
        splits={"train": SplitInfo(5, 20, 2, {"documents": 9}), "val": SplitInfo(0, 0, 2)},
        document_attention="isolated",
        teacher={"name": "t"},
        codec={"name": "pd-targets", "version": 1, "values": "half"},
        columns=("log_tail", "entropy"),
        teacher_steps=True,
        statistics={"kept_mass": 0.5},
        software={"torch": "2"},
        extra={"settings": {"seed": 1}},
    )


def written(folder, **changes):
    folder.mkdir(exist_ok=True)
    base = Manifest("blocks", 4, 10, TokenizerInfo("d", 3), {"train": SplitInfo(5, 20, 2)}).to_json()
    (folder / "manifest.json").write_text(json.dumps({**base, **changes}))
    return folder


def test_a_manifest_survives_json(manifest):
    restored = Manifest.from_json(json.loads(json.dumps(manifest.to_json())), "m")
    assert restored == manifest


def test_the_json_has_the_documented_shape(manifest):
    body = manifest.to_json()
    assert (body["format"], body["format_version"]) == ("pd-lightning", 1)
    assert body["splits"]["train"] == {"num_blocks": 5, "num_tokens": 20, "blocks_per_chunk": 2, "documents": 9}
    assert body["tokenizer"]["bos_token_id"] is None


def test_a_missing_folder_names_the_commands(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"must exist, got .*nowhere\. Write one with `pd-lightning tokenize"):
        read_manifest(tmp_path / "nowhere")


def test_a_folder_without_data_is_told_apart_from_an_unfinished_one(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"must hold manifest\.json"):
        read_manifest(tmp_path)
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "chunk-000000.bin").touch()
    with pytest.raises(FileNotFoundError, match=r"must be finished.*Run the command that writes it again"):
        read_manifest(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "else"}, "must have the format 'pd-lightning', got 'else'"),
        ({"format_version": 2}, "must be at most 1, got 2.*pip install -U pd-lightning"),
        ({"format_version": None}, "format_version must be a number of at least 1, got None"),
        ({"format_version": True}, "format_version must be a number of at least 1, got True"),
        ({"format_version": 0}, "format_version must be a number of at least 1, got 0"),
        ({"vocab_size": 1 << 31}, r"block_size and vocab_size must be below 2\^31"),
        ({"tokenizer": {"digest": "d", "eos_token_id": True}}, "eos_token_id must be a number of at least 0, got True"),
        ({"tokenizer": {"digest": "d", "eos_token_id": -1}}, "eos_token_id must be a number of at least 0, got -1"),
        ({"tokenizer": {"digest": "d", "eos_token_id": 0, "pad_token_id": "0"}}, "pad_token_id must be a number"),
        ({"columns": "log_tail"}, "columns must be names, got 'log_tail'"),
        ({"columns": ["log tail"]}, r"columns must be names, got \['log tail'\]"),
        ({"columns": ["entropy", "entropy"]}, r"columns must differ from each other, got \['entropy', 'entropy'\]"),
        ({"columns": ["log_tail", "ids"]}, r"names that nothing else of a block has, got \['ids'\]"),
        ({"selection": {"k": "5"}}, r"selection\.k must be a number, got '5'"),
        ({"selection": {"k": 1.5}}, "k must be a number of at least 0, got 1.5"),
        ({"statistics": {"kl_error_per_token": "x"}}, r"statistics\.kl_error_per_token must be a number, got 'x'"),
        ({"statistics": [1]}, r"statistics must be an object, got \[1\]"),
        ({"kind": "images"}, "kind must be one of"),
        ({"block_size": 0}, "block_size must be a number of at least 1, got 0"),
        ({"vocab_size": "10"}, "vocab_size must be a number of at least 1, got '10'"),
        ({"splits": {"../x": {}}}, "a split must have a plain name, got '../x'"),
        ({"splits": {"train": {"num_blocks": 5}}}, "field 'num_tokens' is missing"),
        (
            {"splits": {"train": {"num_blocks": 5, "num_tokens": 21, "blocks_per_chunk": 2}}},
            "num_tokens must be 20, got 21",
        ),
        ({"splits": None}, "damaged"),
        ({"tokenizer": {"digest": "d"}}, "eos_token_id"),
        (
            {"tokenizer": {"digest": "d", "eos_token_id": 3, "vocab_size": 0}},
            "vocab_size must be a number of at least 1",
        ),
        ({"document_attention": "none"}, "document_attention must be one of full, isolated, got 'none'"),
        ({"kind": "logits"}, "columns must include log_tail"),
        ({"kind": "logits", "selection": {"samples": 0}}, "samples must be a number of at least 1, got 0"),
        (
            {"kind": "logits", "selection": {"samples": 9}, "columns": ["log_tail"]},
            "columns of sampled targets must not include log_tail",
        ),
        ({"selection": ["k"]}, r"selection must be an object, got \['k'\]"),
        ({"teacher_steps": 1}, "teacher_steps must be true or false"),
        ({"teacher_steps": True}, "teacher_steps must be false for blocks"),
    ],
)
def test_a_bad_field_is_named(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        read_manifest(written(tmp_path, **changes))


def test_older_manifests_have_full_attention_and_tell_the_tokenizers_size_of_blocks_alone(tmp_path):
    """A store's vocabulary is its teacher's, which may be padded."""
    path = written(tmp_path) / "manifest.json"
    body = json.loads(path.read_text())
    del body["document_attention"], body["tokenizer"]["vocab_size"]
    path.write_text(json.dumps(body))
    assert read_manifest(tmp_path).document_attention == "full"
    assert read_manifest(tmp_path).tokenizer_vocab_size == 10
    path.write_text(json.dumps({**body, "kind": "logits", "columns": ["log_tail"]}))
    assert read_manifest(tmp_path).tokenizer_vocab_size is None


def test_a_store_tells_the_tokenizers_size(manifest):
    assert (manifest.vocab_size, manifest.tokenizer_vocab_size) == (10, 8)


def test_a_store_of_samples_has_no_tail(manifest):
    assert not manifest.sampled
    manifest.selection, manifest.columns = {"samples": 50, "s": 1.0, "seed": 0}, ("entropy",)
    assert manifest.sampled
    assert Manifest.from_json(manifest.to_json(), "m") == manifest


def test_broken_json_is_a_clear_error(tmp_path):
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(ValueError, match="must be valid JSON"):
        read_manifest(tmp_path)


def test_the_digest_is_that_of_tokenizer_json_in_either_place(tmp_path):
    (tmp_path / "tokenizer").mkdir()
    (tmp_path / "tokenizer" / "tokenizer.json").write_bytes(b"abc")
    expected = "sha256:" + hashlib.sha256(b"abc").hexdigest()
    assert tokenizer_digest(tmp_path) == tokenizer_digest(tmp_path / "tokenizer") == expected
    with pytest.raises(FileNotFoundError, match=r"must hold tokenizer\.json"):
        tokenizer_digest(tmp_path / "tokenizer" / "deeper")


def test_versions_name_the_packages_that_matter():
    versions = software_versions()
    assert {"litdata", "torch", "transformers"} <= versions.keys()


def test_importing_the_manifest_imports_nothing_heavy():
    code = "import sys, pd_lightning.store.manifest; print({'numpy', 'torch', 'litdata'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
