"""`pd-lightning import-logits`: top log-probabilities of an inference engine in, a logit store out.

Engines give the top ids of each prompt token alone: such a store knows neither log Z nor the logits' mean, standard
deviation or entropy, and what needs them refuses it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from rich.console import Console
from rich.progress import track

from pd_lightning.data.files import find_files, total_size
from pd_lightning.data.pack import is_validation
from pd_lightning.data.room import make_room, remove_mark
from pd_lightning.data.tokenizer_folder import save_tokenizer
from pd_lightning.data.top_logprobs import Checker, Row, Sequences, read_rows
from pd_lightning.store import chunks
from pd_lightning.store.codec import Values, codec_info, encode_targets
from pd_lightning.store.manifest import Manifest, SplitInfo, software_versions
from pd_lightning.store.space import check_estimate

_FIGURES = ("tokens", "bytes", "kept_ids", "kept_mass", "targets")

console = Console(stderr=True)


def import_logits(
    paths: list[str],
    output_dir: str,
    tokenizer: str,
    teacher: str,
    block_size: int = 1024,
    vocab_size: int | None = None,
    val_fraction: float = 0.05,
    document_attention: Literal["full", "isolated"] = "isolated",
    values: Values = "half",
    tokens_field: str = "prompt_token_ids",
    logprobs_field: str = "prompt_logprobs",
    blocks_per_chunk: int = 512,
    overwrite: bool = False,
) -> None:
    """Makes a logit store of sequences that an inference engine gave log-probabilities of.

    A row holds the token ids of a sequence and, for each of them, the log-probabilities of the most probable ids in
    its place, given the tokens before it: vLLM's `prompt_logprobs`, SGLang's `input_top_logprobs`, or null where
    nothing was said. Rows are laid end to end, each with an end-of-text, and cut into blocks; positions without targets
    are trained on the LM loss alone. A finished folder with the same settings, of the same files, is left as it is.

    Args:
        paths: Parquet (`.parquet`) or JSON Lines files, folders and globs.
        output_dir: Folder of the store.
        tokenizer: Folder or hub name of the tokenizer that made the ids.
        teacher: Name of the model that gave the log-probabilities, for the manifest.
        block_size: Tokens of a block.
        vocab_size: Width of the teacher's logits. Default: that of the tokenizer.
        val_fraction: Share of rows for validation, decided by a hash of each row's tokens.
        document_attention: `isolated` keeps the student to one row, as the teacher was, of which it sees what is in its
            block; `full` lets it see the rows before in its block.
        values: How log-probabilities are stored: `half` in 16 bits, `exact` in 32 bits, `compact` in fewer.
        tokens_field: Name of the field with the token ids.
        logprobs_field: Name of the field with the log-probabilities.
        blocks_per_chunk: Blocks in a file.
        overwrite: Replace a folder made with other settings.

    Raises:
        ValueError: A row is not what a teacher can have said of its tokens, a setting is out of range, or the folder
            holds something else.
        FileNotFoundError: An entry of `paths` names no file.
    """
    files = find_files(paths, "paths")
    origin = {"paths": paths, "files": len(files), "bytes": total_size(files), "listing": _listing(files)}
    import_rows(
        read_rows([str(file) for file in files], tokens_field, logprobs_field),
        output_dir,
        tokenizer,
        teacher,
        block_size,
        vocab_size,
        val_fraction,
        document_attention,
        values,
        blocks_per_chunk,
        overwrite,
        {**origin, "tokens_field": tokens_field, "logprobs_field": logprobs_field},
    )


def import_rows(
    rows: Iterable[Row],
    output_dir: str,
    tokenizer: str,
    teacher: str,
    block_size: int = 1024,
    vocab_size: int | None = None,
    val_fraction: float = 0.05,
    document_attention: Literal["full", "isolated"] = "isolated",
    values: Values = "half",
    blocks_per_chunk: int = 512,
    overwrite: bool = False,
    origin: dict[str, Any] | None = None,
) -> None:
    """The same as `import_logits`, out of any iterator.

    Args:
        rows: Name of each row for messages, its token ids, and what was said of each, see `top_logprobs.Checker`.
        output_dir: Folder of the store.
        tokenizer: Folder or hub name of the tokenizer that made the ids.
        teacher: Name of the model that gave the log-probabilities.
        block_size: Tokens of a block.
        vocab_size: Width of the teacher's logits. Default: that of the tokenizer.
        val_fraction: Share of rows for validation.
        document_attention: See `import_logits`.
        values: How log-probabilities are stored.
        blocks_per_chunk: Blocks in a file.
        overwrite: Replace a folder made with other settings.
        origin: Where the rows come from, in JSON values: a finished folder of the same origin and settings is left as
            it is. Without it nothing tells whether the rows are the same, and a finished folder is refused.

    Raises:
        ValueError: See `import_logits`.
    """
    least = {"block_size": block_size, "blocks_per_chunk": blocks_per_chunk, "vocab_size": vocab_size or 1}
    for name, value in least.items():
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}. Raise {name}.")
    if not 0 <= val_fraction < 1:
        raise ValueError(f"val_fraction must be at least 0 and less than 1, got {val_fraction}. Set it to 0.05, say.")
    settings: dict[str, Any] = {
        **least,
        "tokenizer": tokenizer,
        "teacher": teacher,
        "val_fraction": val_fraction,
        "values": values,
    }
    settings |= {"document_attention": document_attention, "origin": origin or {}}
    folder = Path(output_dir)
    if not make_room(folder, settings, overwrite, kind="logits", repeatable=origin is not None):
        console.print(f"{folder} already holds these logits: nothing to do.", soft_wrap=True)
        return
    remedy = "The store usually takes less than its files; if not, set output_dir to another disk."
    check_estimate(folder, 0, (origin or {}).get("bytes", 0), "what the files hold", remedy)
    info = save_tokenizer(tokenizer, folder / "tokenizer")
    checker = Checker(vocab_size or info.vocab_size or 1)
    names = ["train", "val"] if val_fraction else ["train"]
    splits = {
        name: _Split(folder / name, block_size, blocks_per_chunk, values, checker.vocab_size, info.eos_token_id)
        for name in names
    }
    for where, tokens, targets in track(rows, "Importing", console=console):
        row = checker.check(where, tokens, targets)
        if document_attention == "isolated":
            # Else it would be the target of the row before, whose end-of-text has this token for its label.
            row = row.without_first()
        splits["val" if is_validation(str(row.tokens.tolist()), val_fraction, 0) else "train"].add(row)
    sizes = {name: split.close() for name, split in splits.items()}
    _check_sizes(sizes, block_size)
    figures = [split.figures for split in splits.values()]
    totals = {name: sum(part[name] for part in figures) for name in figures[0]}
    manifest = Manifest("logits", block_size, checker.vocab_size, info, sizes, document_attention)
    manifest.teacher = {"kind": "import", "name": teacher, "vocab_size": checker.vocab_size}
    manifest.selection = {"k": max(split.most_kept for split in splits.values())}
    manifest.codec, manifest.columns = codec_info(values), ("log_tail",)
    manifest.statistics = {f"{name}_per_token": total / totals["tokens"] for name, total in totals.items()}
    manifest.statistics.pop("tokens_per_token")
    manifest.software, manifest.extra = software_versions(), {"settings": settings}
    chunks.finish(folder, manifest)
    remove_mark(folder)
    console.print(
        f"{folder}: {int(totals['tokens']):,} tokens at {manifest.statistics['bytes_per_token']:.1f} bytes, "
        f"{manifest.statistics['targets_per_token']:.1%} of them with targets",
        soft_wrap=True,
    )


def _listing(files: list[Path]) -> str:
    """A digest of names, sizes and times: of the contents it would take a reading of its own."""
    lines = (f"{file} {file.stat().st_size} {file.stat().st_mtime_ns}\n" for file in files)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _check_sizes(sizes: dict[str, SplitInfo], block_size: int) -> None:
    for name, split in sizes.items():
        if split.num_blocks == 0:
            remedy = "Import more rows, or lower block_size."
            if name == "val":
                remedy = "Raise val_fraction, or set it to 0 and data.val_path to another folder when training."
            raise ValueError(f"The {name} split must fill a block of {block_size} tokens, got less. {remedy}")


@dataclass
class _Split:
    """Lays rows end to end, cuts blocks, and writes them chunk by chunk."""

    folder: Path
    block_size: int
    blocks_per_chunk: int
    values: Values
    vocab_size: int
    eos_token_id: int
    num_blocks: int = 0
    most_kept: int = 1
    figures: dict[str, float] = field(default_factory=lambda: dict.fromkeys(_FIGURES, 0.0))
    _held: list[Sequences] = field(default_factory=list)
    _length: int = 0
    _items: list[dict[str, np.ndarray]] = field(default_factory=list)

    def add(self, row: Sequences) -> None:
        """Append a row, with an end-of-text that nothing was said of where it has none."""
        if row.tokens.size == 0 or row.tokens[-1] != self.eos_token_id:
            end = Sequences(np.array([self.eos_token_id]), np.zeros(1, np.int64), row.ids[:0], row.logprobs[:0])
            row = Sequences.join([row, end])
        self._held.append(row)
        self._length += len(row.tokens)
        while self._length > self.block_size:
            stream = Sequences.join(self._held)
            self._take(stream.cut(0, self.block_size + 1))
            # The next block begins with this one's last token.
            self._held = [stream.cut(self.block_size)]
            self._length = len(self._held[0].tokens)

    def close(self) -> SplitInfo:
        """Write the last, short chunk; what is less than a block is dropped."""
        if self._items:
            self._write()
        return SplitInfo(self.num_blocks, self.num_blocks * self.block_size, self.blocks_per_chunk)

    def _take(self, stretch: Sequences) -> None:
        labels = stretch.cut(1)
        mass = np.zeros(self.block_size)
        np.add.at(mass, np.repeat(np.arange(self.block_size), labels.counts), np.exp(labels.logprobs, dtype=np.float64))
        with np.errstate(divide="ignore"):
            log_tail = np.log1p(-np.minimum(mass, 1.0)).astype(np.float32)
        arrays = (stretch.tokens, labels.counts, labels.ids, labels.logprobs, {"log_tail": log_tail})
        item = encode_targets(*arrays, values=self.values, vocab_size=self.vocab_size)
        self._items.append(item)
        self.most_kept = max(self.most_kept, int(labels.counts.max()))
        sizes = (self.block_size, sum(array.nbytes for array in item.values()), labels.ids.size)
        for name, value in zip(_FIGURES, (*sizes, mass.sum(), (labels.counts > 0).sum()), strict=True):
            self.figures[name] += float(value)
        if len(self._items) == self.blocks_per_chunk:
            self._write()

    def _write(self) -> None:
        chunks.write_chunk(self.folder, self.num_blocks // self.blocks_per_chunk, self._items)
        self.num_blocks += len(self._items)
        self._items = []
