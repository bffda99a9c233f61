"""Log-probabilities of sequences as inference engines give them: read, and checked against the tokens."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from operator import index
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pd_lightning.data.files import find_files, open_text, parquet_file, readable

Target = Mapping[Any, Any] | Sequence[Any] | None
Row = tuple[str, Sequence[int], Sequence[Target]]  # its name for messages, token ids, and what was said of each
_REMEDY = "Mend the file, or leave it out of paths."
# Engines compute in bfloat16 or sum in another order: probabilities may come to a little more than one.
_TOLERANCE = 1e-2
# Alignment is judged anew for each so many positions: files further on may have been made another way.
_WINDOW = 1000
# Targets belong to a neighbouring token where so many positions more than _TIMES those that hold their own token alone
# hold the neighbour alone. Common tokens are held by chance, and a token that is repeated is every neighbour's.
_MORE, _TIMES = 16, 4


@dataclass
class Sequences:
    """Token ids, and what a teacher said of each of them, given those before it.

    Args:
        tokens: Token ids, int64 `[n]`.
        counts: Kept entries of each token, int64 `[n]`; 0 where there is nothing, as at the first one.
        ids: Kept ids, token after token, most probable first, int64 `[S]`.
        logprobs: Their log-probabilities in nats, float32 `[S]`.
    """

    tokens: NDArray[np.int64]
    counts: NDArray[np.int64]
    ids: NDArray[np.int64]
    logprobs: NDArray[np.float32]

    @classmethod
    def join(cls, parts: Sequence[Sequences]) -> Sequences:
        """Lay several end to end."""
        names = ("tokens", "counts", "ids", "logprobs")
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))

    def cut(self, start: int, stop: int | None = None) -> Sequences:
        """A stretch of tokens with what was said of them."""
        ends = np.concatenate([[0], self.counts.cumsum()])
        kept = slice(ends[start], ends[-1 if stop is None else stop])
        return Sequences(self.tokens[start:stop], self.counts[start:stop], self.ids[kept], self.logprobs[kept])

    def without_first(self) -> Sequences:
        """The same tokens, with nothing said of the first one."""
        if not self.tokens.size:
            return self
        first, counts = int(self.counts[0]), self.counts.copy()
        counts[0] = 0
        return replace(self, counts=counts, ids=self.ids[first:], logprobs=self.logprobs[first:])


def read_rows(paths: list[str], tokens: str, logprobs: str) -> Iterator[Row]:
    """Read rows of Parquet (`.parquet`) or JSON Lines files.

    Args:
        paths: Files, folders and globs.
        tokens: Name of the field with token ids.
        logprobs: Name of the field with what was said of each token.

    Yields:
        Where the row stands, its token ids, and what was said of them.

    Raises:
        FileNotFoundError: An entry of `paths` names no file.
        ValueError: A line is no JSON object, or a field is missing.
    """
    for path in find_files(paths, "paths"):
        for number, row in enumerate(_parquet(path) if path.suffix == ".parquet" else _json_lines(path), start=1):
            where = f"{path}, row {number}"
            missing = [name for name in (tokens, logprobs) if name not in row]
            if missing:
                raise ValueError(
                    f"{where} must have the fields {tokens} and {logprobs}, got {', '.join(row)}. Set tokens_field and "
                    "logprobs_field."
                )
            yield where, row[tokens], row[logprobs]


def _json_lines(path: Path) -> Iterator[dict[str, Any]]:
    with open_text(path) as file, readable(path, "utf-8", _REMEDY):
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
                if not isinstance(row, dict):
                    raise ValueError(f"a {type(row).__name__}")
            except (ValueError, RecursionError) as error:
                raise ValueError(
                    f"{path}, line {number} must be one JSON object, got {error}. Mend the file."
                ) from None
            yield row


def _parquet(path: Path) -> Iterator[dict[str, Any]]:
    import pyarrow.parquet as pq

    with parquet_file(pq, path, _REMEDY) as file:
        # One at a time: as Python objects a row takes some hundred bytes for each id that it keeps.
        for batch in file.iter_batches(batch_size=1):
            yield from batch.to_pylist()


class Checker:
    """Turns rows into arrays, and refuses those that can't be what a teacher said of these tokens.

    Args:
        vocab_size: V; all ids are below.
    """

    def __init__(self, vocab_size: int) -> None:
        self.vocab_size = vocab_size
        # For the positions of a window: whether their kept ids hold the token before, the token itself, the one after.
        self._held = np.zeros((3, 0), dtype=bool)

    def check(self, where: str, tokens: Sequence[int], targets: Sequence[Target]) -> Sequences:
        """Check a row.

        Args:
            where: Names the row, for messages.
            tokens: Token ids.
            targets: For each token, what was said of it, given those before it: a mapping from ids to
                log-probabilities or to `{"logprob": …}` (vLLM's prompt_logprobs), pairs of id and log-probability,
                triples of log-probability, id and text (SGLang's input_top_logprobs), or None.

        Raises:
            ValueError: If the lengths differ, an id is no whole number, outside the vocabulary or twice at a position,
                log-probabilities are above 0 or come to more than one, or targets belong to other tokens.
        """
        ids = _token_ids(where, tokens)
        number = len(targets) if hasattr(targets, "__len__") else "no"
        if number != len(ids):
            raise ValueError(
                f"{where} must tell of each token, got {number} entries of log-probabilities for {len(ids)} "
                "tokens. Give null for a token that nothing was said of, the first one say."
            )
        self._check_ids(where, "token ids", ids)
        kept = [_entries(where, target) for target in targets]
        flat_ids = np.concatenate([np.zeros(0, np.int64), *(entry[0] for entry in kept)])
        logprobs = np.concatenate([np.zeros(0), *(entry[1] for entry in kept)])
        self._check_ids(where, "kept ids", flat_ids)
        counts = np.array([len(entry[0]) for entry in kept], dtype=np.int64)
        found = Sequences(ids, counts, flat_ids, _probable(where, logprobs, counts))
        self._check_alignment(where, found)
        return found

    def _check_ids(self, where: str, what: str, ids: NDArray[np.int64]) -> None:
        if ids.size and not 0 <= ids.min() <= ids.max() < self.vocab_size:
            raise ValueError(
                f"{what} of {where} must lie in [0, {self.vocab_size}), got {ids.min()} to {ids.max()}. Set tokenizer "
                "to the one that made them, or vocab_size to the width of the teacher's logits."
            )

    def _check_alignment(self, where: str, row: Sequences) -> None:
        """Targets shifted by one are the mistake that costs most and shows least."""
        if self._held.shape[1] >= _WINDOW:
            self._held = self._held[:, :0]
        held = np.zeros((3, len(row.tokens)), dtype=bool)
        owner = np.repeat(np.arange(len(row.tokens)), row.counts)
        for place, shift in enumerate((-1, 0, 1)):
            other = owner + shift
            inside = (other >= 0) & (other < len(row.tokens))
            same = row.tokens[other[inside]] == row.ids[inside]
            held[place, owner[inside][same]] = True
        self._held = np.concatenate([self._held, held[:, row.counts > 0]], axis=1)
        before, own, after = self._held
        for which, neighbour in (("before", before), ("after", after)):
            if (neighbour & ~own).sum() > _MORE + _TIMES * (own & ~neighbour).sum():
                raise ValueError(
                    "Log-probabilities must be of the token at the same place, given those before it, got some up to "
                    f"{where} that fit the token {which} it better: {neighbour.sum()} of {own.size} positions hold "
                    f"that one, {own.sum()} their own. Shift them by one."
                )


def _token_ids(where: str, tokens: Sequence[int]) -> NDArray[np.int64]:
    try:
        ids = np.array(tokens)
    except ValueError:  # lists of several lengths
        ids = np.zeros((0, 0))
    if ids.ndim != 1 or (ids.size and ids.dtype.kind not in "iu"):
        raise ValueError(
            f"{where} must give token ids as a list of whole numbers, got {str(tokens)[:80]}. Set tokens_field to the "
            "field that has them."
        )
    return ids.astype(np.int64)


def _entries(where: str, target: Target) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Ids and log-probabilities of a token, most probable first."""
    if not target:
        return np.zeros(0, np.int64), np.zeros(0)
    try:
        pairs = list(target.items() if isinstance(target, Mapping) else map(_pair, target))
        ids = np.array([int(key) if isinstance(key, str) else index(key) for key, _ in pairs], dtype=np.int64)
        values = (value["logprob"] if isinstance(value, Mapping) else value for _, value in pairs)
        logprobs = np.array([float(getattr(value, "logprob", value)) for value in values])
    except (TypeError, ValueError, KeyError) as error:
        raise ValueError(
            f"{where} must give log-probabilities by id, got {str(target)[:80]} ({error}). Give each token a mapping "
            "from ids to log-probabilities, as vLLM's prompt_logprobs are, or null."
        ) from None
    if len(set(ids.tolist())) != len(ids):
        raise ValueError(f"{where} must give each id once at a position, got {sorted(ids.tolist())}. Mend the file.")
    order = np.argsort(-logprobs, kind="stable")
    return ids[order], logprobs[order]


def _pair(entry: Any) -> tuple[Any, Any]:
    """Id and log-probability; SGLang has the log-probability first, and the text as a third."""
    return (entry[1], entry[0]) if len(entry) == 3 else (entry[0], entry[1])


def _probable(where: str, logprobs: NDArray[np.float64], counts: NDArray[np.int64]) -> NDArray[np.float32]:
    """Refuse what are no log-probabilities; give them, scaled down where rounding has made them more than one."""
    if not (logprobs <= _TOLERANCE).all():  # NaN too
        raise ValueError(
            f"{where} must give log-probabilities of at most 0, got {logprobs[~(logprobs <= _TOLERANCE)][0]}. Give "
            "natural logarithms of probabilities over the whole vocabulary, not logits."
        )
    row = np.repeat(np.arange(len(counts)), counts)
    mass = np.bincount(row, np.exp(logprobs), minlength=len(counts))
    if mass.max(initial=0.0) > 1 + _TOLERANCE:
        raise ValueError(
            f"{where} must give probabilities that come to one at most, got {mass.max():.4f}. Give those of "
            "temperature 1 over the whole vocabulary."
        )
    return (logprobs - np.log(np.maximum(mass, 1.0))[row]).astype(np.float32)
