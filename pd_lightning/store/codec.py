"""One block of tokens and targets to and from the NumPy arrays that litdata stores.

An item is `{"tokens", "payload"}`, with a `teacher_step` where it was recorded while the teacher trained. The payload
holds a checksum and, for kind `logits`, the targets and, by name, the per-position columns.

Values `exact` and `half` are float32 and float16, coded by `planes`; `compact` log-probs and the draws of `counts`
are coded by `compact` and `sparse_matrix`. All numbers are little-endian.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from pd_lightning.store.compact import KL_BUDGET, decode_compact, encode_compact
from pd_lightning.store.damage import require
from pd_lightning.store.manifest import Manifest
from pd_lightning.store.payload import Item, seal, unseal
from pd_lightning.store.planes import decode_columns, decode_planes, encode_columns, encode_planes
from pd_lightning.store.rounding import RoundingError, restore_mass
from pd_lightning.store.sparse_matrix import decode_matrix, encode_matrix

CODEC_NAME = "pd-targets"
CODEC_VERSION = 1
Values = Literal["exact", "half", "compact"]

_EXACT, _HALF = np.dtype("<f4"), np.dtype("<f2")
# Type of the per-position columns.
_COLUMN_TYPES: dict[str, np.dtype] = {"exact": _EXACT, "half": _HALF, "compact": _HALF, "counts": _HALF}


def codec_info(values: Values | Literal["counts"], kl_budget: float = KL_BUDGET) -> dict[str, Any]:
    """What the manifest says of the codec.

    Args:
        values: How log-probabilities are stored, or `counts` for how often each id was drawn.
        kl_budget: That of `compact` values, in nats.
    """
    budget = {"kl_budget": kl_budget} if values == "compact" else {}
    return {"name": CODEC_NAME, "version": CODEC_VERSION, "values": values, **budget}


def check_codec(manifest: Manifest, source: str) -> None:
    """Refuse a store whose items this version can't decode.

    Raises:
        ValueError: Another codec, or a newer version of it, or one that does not go with what is selected.
    """
    if manifest.kind != "logits":
        return
    codec = manifest.codec or {}
    known = codec.get("name") == CODEC_NAME and codec.get("version") == CODEC_VERSION
    values = ("exact", "half", "counts") if manifest.sampled else ("exact", "half", "compact")
    if not known or codec.get("values") not in values:
        raise ValueError(
            f"the codec of {source} must be {CODEC_NAME} version {CODEC_VERSION} with values {', '.join(values)}, "
            f"got {manifest.codec}. Upgrade with `pip install -U pd-lightning`, or record the store again."
        )


def encode_tokens(block: np.ndarray, vocab_size: int) -> Item:
    """Encode a block of token ids.

    Args:
        block: Token ids, any integer type `[T+1]`.
        vocab_size: V; all ids are below.

    Returns:
        An item of kind `blocks`.

    Raises:
        ValueError: An id that is not in the vocabulary.
    """
    return seal(_stored_tokens(block, vocab_size), b"", b"", None)


def encode_targets(
    block: np.ndarray,
    counts: np.ndarray,
    ids: np.ndarray,
    logprobs: np.ndarray,
    columns: dict[str, np.ndarray],
    *,
    values: Values,
    vocab_size: int,
    kl_budget: float = KL_BUDGET,
    teacher_step: int | None = None,
    error: RoundingError | None = None,
) -> Item:
    """Encode a block with the teacher's targets.

    Args:
        block: Token ids, any integer type `[T+1]`.
        counts: Kept entries of each position `[T]`.
        ids: Kept ids, position after position, most probable first `[S]`.
        logprobs: Their log-probabilities in nats, over the whole vocabulary `[S]`; -inf is allowed. Where ids were
            drawn at random, the log of their estimated probabilities.
        columns: Per-position figures `[T]` by name. `log_tail`, the log of the mass not kept, is required but where
            ids were drawn at random.
        values: `exact` stores float32, `half` float16, `compact` what `kl_budget` asks for.
        vocab_size: V; all ids are below.
        kl_budget: Largest mean KL divergence over the positions of the block by `compact` values, in nats.
        teacher_step: Step of the teacher, in stores recorded while it trains.
        error: What rounding costs is added to it.

    Returns:
        An item of kind `logits`.

    Raises:
        ValueError: An id that is not in the vocabulary, a figure that is not a number, or, with `compact` values, an
            id twice at a position.
    """
    assert ids.shape == logprobs.shape == (int(counts.sum()),)
    assert values != "compact" or "log_tail" in columns, "compact values are restored from the tail"
    tokens = _checked_tokens(block, counts, ids, {"logprobs": logprobs, **columns}, vocab_size)
    stored = {name: _rounded(column, _COLUMN_TYPES[values]) for name, column in columns.items()}
    log_tail = stored.get("log_tail")
    if values == "compact":
        assert log_tail is not None
        targets, decoded = encode_compact(tokens[:-1], counts, ids, logprobs, log_tail, kl_budget)
    else:
        rounded = _rounded(logprobs, _COLUMN_TYPES[values])
        targets, decoded = encode_planes(counts, ids, rounded, vocab_size), _restored(rounded, counts, log_tail)
    if error is not None:
        error.add(logprobs, decoded)
        if log_tail is not None:
            error.add(columns["log_tail"], log_tail)
    return seal(tokens, targets, _encoded(stored), teacher_step)


def encode_draws(
    block: np.ndarray,
    counts: np.ndarray,
    ids: np.ndarray,
    draws: np.ndarray,
    columns: dict[str, np.ndarray],
    *,
    vocab_size: int,
    teacher_step: int | None = None,
) -> Item:
    """Encode a block with ids drawn from the teacher, without loss: `values: counts`.

    Args:
        block: Token ids, any integer type `[T+1]`.
        counts: Different ids drawn at each position `[T]`.
        ids: The ids, position after position, none twice in a position `[S]`.
        draws: How often each was drawn, at least once `[S]`.
        columns: Per-position figures `[T]` by name, without `log_tail`.
        vocab_size: V; all ids are below.
        teacher_step: Step of the teacher, in stores recorded while it trains.

    Returns:
        An item of kind `logits`.

    Raises:
        ValueError: An id that is not in the vocabulary or twice at a position, or a figure that is not a number.
    """
    assert ids.shape == draws.shape == (int(counts.sum()),)
    assert "log_tail" not in columns, "what is drawn estimates all ids"
    tokens = _checked_tokens(block, counts, ids, columns, vocab_size)
    stored = {name: _rounded(column, _COLUMN_TYPES["counts"]) for name, column in columns.items()}
    return seal(tokens, encode_matrix(tokens[:-1], counts, ids, draws), _encoded(stored), teacher_step)


def decode(item: Item, manifest: Manifest) -> Item:
    """Decode an item.

    Args:
        item: What `encode_tokens`, `encode_targets` or `encode_draws` gave.
        manifest: Manifest of the folder it comes from.

    Returns:
        `block` int64 `[T+1]`; for kind `logits` also `counts` int64 `[T]`, `ids` int64 `[S]`, `logprobs` float32
        `[S]`, or with values `counts` instead `draws` int64 `[S]`, each declared column float32 `[T]`, and where the
        teacher was in training its `teacher_step` int64 `[1]`. Values `exact` and `half` come in the order in which
        they were given, others with the largest of each position first. With `half` and `compact` values, the kept
        probabilities of a position are scaled to sum to one minus the tail, which undoes the bias of rounding.

    Raises:
        ValueError: The item is damaged.
    """
    keys = {"tokens", "payload"} | ({"teacher_step"} if manifest.teacher_steps else set())
    unsealed = manifest.kind == "blocks" and item.keys() == {"tokens"}  # written before blocks had a checksum
    require(unsealed or item.keys() == keys, f"its arrays are {sorted(item)}, not {sorted(keys)}")
    targets, figures = (b"", b"") if unsealed else unseal(item)
    tokens = item["tokens"]
    require(tokens.dtype == _token_type(manifest.vocab_size), f"its tokens are stored as {tokens.dtype}")
    length = manifest.block_size + 1
    require(tokens.shape == (length,), f"it has {tokens.size} tokens, not {length}")
    require(int(tokens.max()) < manifest.vocab_size, "a token id lies outside the vocabulary")
    decoded = {"block": tokens.astype(np.int64)}
    if manifest.kind == "logits":
        decoded |= _decode_payload(tokens[:-1], targets, figures, manifest)
    else:
        require(not targets and not figures, "it has targets, but the folder has none")
    if manifest.teacher_steps:
        step = item["teacher_step"]
        require(step.dtype == np.int64 and step.shape == (1,), "its teacher_step is not one number")
        decoded["teacher_step"] = step.copy()
    return decoded


def _decode_payload(tokens: np.ndarray, targets: bytes, figures: bytes, manifest: Manifest) -> Item:
    assert manifest.codec is not None
    values, names = manifest.codec["values"], sorted(manifest.columns)
    arrays = decode_columns(figures, len(names), manifest.block_size, _COLUMN_TYPES[values])
    columns = {name: array.astype(np.float32) for name, array in zip(names, arrays, strict=True)}
    if values == "counts":
        counts, ids, draws = decode_matrix(targets, tokens, manifest.vocab_size, manifest.most_kept)
        return {"counts": counts, "ids": ids, "draws": draws, **columns}
    log_tail = columns.get("log_tail")
    sizes = (manifest.vocab_size, manifest.most_kept)
    if values == "compact":
        assert log_tail is not None
        counts, ids, logprobs = decode_compact(targets, tokens, log_tail, *sizes)
    else:
        counts, ids, rounded = decode_planes(targets, tokens.size, _COLUMN_TYPES[values], *sizes)
        logprobs = _restored(rounded, counts, log_tail).astype(np.float32)
    return {"counts": counts, "ids": ids, "logprobs": logprobs, **columns}


def _restored(logprobs: np.ndarray, counts: np.ndarray, log_tail: np.ndarray | None) -> np.ndarray:
    """Undo the bias of float16; float32 has none, and what is sampled no tail."""
    return restore_mass(logprobs, counts, log_tail) if log_tail is not None and logprobs.dtype == _HALF else logprobs


def _encoded(columns: dict[str, np.ndarray]) -> bytes:
    return encode_columns([columns[name] for name in sorted(columns)])


def _checked_tokens(
    block: np.ndarray, counts: np.ndarray, ids: np.ndarray, figures: dict[str, np.ndarray], vocab_size: int
) -> np.ndarray:
    """Check what both kinds of targets have in common; give the tokens as they are stored."""
    assert counts.shape == (block.size - 1,)
    assert all(array.shape == counts.shape for name, array in figures.items() if name != "logprobs")
    _require_ids(ids, vocab_size, "kept ids")
    for name, array in figures.items():
        if np.isnan(array).any():
            raise ValueError(
                f"targets must be numbers, got {int(np.isnan(array).sum())} NaN in {name}. "
                "The teacher's logits overflowed: run it in bfloat16 or float32."
            )
    return _stored_tokens(block, vocab_size)


def _stored_tokens(block: np.ndarray, vocab_size: int) -> np.ndarray:
    assert block.ndim == 1
    assert block.size >= 2, "a block predicts at least one token"
    _require_ids(block, vocab_size, "token ids")
    return block.astype(_token_type(vocab_size))


def _rounded(array: np.ndarray, dtype: np.dtype) -> np.ndarray:
    with np.errstate(over="ignore"):  # A log-prob below float16's range becomes -inf: its probability is 0 either way.
        return array.astype(dtype)


def _token_type(vocab_size: int) -> np.dtype:
    return np.dtype("<u2") if vocab_size <= 1 << 16 else np.dtype("<u4")


def _require_ids(ids: np.ndarray, vocab_size: int, what: str) -> None:
    if ids.size and (int(ids.min()) < 0 or int(ids.max()) >= vocab_size):
        raise ValueError(
            f"{what} must lie in [0, {vocab_size}), got [{int(ids.min())}, {int(ids.max())}]. "
            "Set vocab_size to the size of the tokenizer that made them."
        )
