"""Small data folders to read, damage and verify."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pd_lightning.store.chunks import finish, num_chunks, write_chunk
from pd_lightning.store.codec import codec_info, encode_draws, encode_targets, encode_tokens
from pd_lightning.store.manifest import Manifest, SplitInfo, TokenizerInfo, tokenizer_digest


class Samples:
    """A data folder of 7 blocks in chunks of 3; every token of block b is b."""

    vocab_size, block_size, blocks, per_chunk = 300, 8, 7, 3

    def targets(self, block: int) -> dict[str, np.ndarray]:
        """Arguments of `encode_targets` for one block."""
        rng = np.random.default_rng(block)
        counts = rng.integers(0, 5, self.block_size)
        logits = rng.normal(size=(self.block_size, self.vocab_size)) * 3
        logprobs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        order = np.argsort(-logprobs, axis=-1)
        kept = [order[row, :count] for row, count in enumerate(counts)]
        values = [logprobs[row, ids] for row, ids in enumerate(kept)]
        tail = [np.log1p(-np.exp(value).sum()) if value.size else 0.0 for value in values]
        return {
            "block": np.full(self.block_size + 1, block),
            "counts": counts,
            "ids": np.concatenate(kept),
            "logprobs": np.concatenate(values).astype(np.float32),
            "columns": {
                "log_tail": np.array(tail, dtype=np.float32),
                "entropy": rng.random(self.block_size, dtype=np.float32),
            },
        }

    def draws(self, block: int) -> dict[str, np.ndarray]:
        """Arguments of `encode_draws` for one block: 6 draws at each position."""
        drawn = np.random.default_rng(block).multinomial(6, np.full(self.vocab_size, 1 / self.vocab_size), 8)
        row, ids = np.nonzero(drawn)
        targets = self.targets(block)
        entropy = targets["columns"]["entropy"]
        counts = np.bincount(row, minlength=self.block_size)
        of_block = {"block": targets["block"], "counts": counts, "ids": ids, "draws": drawn[row, ids]}
        return {**of_block, "columns": {"entropy": entropy}, "teacher_step": 100 + block}

    def items(self, kind: str, chunk: int, values: str = "exact") -> list[dict[str, np.ndarray]]:
        """Encoded blocks of one chunk."""
        first = chunk * self.per_chunk
        numbers = range(first, min(self.blocks, first + self.per_chunk))
        if values == "counts":
            return [encode_draws(**self.draws(block), vocab_size=self.vocab_size) for block in numbers]
        blocks = [self.targets(block) for block in numbers]
        if kind == "blocks":
            return [encode_tokens(targets["block"], self.vocab_size) for targets in blocks]
        return [encode_targets(**targets, values=values, vocab_size=self.vocab_size) for targets in blocks]

    def manifest(self, kind: str, folder: Path, values: str = "exact") -> Manifest:
        """Manifest of the folder, with an empty validation split."""
        logits, sampled = kind == "logits", values == "counts"
        return Manifest(
            kind=kind,
            block_size=self.block_size,
            vocab_size=self.vocab_size,
            tokenizer=TokenizerInfo(tokenizer_digest(folder), eos_token_id=0),
            splits={
                "train": SplitInfo(self.blocks, self.blocks * self.block_size, self.per_chunk, {"documents": 2}),
                "val": SplitInfo(0, 0, self.per_chunk),
            },
            selection={"samples": 6, "s": 1.0, "seed": 0} if sampled else None,
            codec=codec_info(values) if logits else None,
            columns=(("entropy",) if sampled else ("log_tail", "entropy")) if logits else (),
            teacher_steps=sampled,
        )

    def tokenizer(self, folder: Path) -> None:
        """Write what stands for a tokenizer."""
        (folder / "tokenizer").mkdir(parents=True)
        (folder / "tokenizer" / "tokenizer.json").write_text("{}")

    def chunks(self, folder: Path, kind: str, values: str = "exact") -> None:
        """Write every chunk."""
        for chunk in range(num_chunks(self.blocks, self.per_chunk)):
            write_chunk(folder / "train", chunk, self.items(kind, chunk, values), statistics={"chunk": chunk})

    def write(self, folder: Path, kind: str, values: str = "exact") -> Path:
        """Write a finished data folder."""
        self.tokenizer(folder)
        self.chunks(folder, kind, values)
        finish(folder, self.manifest(kind, folder, values))
        return folder


@pytest.fixture
def samples() -> Samples:
    """What the folders of these tests hold."""
    return Samples()


@pytest.fixture
def data_folder(tmp_path: Path, samples: Samples) -> Callable[..., Path]:
    """Write a finished data folder of the given kind; with values `counts` of a teacher in training."""
    return lambda kind="blocks", values="exact": samples.write(tmp_path / f"{kind}-{values}", kind, values)
