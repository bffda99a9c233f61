"""Keeping the blocks that a teacher predicts better than a reference model by most."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pd_lightning.cli import main
from pd_lightning.data import TokenBlocks
from pd_lightning.data.select import best, select
from pd_lightning.store import chunks
from pd_lightning.store.codec import codec_info, encode_targets
from pd_lightning.store.manifest import Manifest, SplitInfo, TokenizerInfo, read_manifest, tokenizer_digest
from pd_lightning.store.reader import BlockReader
from pd_lightning.store.safety import verify_files

T, V, TRAIN, VAL = 4, 1000, 11, 3
RNG = np.random.default_rng(0)
TEACHER, REFERENCE = -RNG.random((TRAIN + VAL, T)) - 1, -RNG.random((TRAIN + VAL, T)) - 2
# Straight from the paper: the mean over a block's tokens of the reference's loss minus the teacher's.
SCORES = np.array([np.mean([-r - -t for t, r in zip(TEACHER[b], REFERENCE[b], strict=True)]) for b in range(TRAIN)])


def tokens(number: int) -> np.ndarray:
    return np.arange(number, number + T + 1)


def write(
    folder: Path, logprobs: np.ndarray, train: int = TRAIN, shift: int = 0, tokenizer: str = "{}", **manifest: Any
) -> Path:
    """A logit store whose labels have the given log-probabilities; block b begins with id b, val after train."""
    (folder / "tokenizer").mkdir(parents=True)
    (folder / "tokenizer" / "tokenizer.json").write_text(tokenizer)
    ids, one = np.zeros(T, dtype=np.int64), np.ones(T, dtype=np.int64)

    def columns(block: int) -> dict[str, np.ndarray]:
        return {"log_tail": -one, "label_logprob": logprobs[block]}

    for split, numbers in (("train", range(train)), ("val", range(TRAIN, TRAIN + VAL))):
        items = [
            encode_targets(tokens(b + shift), one, ids, ids * 0.0, columns(b), values="exact", vocab_size=V + 24)
            for b in numbers
        ]
        chunks.write_chunk(folder / split, 0, items)
    sizes = {"train": SplitInfo(train, train * T, train), "val": SplitInfo(VAL, VAL * T, VAL)}
    of_ids = TokenizerInfo(tokenizer_digest(folder), 0, vocab_size=V)
    info = {"tokenizer": of_ids, "columns": ("log_tail", "label_logprob")}
    chunks.finish(
        folder, Manifest("logits", T, V + 24, splits=sizes, codec=codec_info("exact"), **{**info, **manifest})
    )
    return folder


@pytest.fixture
def stores(tmp_path: Path) -> tuple[str, str]:
    return str(write(tmp_path / "teacher", TEACHER)), str(write(tmp_path / "reference", REFERENCE))


def first_ids(folder: Path, split: str) -> list[int]:
    reader = BlockReader(folder, split)
    return [int(reader[index]["block"][0]) for index in range(len(reader))]


@pytest.mark.parametrize(("fraction", "count"), [(0.5, 6), (0.2, 2), (0.01, 1), (0.99, 11)])
def test_the_blocks_of_the_largest_scores_stay(
    stores: tuple[str, str], tmp_path: Path, fraction: float, count: int
) -> None:
    out = tmp_path / "selected"
    select(*stores, str(out), fraction)
    kept = sorted(sorted(range(TRAIN), key=lambda b: -SCORES[b])[:count])
    assert first_ids(out, "train") == kept
    assert first_ids(out, "val") == list(range(TRAIN, TRAIN + VAL))
    assert np.array_equal(BlockReader(out, "train")[0]["block"], tokens(kept[0]))
    assert verify_files(out) == []
    manifest = read_manifest(out)
    assert (manifest.kind, manifest.vocab_size, manifest.block_size) == ("blocks", V, T)
    assert manifest.tokenizer == read_manifest(stores[0]).tokenizer
    assert manifest.extra["settings"]["teacher_store"] == stores[0]
    assert manifest.statistics["score_threshold"] == pytest.approx(SCORES[kept].min())
    assert manifest.statistics["score_kept"] == pytest.approx(SCORES[kept].mean())
    assert manifest.statistics["score_all"] == pytest.approx(SCORES.mean())


def test_a_student_can_be_trained_on_what_is_left(stores: tuple[str, str], tmp_path: Path) -> None:
    arguments = ["--teacher_store", stores[0], "--reference_store", stores[1], "--output_dir", str(tmp_path / "out")]
    assert main(["select", *arguments, "--fraction=0.3"]) == 0
    data = TokenBlocks(str(tmp_path / "out"), batch_size=3)
    data.setup("fit")
    assert next(iter(data.train_dataloader()))["input_ids"].shape == (3, T)


def test_many_blocks_go_into_several_chunks(
    stores: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pd_lightning.data.select.CHUNK_BYTES", 25)  # two blocks of five ids
    select(*stores, str(tmp_path / "out"), 0.5)
    split = read_manifest(tmp_path / "out").splits["train"]
    assert (split.blocks_per_chunk, len(list((tmp_path / "out" / "train").glob("*.bin")))) == (2, 3)
    assert len(first_ids(tmp_path / "out", "train")) == 6


def test_of_equal_scores_the_first_stay() -> None:
    assert best(np.array([1.0, 2.0, 1.0, 2.0, 1.0]), 0.6).tolist() == [0, 1, 3]


def test_documents_stay_isolated(tmp_path: Path) -> None:
    both = [str(write(tmp_path / name, TEACHER, document_attention="isolated")) for name in ("a", "b")]
    select(*both, str(tmp_path / "out"))
    assert read_manifest(tmp_path / "out").document_attention == "isolated"


def test_a_finished_folder_is_kept(stores: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    out = tmp_path / "out"
    select(*stores, str(out))
    before = (out / "manifest.json").stat().st_mtime_ns
    capsys.readouterr()
    select(*stores, str(out))
    assert "nothing to do" in capsys.readouterr().err
    assert (out / "manifest.json").stat().st_mtime_ns == before
    with pytest.raises(ValueError, match=r"made with fraction 0\.5 instead of 0\.25\. Choose another output_dir"):
        select(*stores, str(out), 0.25)
    select(*stores, str(out), 0.25, overwrite=True)
    assert len(first_ids(out, "train")) == 3
    with pytest.raises(ValueError, match="output_dir must not hold a logit store"):
        select(*stores, stores[0])


OTHERS: dict[str, tuple[Callable[[Path], Path], str]] = {
    "blocks": (
        lambda folder: write(folder, REFERENCE, train=TRAIN - 1),
        r"of the same blocks and number of training blocks, got 11 and 10\. Record both from one folder",
    ),
    "tokens": (
        lambda folder: write(folder, REFERENCE, shift=1),
        r"of the same blocks, got other tokens in training block 0\. Record both from one folder",
    ),
    "tokenizer": (
        lambda folder: write(folder, REFERENCE, tokenizer="1"),
        r"of the same blocks and tokenizer, got sha256:44\w+ and sha256:6b\w+\.",
    ),
    "attention": (
        lambda folder: write(folder, REFERENCE, document_attention="isolated"),
        r"of the same blocks and document_attention, got full and isolated\.",
    ),
}


@pytest.mark.parametrize("name", OTHERS)
def test_stores_of_other_blocks_are_refused(stores: tuple[str, str], tmp_path: Path, name: str) -> None:
    make, message = OTHERS[name]
    with pytest.raises(ValueError, match=message):
        select(stores[0], str(make(tmp_path / "other")), str(tmp_path / "out"))
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_a_store_without_the_column_is_refused(stores: tuple[str, str], make_folder: Callable[..., Path]) -> None:
    without = make_folder("without", "logits", train=3)
    with pytest.raises(ValueError, match=r"reference_store must be a logit store with the column label_logprob, got"):
        select(stores[0], str(without), "out")
    with pytest.raises(ValueError, match=r"teacher_store must be .* with token blocks\. Set teacher_store to a store"):
        select(str(make_folder(train=3)), stores[1], "out")


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.5, 1.5, float("nan")])
def test_a_fraction_is_between_0_and_1(fraction: float) -> None:
    with pytest.raises(ValueError, match=rf"fraction must be above 0 and below 1, got {fraction}\."):
        select("a", "b", "c", fraction)
