"""Small data folders, written by the store's own writer."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from pd_lightning.store import chunks
from pd_lightning.store.codec import codec_info, encode_draws, encode_targets, encode_tokens
from pd_lightning.store.manifest import Manifest, SplitInfo, TokenizerInfo, tokenizer_digest

T, V = 4, 1000


def block(number: int) -> np.ndarray:
    """A block that tells its number: its first id."""
    return np.arange(number, number + T + 1)


def targets(number: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    rng = np.random.default_rng(number)
    counts = rng.integers(0, 5, T)
    ids = rng.integers(0, V, counts.sum())
    logprobs = -rng.random(counts.sum()).astype(np.float32) - 3
    columns = {name: -rng.random(T).astype(np.float32) - 1 for name in ("log_tail", "entropy")}
    return counts, ids, logprobs, columns


@pytest.fixture
def known():
    """What is in the folders that `make_folder` writes."""
    return SimpleNamespace(T=T, V=V, block=block, targets=targets)


@pytest.fixture
def make_folder(tmp_path):
    """Writes a data folder with the given number of blocks in each split; block b begins with id start + b.

    The blocks of a store of a teacher in training are recorded at the steps given, one of each training block. With
    `samples` the kept ids stand for draws, each at a position for one of them.
    """

    def make(
        name="blocks",
        kind="blocks",
        tokenizer="{}",
        attention="full",
        vocab_size=V,
        start=0,
        steps=None,
        samples=None,
        values="exact",
        **splits: int,
    ):
        folder = tmp_path / name
        (folder / "tokenizer").mkdir(parents=True)
        (folder / "tokenizer" / "tokenizer.json").write_text(tokenizer)
        for split, count in splits.items():
            for chunk in range(chunks.num_chunks(count, 3)):
                numbers = range(chunk * 3, min(count, chunk * 3 + 3))
                chunks.write_chunk(folder / split, chunk, [encode(start + n, kind, values, samples) for n in numbers])
        sizes = {split: SplitInfo(count, count * T, 3) for split, count in splits.items()}
        manifest = Manifest(kind, T, vocab_size, TokenizerInfo(tokenizer_digest(folder), 0), sizes, attention)
        if kind == "logits":
            manifest.codec = codec_info(values)
            manifest.columns = ("log_tail", "entropy") if samples is None else ("entropy",)
            manifest.selection = None if samples is None else {"samples": samples, "s": 1.0, "seed": 0}
        if steps is not None:
            sizes["train"].extra["teacher_steps"] = [[step, 1, 1, 1] for step in steps]
        chunks.finish(folder, manifest)
        return folder

    return make


def encode(number: int, kind: str, values: str = "exact", samples: int | None = None) -> dict[str, np.ndarray]:
    if kind == "blocks":
        return encode_tokens(block(number), V)
    counts, ids, logprobs, columns = targets(number)
    if samples is not None:
        columns.pop("log_tail")
        counts, ids = np.full(T, samples), np.tile(np.arange(samples) + number, T)
        logprobs = np.full(ids.size, -np.log(samples), dtype=np.float32)
    if values == "counts":
        return encode_draws(block(number), counts, ids, np.ones_like(ids), columns, vocab_size=V)
    return encode_targets(block(number), counts, ids, logprobs, columns, values=values, vocab_size=V)
