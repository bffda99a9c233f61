from __future__ import annotations

import itertools
import json
import random

import pytest

from pd_lightning.data import JSONLines, Source, TextFiles
from pd_lightning.data.pack import is_validation
from pd_lightning.data.tokenize import tokenize
from pd_lightning.store.manifest import read_manifest
from pd_lightning.store.reader import BlockReader
from pd_lightning.store.safety import verify_files

WORDS = [
    "the",
    "quick",
    "brown",
    "fox",
    "jumps",
    "over",
    "lazy",
    "dogs",
    "while",
    "naïve",
    "世界",
    "<|endoftext|>",
    "return",
    "self.x[0]\n",
]


class Words(Source):
    """Documents of random words; a corpus that is made up as it is read."""

    def __init__(self, count: int = 60, length: int = 100, order: int | None = None) -> None:
        self.count, self.length, self.order = count, length, order

    def __iter__(self):
        numbers = list(range(self.count))
        if self.order is not None:
            random.Random(self.order).shuffle(numbers)
        for number in numbers:
            yield " ".join(random.Random(number).choices(WORDS, k=self.length)) + f" {number}"


SETTINGS = {"vocab_size": 300, "block_size": 16, "val_fraction": 0.2}


def blocks_of(folder, split="train") -> list[list[int]]:
    reader = BlockReader(folder, split)
    return [reader[number]["block"].tolist() for number in range(len(reader))]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made") / "blocks"
    tokenize(str(folder), Words(), **SETTINGS, blocks_per_chunk=7)
    return folder


def test_blocks_decode_to_the_documents(folder):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(folder / "tokenizer"), local_files_only=True)
    assert tokenizer.eos_token == tokenizer.bos_token == tokenizer.pad_token == "<|endoftext|>"
    assert tokenizer.model_max_length == 16
    manifest = read_manifest(folder)
    assert manifest.vocab_size == manifest.tokenizer.vocab_size == len(tokenizer) == 300
    documents = {"train": [], "val": []}
    for text in Words():
        documents["val" if is_validation(text, 0.2, 0) else "train"].append(text)
    for split, texts in documents.items():
        blocks = blocks_of(folder, split)
        assert all(a[-1] == b[0] for a, b in itertools.pairwise(blocks))
        stream = blocks[0][:1] + [token for block in blocks for token in block[1:]]
        info = manifest.splits[split]
        assert len(blocks) == info.num_blocks
        assert len(stream) + info.extra["dropped_tokens"] == info.extra["tokens"]
        assert info.extra["documents"] == len(texts)
        assert info.extra["bytes"] == sum(len(text.encode()) for text in texts)
        ends = [i for i, token in enumerate(stream) if token == manifest.tokenizer.eos_token_id]
        found = [tokenizer.decode(stream[a:b]) for a, b in zip([0, *(e + 1 for e in ends)], ends, strict=False)]
        assert len(found) >= len(texts) - 1
        assert found == texts[: len(found)], "and a text that spells the end-of-text token does not end there"
    assert verify_files(folder) == []


def test_the_same_blocks_whatever_the_workers_and_chunks(folder, tmp_path):
    for workers, size in ((1, 1000), (3, 20)):
        other = tmp_path / str(workers)
        tokenize(str(other), Words(), **SETTINGS, num_workers=workers, blocks_per_chunk=size)
        assert read_manifest(other).tokenizer == read_manifest(folder).tokenizer
        assert blocks_of(other) == blocks_of(folder)
        assert blocks_of(other, "val") == blocks_of(folder, "val")


def test_the_split_does_not_depend_on_the_order(folder, tmp_path):
    tokenize(str(tmp_path / "b"), Words(order=1), **SETTINGS)
    for split in ("train", "val"):
        before, after = (read_manifest(f).splits[split].extra for f in (folder, tmp_path / "b"))
        assert (before["documents"], before["bytes"]) == (after["documents"], after["bytes"])


def test_the_tokenizer_never_sees_validation_text(folder, tmp_path):
    class TrainingAlone(Words):
        def __iter__(self):
            return (text for text in super().__iter__() if not is_validation(text, 0.2, 0))

    tokenize(str(tmp_path / "b"), TrainingAlone(), **{**SETTINGS, "val_fraction": 0.0})
    name = "tokenizer/tokenizer.json"
    assert (tmp_path / "b" / name).read_text() == (folder / name).read_text()


def test_a_tokenizer_from_a_folder(folder, tmp_path):
    given = {key: SETTINGS[key] for key in ("block_size", "val_fraction")}
    tokenize(str(tmp_path / "b"), Words(), tokenizer=str(folder / "tokenizer"), **given)
    assert blocks_of(tmp_path / "b") == blocks_of(folder)
    assert read_manifest(tmp_path / "b").tokenizer == read_manifest(folder).tokenizer


def test_a_finished_folder_is_kept(folder, capsys):
    before = (folder / "manifest.json").stat().st_mtime_ns
    tokenize(str(folder), Words(), **SETTINGS, blocks_per_chunk=7)
    assert "nothing to do" in capsys.readouterr().err
    with pytest.raises(ValueError, match=r"made with block_size 16 instead of 8\. .*--overwrite true"):
        tokenize(str(folder), Words(), **{**SETTINGS, "block_size": 8}, blocks_per_chunk=7)
    assert (folder / "manifest.json").stat().st_mtime_ns == before


def test_document_attention_is_kept_in_the_manifest(folder, tmp_path):
    tokenize(str(tmp_path / "b"), Words(), **SETTINGS, document_attention="isolated")
    assert read_manifest(folder).document_attention == "full"
    assert read_manifest(tmp_path / "b").document_attention == "isolated"
    assert blocks_of(tmp_path / "b") == blocks_of(folder)
    with pytest.raises(ValueError, match="made with document_attention 'isolated' instead of 'full'"):
        tokenize(str(tmp_path / "b"), Words(), **SETTINGS)


def test_a_folder_from_before_document_attention_is_finished_too(tmp_path, capsys):
    tokenize(str(tmp_path), Words(), **SETTINGS)
    path = tmp_path / "manifest.json"
    manifest = json.loads(path.read_text())
    del manifest["document_attention"], manifest["extra"]["settings"]["document_attention"]
    path.write_text(json.dumps(manifest))
    tokenize(str(tmp_path), Words(), **SETTINGS)
    assert "nothing to do" in capsys.readouterr().err
    with pytest.raises(ValueError, match="made with document_attention 'full' instead of 'isolated'"):
        tokenize(str(tmp_path), Words(), **SETTINGS, document_attention="isolated")


def test_overwriting(tmp_path):
    tokenize(str(tmp_path / "b"), Words(), **SETTINGS)
    tokenize(str(tmp_path / "b"), Words(), **{**SETTINGS, "block_size": 8}, overwrite=True)
    assert read_manifest(tmp_path / "b").block_size == 8
    assert verify_files(tmp_path / "b") == []


def test_an_unfinished_folder_is_started_afresh(folder, tmp_path):
    class Breaks(Words):
        def __iter__(self):
            for number, text in enumerate(super().__iter__()):
                if number == 50 and (tmp_path / "b" / "train").exists():
                    raise KeyboardInterrupt
                yield text

    settings = {**SETTINGS, "blocks_per_chunk": 7}
    from pd_lightning.data import tokenize as module

    before, module.BATCH_CHARACTERS = module.BATCH_CHARACTERS, 1000
    try:
        with pytest.raises(KeyboardInterrupt):
            tokenize(str(tmp_path / "b"), Breaks(), **settings)
    finally:
        module.BATCH_CHARACTERS = before
    assert list((tmp_path / "b" / "train").glob("chunk-*.bin"))
    with pytest.raises(FileNotFoundError):
        read_manifest(tmp_path / "b")
    tokenize(str(tmp_path / "b"), Words(), **settings)
    assert blocks_of(tmp_path / "b") == blocks_of(folder)


def test_a_folder_with_other_things_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(ValueError, match=r"got .* with thesis\.tex in it\. Choose another output_dir"):
        tokenize(str(tmp_path), Words(), **SETTINGS, overwrite=True)
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="output_dir must be a folder"):
        tokenize(str(tmp_path / "file"), Words(), **SETTINGS)


def test_half_a_surrogate_pair_is_replaced(tmp_path):
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": "bad \ud800 " * 50}) + "\n")
    tokenize(
        str(tmp_path / "b"), JSONLines([str(tmp_path / "a.jsonl")]), vocab_size=260, block_size=8, val_fraction=0.0
    )
    assert read_manifest(tmp_path / "b").splits["train"].extra["documents"] == 1


def test_a_text_is_no_end_of_text(folder):
    from pd_lightning.data import bpe

    tokenizer = bpe.load(folder / "tokenizer")
    (ids,) = tokenizer.encode(["a <|endoftext|> b"])
    assert tokenizer.eos_token_id not in ids


def test_errors_before_any_work(tmp_path, folder):
    def fails(message, **settings):
        with pytest.raises(ValueError, match=message):
            tokenize(str(tmp_path / "b"), **{"source": Words(), **SETTINGS, **settings})
        assert not (tmp_path / "b").exists()

    fails("val_fraction must be at least 0 and less than 1, got 1.0", val_fraction=1.0)
    fails("block_size must be at least 1, got 0", block_size=0)
    fails("vocab_size must be at least 257, got 256", vocab_size=256)
    fails("num_workers must be at least 1, got 0", num_workers=0)
    fails("document_attention must be one of full, isolated, got 'none'", document_attention="none")
    fails("vocab_size must be left out where tokenizer is given", tokenizer=str(folder / "tokenizer"))
    with pytest.raises(FileNotFoundError, match=r"got 'missing\.txt'"):
        tokenize(str(tmp_path / "b"), TextFiles(["missing.txt"]))


def test_a_corpus_too_small(tmp_path):
    (tmp_path / "empty.txt").touch()
    (tmp_path / "short.txt").write_text("short")
    with pytest.raises(ValueError, match="the corpus must hold text, got none from TextFiles"):
        tokenize(str(tmp_path / "b"), TextFiles([str(tmp_path / "empty.txt")]), **SETTINGS)
    with pytest.raises(ValueError, match=r"training split must fill a block of 16 tokens, got \d+ tokens in 1 of 1"):
        tokenize(str(tmp_path / "b"), TextFiles([str(tmp_path / "short.txt")]), **{**SETTINGS, "val_fraction": 0.0})
    with pytest.raises(ValueError, match=r"validation split must fill a block .* Raise val_fraction"):
        tokenize(str(tmp_path / "b"), Words(), **{**SETTINGS, "val_fraction": 1e-9})


def test_tokenizers_that_will_not_do(tmp_path, folder):
    given = {"block_size": 16, "source": Words(3)}
    with pytest.raises(ValueError, match="tokenizer must name a Hugging Face tokenizer or a folder"):
        tokenize(str(tmp_path / "b"), tokenizer=str(tmp_path / "none"), **given)
    with pytest.raises(ValueError, match=r"got '<end>', which it does not know\. Set eos_token"):
        tokenize(str(tmp_path / "b"), tokenizer=str(folder / "tokenizer"), eos_token="<end>", **given)
    config = folder / "tokenizer" / "tokenizer_config.json"
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "tokenizer.json").write_text((folder / "tokenizer" / "tokenizer.json").read_text())
    kept = {k: v for k, v in json.loads(config.read_text()).items() if not k.endswith("_token")}
    (bare / "tokenizer_config.json").write_text(json.dumps(kept))
    with pytest.raises(ValueError, match="end with an end-of-text token of the tokenizer, got a tokenizer without any"):
        tokenize(str(tmp_path / "b"), tokenizer=str(bare), **given)
    tokenize(str(tmp_path / "b"), tokenizer=str(bare), eos_token="<|endoftext|>", val_fraction=0.0, **given)
    assert read_manifest(tmp_path / "b").tokenizer.eos_token_id == 0


def test_a_corpus_with_folders_called_like_ours_is_left_alone(tmp_path):
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "book.txt").write_text("a book\n" * 1000)
    with pytest.raises(ValueError, match="must be new, empty or a data folder"):
        tokenize(str(tmp_path), TextFiles([str(tmp_path / "train")]), vocab_size=300, block_size=8)
    assert (tmp_path / "train" / "book.txt").exists()
