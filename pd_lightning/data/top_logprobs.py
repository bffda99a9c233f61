"""Log-probabilities of sequences as inference engines give them: read, and checked against the tokens."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pd_lightning.data.files import find_files, open_text

Target = Mapping[Any, Any] | Sequence[Any] | None
Row = tuple[str, Sequence[int], Sequence[Target]]  # its name for messages, token ids, and what was said of each
# Engines compute in bfloat16 or sum in another order: probabilities may come to a little more than one.
_TOLERANCE = 1e-2
# So many positions tell whether targets belong to the token before or after.
_ENOUGH = 1000


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
    for path in find_files(paths, "import-logits"):
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
    with open_text(path) as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
                if not isinstance(row, dict):
                    raise ValueError(f"a {type(row).__name__}")
            except ValueError as error:
                raise ValueError(
                    f"{path}, line {number} must be one JSON object, got {error}. Mend the file."
                ) from None
            yield row


def _parquet(path: Path) -> Iterator[dict[str, Any]]:
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=64):
            yield from batch.to_pylist()


class Checker:
    """Turns rows into arrays, and refuses those that can't be what a teacher said of these tokens.

    Args:
        vocab_size: V; all ids are below.
    """

    def __init__(self, vocab_size: int) -> None:
        self.vocab_size = vocab_size
        # Positions whose kept ids hold the token before, the token itself, the one after.
        self._hits = np.zeros(3, dtype=np.int64)
        self._seen = 0

    def check(self, where: str, tokens: Sequence[int], targets: Sequence[Target]) -> Sequences:
        """Check a row.

        Args:
            where: Names the row, for messages.
            tokens: Token ids.
            targets: For each token, what was said of it, given those before it: a mapping from ids to
                log-probabilities or to `{"logprob": …}` (vLLM's prompt_logprobs), pairs of id and log-probability,
                triples of log-probability, id and text (SGLang's input_top_logprobs), or None.

        Raises:
            ValueError: If the lengths differ, an id is outside the vocabulary or twice at a position,
                log-probabilities are above 0 or come to more than one, or targets belong to other tokens.
        """
        ids = np.array(tokens, dtype=np.int64)
        if len(targets) != len(ids):
            raise ValueError(
                f"{where} must tell of each token, got {len(targets)} entries of log-probabilities for {len(ids)} "
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
        if self._seen >= _ENOUGH:
            return
        owner = np.repeat(np.arange(len(row.tokens)), row.counts)
        for place, shift in enumerate((-1, 0, 1)):
            other = owner + shift
            inside = (other >= 0) & (other < len(row.tokens))
            self._hits[place] += (row.tokens[other[inside]] == row.ids[inside]).sum()
        self._seen += int((row.counts > 0).sum())
        if self._seen >= _ENOUGH and self._hits.argmax() != 1:
            which = "after" if self._hits.argmax() == 2 else "before"
            raise ValueError(
                f"Log-probabilities must be of the token at the same place, given those before it, got some up to "
                f"{where} that fit the token {which} it better: {self._hits.max()} of {self._seen} positions hold that "
                f"one, {self._hits[1]} their own. Shift them by one."
            )


def _entries(where: str, target: Target) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Ids and log-probabilities of a token, most probable first."""
    if not target:
        return np.zeros(0, np.int64), np.zeros(0)
    try:
        pairs = list(target.items() if isinstance(target, Mapping) else map(_pair, target))
        ids = np.array([int(key) for key, _ in pairs], dtype=np.int64)
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
