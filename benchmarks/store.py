"""Size, error and decoding speed of the logit store, for each way of storing values and each selection.

    python benchmarks/store.py                       rows made up with Zipf's law
    python benchmarks/store.py --data rows.npz       tokens [B, T], ids and logprobs [B, T, K] of a real model
    python benchmarks/store.py --store runs/store    blocks of a store (one recorded with `values: exact` is best)

Prints tables and writes the same figures as JSON. Speeds are those of one core, in CPU time.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from pd_lightning.store.codec import codec_info, decode, encode_draws, encode_targets
from pd_lightning.store.manifest import Manifest, SplitInfo, TokenizerInfo
from pd_lightning.store.payload import part_sizes
from pd_lightning.store.reader import BlockReader
from pd_lightning.store.rounding import RoundingError

MEGATRON_BYTES_PER_ID = 4.125  # ids and float16 log-probs at k = 128, before zstd
RANDOM_COLUMNS = {"log_z": (20.0, 3.0), "mean": (-20.0, 3.0), "std": (2.5, 0.3)}  # where the data lack them


@dataclass
class Block:
    """A block with its kept ids `[S]`, most probable first, their float32 log-probs, and columns `[T]`."""

    tokens: np.ndarray
    counts: np.ndarray
    ids: np.ndarray
    logprobs: np.ndarray
    columns: dict[str, np.ndarray]

    @property
    def rows(self) -> np.ndarray:
        """Position of each entry `[S]`."""
        return np.repeat(np.arange(self.counts.size), self.counts)


def distillkit_bytes(vocab_size: int, k: int) -> float:
    """Bytes per token of DistillKit's packing: ids bit-packed, and its budget of values, 121 at k 50 and V 128,256."""
    return (vocab_size - 1).bit_length() * k / 8 + 14.75


def of_arrays(path: str) -> tuple[list[Block], int]:
    """Blocks of an .npz file with `tokens`, `ids` and `logprobs`, and their vocabulary.

    Log-probs in float16 are given random digits below it, as a teacher's have, or `exact` would look too small.
    """
    data = np.load(path, allow_pickle=False)
    logprobs = data["logprobs"].astype(np.float64)
    if data["logprobs"].dtype == np.float16:
        digits = np.random.default_rng(0).uniform(-0.5, 0.5, logprobs.shape)
        logprobs += digits * np.spacing(np.abs(data["logprobs"])).astype(np.float64)
        logprobs = -np.sort(-logprobs, axis=-1)
    blocks = [whole(*block) for block in zip(data["tokens"], data["ids"], logprobs.clip(max=0), strict=True)]
    return blocks, int(max(data["ids"].max(), data["tokens"].max())) + 1


def of_zipf(number: int, T: int = 512, K: int = 128, vocab_size: int = 128_256) -> tuple[list[Block], int]:
    """Made-up blocks: ids by Zipf's law, some that come again in a block, log-probs that fall with the rank."""
    blocks = []
    for seed in range(number):
        rng = np.random.default_rng(seed)
        tokens = (vocab_size ** rng.random(T + 1)).astype(np.int64) - 1
        ids = np.stack([some_ids(rng, tokens, K, vocab_size) for _ in range(T)])
        sure = rng.gamma(2.0, 0.6, T)[:, None] + 0.4
        scores = -sure * np.log(np.arange(1, K + 1)) + rng.normal(0, 0.1, (T, K))
        logprobs = np.sort(scores)[:, ::-1]
        known = 1 - 0.3 * rng.random((T, 1)) ** 3
        logprobs = logprobs - np.logaddexp.reduce(logprobs, axis=1, keepdims=True) + np.log(known)
        blocks.append(whole(tokens, ids, logprobs))
    return blocks, vocab_size


def some_ids(rng: np.random.Generator, tokens: np.ndarray, K: int, vocab_size: int) -> np.ndarray:
    """K different ids: half of them near the block's own tokens, as what a text is about comes again in it."""
    own = (rng.choice(tokens, K) + rng.integers(0, 4, K)) % vocab_size
    zipf = (vocab_size ** rng.random(K)).astype(np.int64) - 1
    ids = np.unique(np.concatenate((own, zipf)))
    return rng.permutation(ids)[:K]


def whole(tokens: np.ndarray, ids: np.ndarray, logprobs: np.ndarray) -> Block:
    """A block that keeps all K ids of every position, with columns from what is known; T tokens get one more."""
    T, K = ids.shape
    tokens = np.append(tokens, tokens[:1])[: T + 1].astype(np.int64)
    logprobs = logprobs.astype(np.float64)
    probs = np.exp(logprobs)
    tail = np.maximum(1 - probs.sum(axis=1), 1e-6)
    hit = ids == tokens[1:, None]
    label = np.where(hit.any(axis=1), (logprobs * hit).sum(axis=1), np.log(tail) - 5)
    entropy = -(probs * logprobs).sum(axis=1) - tail * (np.log(tail) - 8)
    rng = np.random.default_rng(int(tokens.sum()))
    random = {name: rng.normal(*spread, T) for name, spread in RANDOM_COLUMNS.items()}
    columns = {"log_tail": np.log(tail), "entropy": entropy, "label_logprob": label, **random}
    return Block(tokens, np.full(T, K), ids.astype(np.int64).ravel(), logprobs.astype(np.float32).ravel(), columns)


def of_store(folder: str, number: int) -> tuple[list[Block], int]:
    """The first blocks of a store."""
    reader = BlockReader(folder, "train")
    blocks = []
    for index in range(min(number, len(reader))):
        item = reader[index]
        columns = {name: item[name] for name in reader.manifest.columns}
        blocks.append(Block(item["block"], item["counts"], item["ids"], item["logprobs"], columns))
    return blocks, reader.manifest.vocab_size


def truncated(block: Block, p: float, k: int) -> Block:
    """Keep the fewest ids that reach p, k at most."""
    starts = np.cumsum(block.counts) - block.counts
    rank = np.arange(block.ids.size) - np.repeat(starts, block.counts)
    probs = np.exp(block.logprobs.astype(np.float64))
    running = np.cumsum(probs) - probs
    before = running - np.repeat(running[starts.clip(max=max(block.ids.size - 1, 0))], block.counts)
    kept = (rank < k) & ((before < p) | (p >= 1))
    counts = np.bincount(block.rows[kept], minlength=block.counts.size)
    mass = np.bincount(block.rows[kept], probs[kept], block.counts.size)
    log_tail = np.log(np.maximum(1 - mass, 1e-7)).astype(np.float32)
    columns = {**block.columns, "log_tail": log_tail}
    return Block(block.tokens, counts, block.ids[kept], block.logprobs[kept], columns)


def drawn(block: Block, samples: int, vocab_size: int) -> Block:
    """Draw ids with replacement; what falls into the tail is an id by Zipf's law. `logprobs` are the draws."""
    rng = np.random.default_rng(0)
    probs = np.split(np.exp(block.logprobs.astype(np.float64)), np.cumsum(block.counts)[:-1])
    ids = np.split(block.ids, np.cumsum(block.counts)[:-1])
    found = []
    for row_ids, row in zip(ids, probs, strict=True):
        share = rng.multinomial(samples, np.append(row, max(0.0, 1 - row.sum())) / max(1.0, row.sum()))
        tail = (vocab_size ** rng.random(share[-1])).astype(np.int64) - 1
        found.append(np.unique(np.concatenate((np.repeat(row_ids, share[:-1]), tail)), return_counts=True))
    counts = np.array([len(row_ids) for row_ids, _ in found])
    columns = {name: column for name, column in block.columns.items() if name != "log_tail"}
    return Block(block.tokens, counts, *(np.concatenate(part) for part in zip(*found, strict=True)), columns)


def seconds(action: Callable[[], object], repeats: int = 10) -> float:
    """CPU seconds of the shortest of a few runs: other work on the machine only ever adds."""
    times = []
    for _ in range(repeats):
        start = time.process_time()
        action()
        times.append(time.process_time() - start)
    return min(times)


def manifest_of(block: Block, values: str, vocab_size: int, samples: int | None) -> Manifest:
    selection = {"samples": samples} if samples else {"k": vocab_size}
    size = block.counts.size
    about = {"codec": codec_info(values), "columns": tuple(block.columns), "selection": selection}
    return Manifest("logits", size, vocab_size, TokenizerInfo("", 0), {"train": SplitInfo(1, size, 1)}, **about)


def measure(blocks: list[Block], vocab_size: int, values: str, budget: float, samples: int | None) -> dict[str, Any]:
    """Sizes, error and speed of one way of storing one selection."""
    error = RoundingError()

    def encode(measured: RoundingError | None = None) -> list[dict[str, np.ndarray]]:
        return [
            encode_draws(b.tokens, b.counts, b.ids, b.logprobs, b.columns, vocab_size=vocab_size)
            if samples
            else encode_targets(
                *(b.tokens, b.counts, b.ids, b.logprobs, b.columns),
                values=values,
                vocab_size=vocab_size,
                kl_budget=budget,
                error=measured,
            )
            for b in blocks
        ]

    items = encode(error)
    manifest = manifest_of(blocks[0], values, vocab_size, samples)
    tokens, kept = sum(b.counts.size for b in blocks), sum(b.ids.size for b in blocks)
    parts = {name: sum(part_sizes(item)[name] for item in items) for name in part_sizes(items[0])}
    return {
        "values": values if values != "compact" else f"compact {budget:g}",
        "kept_ids_per_token": kept / tokens,
        "bytes_per_kept_id": parts["targets"] / kept,
        "targets_bytes_per_token": parts["targets"] / tokens,
        "tokens_and_columns_bytes_per_token": (parts["tokens"] + parts["columns"]) / tokens,
        "mean_kl": error.kl / tokens,
        "max_logprob_error": error.logprob,
        "encode_tokens_per_second": tokens / seconds(encode, repeats=3),
        "decode_tokens_per_second": tokens / seconds(lambda: [decode(item, manifest) for item in items]),
    }


def npy_tokens_per_second(blocks: list[Block]) -> float:
    """Speed of reading the same arrays, float16 log-probs and 32-bit ids, from plain .npy files in the page cache."""
    with TemporaryDirectory() as folder:
        paths = []
        for number, block in enumerate(blocks):
            arrays = (block.tokens, block.counts, block.ids.astype("<u4"), block.logprobs.astype("<f2"))
            columns = (column.astype("<f2") for column in block.columns.values())
            for part, array in enumerate((*arrays, *columns)):
                paths.append(Path(folder) / f"{number}-{part}.npy")
                np.save(paths[-1], array)
        return sum(b.counts.size for b in blocks) / seconds(lambda: [np.load(path) for path in paths])


def selections(blocks: list[Block], vocab_size: int) -> Iterator[tuple[str, list[Block], int | None]]:
    for p, k in ((0.95, 100), (0.95, 50), (1.0, 50), (1.0, 10), (1.0, 1)):
        yield f"top-p {p:g}, k {k}" if p < 1 else f"top-k {k}", [truncated(b, p, k) for b in blocks], None
    yield "50 draws", [drawn(b, 50, vocab_size) for b in blocks], 50


def run(blocks: list[Block], vocab_size: int) -> dict[str, Any]:
    """Measure every selection in every way."""
    rows = []
    for name, selected, samples in selections(blocks, vocab_size):
        ways = [("exact", 0.0), ("half", 0.0), ("compact", 1e-3), ("compact", 1e-4), ("compact", 1e-5)]
        for values, budget in [("counts", 0.0)] if samples else ways:
            rows.append({"selection": name, **measure(selected, vocab_size, values, budget, samples)})
    first = next(row for row in rows if row["values"] == "compact 0.0001")
    npy = npy_tokens_per_second([truncated(b, 0.95, 100) for b in blocks])
    top50 = next(row for row in rows if row["selection"] == "top-k 50" and row["values"] == "compact 0.0001")
    return {
        "vocab_size": vocab_size,
        "block_size": blocks[0].counts.size,
        "blocks": len(blocks),
        "rows": rows,
        "npy_tokens_per_second": npy,
        "ratios": {
            "decode speed to .npy": first["decode_tokens_per_second"] / npy,
            "Megatron's bytes per kept id to ours": MEGATRON_BYTES_PER_ID / first["bytes_per_kept_id"],
            "DistillKit's bytes per token at k 50 to ours": distillkit_bytes(vocab_size, 50)
            / top50["targets_bytes_per_token"],
        },
    }


def show(figures: dict[str, Any]) -> None:
    table = Table(title=f"{figures['blocks']} blocks of {figures['block_size']}, V {figures['vocab_size']:,}")
    headings = ("selection", "values", "ids/token", "B/id", "B/token", "+ tokens, columns", "mean KL", "max |Δ log p|")
    for heading in (*headings, "encode tok/s", "decode tok/s"):
        table.add_column(heading, justify="left" if heading in ("selection", "values") else "right")
    formats = ("", "", ".2f", ".3f", ".2f", ".2f", ".1e", ".3f", ",.0f", ",.0f")
    for row in figures["rows"]:
        table.add_row(*(format(cell, form) for cell, form in zip(row.values(), formats, strict=True)))
    console = Console(width=140)
    console.print(table)
    console.print(f"plain .npy: {figures['npy_tokens_per_second']:,.0f} tokens/s")
    for name, ratio in figures["ratios"].items():
        console.print(f"{name}: {ratio:.2f}")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--data", help=".npz file with tokens, ids and logprobs")
    source.add_argument("--store", help="folder of a logit store")
    parser.add_argument("--blocks", type=int, default=8, help="blocks to take of a store, or to make up")
    parser.add_argument("--json", default="store.json", help="file to write the figures to")
    settings = parser.parse_args(argv)
    if settings.data:
        blocks, vocab_size = of_arrays(settings.data)
    elif settings.store:
        blocks, vocab_size = of_store(settings.store, settings.blocks)
    else:
        blocks, vocab_size = of_zipf(settings.blocks)
    figures = run(blocks, vocab_size)
    show(figures)
    Path(settings.json).write_text(json.dumps(figures, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
