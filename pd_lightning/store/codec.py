"""One block of tokens and targets to and from the NumPy arrays that litdata stores.

An item of kind `blocks` is `{"tokens"}`. An item of kind `logits` is `{"tokens", "payload"}`; the payload is

    crc32 of all that follows and of the tokens | T | number of kept entries | zstd frame of
    byte planes: counts [T], ids [S], log-probs [S], then the columns [T] by name

where S is the sum of the counts. A byte plane holds one byte of each number, which compresses far better than
whole numbers one after another. All numbers are little-endian.
"""

from __future__ import annotations

import struct
import zlib
from typing import Any, Literal

import numpy as np
import zstandard

from pd_lightning.store.manifest import Manifest

CODEC_NAME = "planes-zstd"
CODEC_VERSION = 1
Values = Literal["exact", "half"]

_HEAD = struct.Struct("<III")
_LEVEL = 3
_VALUE_TYPES: dict[str, np.dtype] = {"exact": np.dtype("<f4"), "half": np.dtype("<f2")}


def codec_info(values: Values) -> dict[str, Any]:
    """What the manifest says of the codec."""
    return {"name": CODEC_NAME, "version": CODEC_VERSION, "values": values}


def check_codec(manifest: Manifest, source: str) -> None:
    """Refuse a store whose items this version can't decode.

    Raises:
        ValueError: Another codec, or a newer version of it.
    """
    if manifest.kind != "logits":
        return
    codec = manifest.codec or {}
    known = codec.get("name") == CODEC_NAME and codec.get("version") == CODEC_VERSION
    if not known or codec.get("values") not in _VALUE_TYPES:
        raise ValueError(
            f"the codec of {source} must be {CODEC_NAME} version {CODEC_VERSION} with values exact or half, "
            f"got {manifest.codec}. Upgrade with `pip install -U pd-lightning`, or record the store again."
        )


def encode_tokens(block: np.ndarray, vocab_size: int) -> dict[str, np.ndarray]:
    """Encode a block of token ids.

    Args:
        block: Token ids, any integer type `[T+1]`.
        vocab_size: V; all ids are below.

    Returns:
        An item of kind `blocks`.

    Raises:
        ValueError: An id that is not in the vocabulary.
    """
    assert block.ndim == 1
    assert block.size >= 2, "a block predicts at least one token"
    _require_ids(block, vocab_size, "token ids")
    return {"tokens": block.astype(_token_type(vocab_size))}


def encode_targets(
    block: np.ndarray,
    counts: np.ndarray,
    ids: np.ndarray,
    logprobs: np.ndarray,
    columns: dict[str, np.ndarray],
    *,
    values: Values,
    vocab_size: int,
) -> dict[str, np.ndarray]:
    """Encode a block with the teacher's targets.

    Args:
        block: Token ids, any integer type `[T+1]`.
        counts: Kept entries of each position `[T]`.
        ids: Kept ids, position after position, in the order to be kept (most probable first) `[S]`.
        logprobs: Their log-probabilities in nats, over the whole vocabulary `[S]`; -inf is allowed.
        columns: Per-position figures `[T]` by name. `log_tail`, the log of the mass not kept, is required.
        values: `exact` stores float32, `half` stores float16.
        vocab_size: V; all ids are below.

    Returns:
        An item of kind `logits`.

    Raises:
        ValueError: An id that is not in the vocabulary, or a figure that is not a number.
    """
    positions = block.size - 1
    assert counts.shape == (positions,)
    assert ids.shape == logprobs.shape == (int(counts.sum()),)
    assert "log_tail" in columns
    assert all(column.shape == (positions,) for column in columns.values())
    _require_ids(ids, vocab_size, "kept ids")
    for name, array in {"logprobs": logprobs, **columns}.items():
        if np.isnan(array).any():
            raise ValueError(
                f"targets must be numbers, got {int(np.isnan(array).sum())} NaN in {name}. "
                "The teacher's logits overflowed: run it in bfloat16 or float32."
            )
    tokens = encode_tokens(block, vocab_size)["tokens"]
    width, value_type = _id_width(vocab_size), _VALUE_TYPES[values]
    with np.errstate(over="ignore"):  # A log-prob below float16's range becomes -inf: its probability is 0 either way.
        floats = [
            logprobs.astype(value_type),
            *(columns[name].astype(value_type) for name in sorted(columns)),
        ]
    raw = _int_planes(counts, width) + _int_planes(ids, width) + b"".join(map(_planes, floats))
    body = struct.pack("<II", positions, ids.size) + zstandard.ZstdCompressor(level=_LEVEL).compress(raw)
    payload = struct.pack("<I", zlib.crc32(tokens.tobytes(), zlib.crc32(body))) + body
    return {"tokens": tokens, "payload": np.frombuffer(payload, dtype=np.uint8)}


def decode(item: dict[str, np.ndarray], manifest: Manifest) -> dict[str, np.ndarray]:
    """Decode an item.

    Args:
        item: What `encode_tokens` or `encode_targets` gave.
        manifest: Manifest of the folder it comes from.

    Returns:
        `block` int64 `[T+1]`; for kind `logits` also `counts` int64 `[T]`, `ids` int64 `[S]`, `logprobs`
        float32 `[S]`, and each declared column float32 `[T]`. With `half` values, the kept probabilities of a
        position are scaled to sum to one minus the tail, which undoes the bias of rounding.

    Raises:
        ValueError: The item is damaged.
    """
    keys = {"tokens"} if manifest.kind == "blocks" else {"tokens", "payload"}
    _require(item.keys() == keys, f"its arrays are {sorted(item)}, not {sorted(keys)}")
    tokens = item["tokens"]
    _require(tokens.dtype == _token_type(manifest.vocab_size), f"its tokens are stored as {tokens.dtype}")
    length = manifest.block_size + 1
    _require(tokens.shape == (length,), f"it has {tokens.size} tokens, not {length}")
    _require(int(tokens.max()) < manifest.vocab_size, "a token id lies outside the vocabulary")
    decoded = {"block": tokens.astype(np.int64)}
    if manifest.kind == "logits":
        decoded.update(_decode_payload(item["payload"].tobytes(), tokens.tobytes(), manifest))
    return decoded


def _decode_payload(payload: bytes, tokens: bytes, manifest: Manifest) -> dict[str, np.ndarray]:
    assert manifest.codec is not None
    _require(len(payload) > _HEAD.size, "its payload is cut off")
    checksum, positions, total = _HEAD.unpack_from(payload)
    _require(checksum == zlib.crc32(tokens, zlib.crc32(payload[4:])), "its checksum does not match")
    _require(positions == manifest.block_size, f"it has {positions} positions, not {manifest.block_size}")
    width, value_type = _id_width(manifest.vocab_size), _VALUE_TYPES[manifest.codec["values"]]
    columns = sorted(manifest.columns)
    sizes = [positions * width, total * width, total * value_type.itemsize]
    sizes += [positions * value_type.itemsize] * len(columns)
    raw = memoryview(_decompress(payload[_HEAD.size :], sum(sizes)))
    starts = [sum(sizes[:number]) for number in range(len(sizes))]
    planes = [raw[start : start + size] for start, size in zip(starts, sizes, strict=True)]
    counts, ids = _ints(planes[0], width), _ints(planes[1], width)
    _require(int(counts.sum()) == total, f"its counts sum to {int(counts.sum())}, not {total}")
    _require(total == 0 or int(ids.max()) < manifest.vocab_size, "a kept id lies outside the vocabulary")
    logprobs, *rest = (_floats(plane, value_type) for plane in planes[2:])
    decoded = dict(zip(columns, rest, strict=True))
    if manifest.codec["values"] == "half":
        logprobs = _restore_mass(logprobs, counts, decoded["log_tail"])
    return {"counts": counts, "ids": ids, "logprobs": logprobs, **decoded}


def _decompress(frame: bytes, size: int) -> bytes:
    try:
        # The frame's own idea of its size is checked first, so that a damaged one can't ask for gigabytes.
        declared = zstandard.frame_content_size(frame)
        _require(declared == size, f"its payload expands to {declared} bytes, not {size}")
        return zstandard.ZstdDecompressor().decompress(frame)
    except zstandard.ZstdError as error:
        raise ValueError(f"its payload does not decompress ({error})") from error


def _restore_mass(logprobs: np.ndarray, counts: np.ndarray, log_tail: np.ndarray) -> np.ndarray:
    """Shift each position's kept log-probs `[S]` so that their mass is one minus the tail."""
    some = np.flatnonzero(counts)
    if some.size == 0:
        return logprobs
    starts = (np.cumsum(counts) - counts)[some]
    kept = logprobs.astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        peak = np.maximum.reduceat(kept, starts)
        mass = peak + np.log(np.add.reduceat(np.exp(kept - np.repeat(peak, counts[some])), starts))
        shift = np.log1p(-np.exp(log_tail[some].astype(np.float64))) - mass
    # Where all kept log-probs are -inf, or the tail rounded to everything, they stay as stored.
    shift[~np.isfinite(shift)] = 0.0
    return (kept + np.repeat(shift, counts[some])).astype(np.float32)


def _token_type(vocab_size: int) -> np.dtype:
    return np.dtype("<u2") if vocab_size <= 1 << 16 else np.dtype("<u4")


def _id_width(vocab_size: int) -> int:
    """Bytes of an id or a count: a count can be `vocab_size` itself."""
    return (vocab_size.bit_length() + 7) // 8


def _planes(array: np.ndarray) -> bytes:
    return array.view(np.uint8).reshape(array.size, array.itemsize).T.tobytes()


def _int_planes(array: np.ndarray, width: int) -> bytes:
    return array.astype("<u4").view(np.uint8).reshape(array.size, 4)[:, :width].T.tobytes()


def _ints(planes: memoryview, width: int) -> np.ndarray:
    octets = np.frombuffer(planes, dtype=np.uint8).reshape(width, -1)
    wide = np.zeros((octets.shape[1], 4), dtype=np.uint8)
    wide[:, :width] = octets.T
    return wide.view("<u4").ravel().astype(np.int64)


def _floats(planes: memoryview, value_type: np.dtype) -> np.ndarray:
    octets = np.frombuffer(planes, dtype=np.uint8).reshape(value_type.itemsize, -1)
    return np.ascontiguousarray(octets.T).view(value_type).ravel().astype(np.float32)


def _require(condition: bool, problem: str) -> None:
    if not condition:
        raise ValueError(problem)


def _require_ids(ids: np.ndarray, vocab_size: int, what: str) -> None:
    if ids.size and (int(ids.min()) < 0 or int(ids.max()) >= vocab_size):
        raise ValueError(
            f"{what} must lie in [0, {vocab_size}), got [{int(ids.min())}, {int(ids.max())}]. "
            "Set vocab_size to the size of the tokenizer that made them."
        )
