"""How large a logit store will be: by what was measured on a real model, or on a store that there is."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pd_lightning.plan.settings import Stored
from pd_lightning.store.manifest import read_manifest

# Of benchmarks/results/store.json: a 270M-parameter model with 262,144 ids, blocks of 512 tokens. Bytes a token of ids
# and values, by the number of kept ids, and those of tokens and columns.
TARGETS = {
    "exact": ((1, 5.324), (10, 49.413), (50, 245.520)),
    "half": ((1, 3.666), (10, 32.856), (50, 152.224)),
    "compact": ((1, 2.485), (10, 18.033), (50, 74.311)),
}
COUNTS_PER_ID = 1.641
BESIDE = {"exact": 23.22, "half": 13.05, "compact": 13.05, "counts": 11.46}
# Of the same model: ids kept up to p, by k; and different ids among so many draws.
KS = (1, 3, 5, 10, 20, 50, 100)
KEPT = {
    0.5: (1, 1.71, 2.04, 2.45, 2.73, 2.91, 2.94),
    0.6: (1, 1.89, 2.38, 3.13, 3.84, 4.49, 4.71),
    0.7: (1, 2.07, 2.74, 3.91, 5.32, 7.17, 8.16),
    0.8: (1, 2.25, 3.15, 4.85, 7.25, 11.50, 14.95),
    0.85: (1, 2.34, 3.38, 5.43, 8.53, 14.62, 20.53),
    0.9: (1, 2.45, 3.64, 6.13, 10.15, 18.92, 28.67),
    0.95: (1, 2.59, 3.97, 7.06, 12.45, 25.53, 42.47),
    0.98: (1, 2.72, 4.29, 7.91, 14.51, 32.12, 57.52),
    1.0: KS,
}
DRAWN = ((1, 1), (10, 4.22), (20, 6.59), (50, 11.99), (100, 18.97), (256, 35.41))
MODEL = "a 270M-parameter model with 262,144 ids, docs/store.md"


@dataclass(frozen=True)
class StoreSize:
    """Size of a store.

    Args:
        bytes_per_token: Bytes for each token.
        kept_ids: Ids kept at a position on average; None where that is not known.
        fixed_bytes: Bytes whatever the number of tokens: the tokenizer, the manifest.
        source: Where the figures are from.
    """

    bytes_per_token: float
    kept_ids: float | None
    fixed_bytes: float
    source: str

    def of(self, tokens: float) -> float:
        """Bytes of the store of so many tokens."""
        return self.bytes_per_token * tokens + self.fixed_bytes


def predicted(stored: Stored) -> StoreSize:
    """Predict from a selection, by what was measured on one model.

    Args:
        stored: The selection; its `bytes_per_token` goes before everything.
    """
    if stored.bytes_per_token is not None:
        return StoreSize(stored.bytes_per_token, stored.kept_ids, 0.0, "selection.bytes_per_token, as given")
    kept = _kept_ids(stored) if stored.kept_ids is None else stored.kept_ids
    if stored.samples is None:
        size = interpolated(TARGETS[stored.values], kept) + BESIDE[stored.values]
    else:
        size = COUNTS_PER_ID * kept + BESIDE["counts"]
    return StoreSize(size, kept, 0.0, f"measured on {MODEL}")


def measured(folder: str) -> StoreSize:
    """Take the size of a store, or of a pilot: one that was recorded of a few blocks.

    Args:
        folder: The store.

    Raises:
        FileNotFoundError: If there is no store.
        ValueError: If it is token blocks, or has none.
    """
    manifest = read_manifest(folder)
    if manifest.kind != "logits":
        raise ValueError(
            f"--store must name a logit store, got the {manifest.kind} of {folder}. Record a few blocks first, with "
            "data.init_args.max_train_blocks and max_val_blocks of `pd-lightning record`."
        )
    tokens = sum(split.num_tokens for split in manifest.splits.values())
    if not tokens:
        raise ValueError(f"--store must hold blocks, got none in {folder}. Record a few.")
    sizes = {path: path.stat().st_size for path in Path(folder).rglob("*") if path.is_file()}
    # The file's own head is a few bytes a block: it grows with the tokens, as the lists of chunks do at 330 bytes each.
    chunks = sum(size for path, size in sizes.items() if path.suffix == ".bin")
    kept = manifest.statistics.get("kept_ids_per_token")
    return StoreSize(chunks / tokens, kept, float(sum(sizes.values()) - chunks), f"measured on {folder}")


def interpolated(points: Sequence[tuple[float, float]], x: float) -> float:
    """Value at x of straight lines through points, and of the last of them beyond.

    Args:
        points: Places and values, in ascending order, two at least.
        x: The place.
    """
    index = min(max(1, bisect_left([place for place, _ in points], x)), len(points) - 1)
    (x0, y0), (x1, y1) = points[index - 1], points[index]
    return y0 + (y1 - y0) * (x - x0) / (x1 - x0)


def _kept_ids(stored: Stored) -> float:
    if stored.samples is not None:
        return min(float(stored.samples), interpolated(DRAWN, stored.samples))
    by_p = [(p, interpolated(tuple(zip(KS, row, strict=True)), stored.k)) for p, row in KEPT.items()]
    return max(1.0, min(float(stored.k), interpolated(by_p, max(stored.p, min(KEPT)))))
