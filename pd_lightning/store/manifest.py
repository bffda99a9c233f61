"""The manifest of a data folder: what it holds, for which tokenizer, written by which software.

The manifest is written last, so a folder without one is unfinished.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from pd_lightning.redaction import redact
from pd_lightning.store.json_files import read_json
from pd_lightning.store.manifest_fields import check, column_names, count, numbers, optional_object

FORMAT = "pd-lightning"
FORMAT_VERSION = 1
KINDS = ("blocks", "logits")
DOCUMENT_ATTENTION = ("full", "isolated")
MANIFEST_FILE = "manifest.json"

_SPLIT_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_HOW_TO_WRITE = "Write one with `pd-lightning tokenize` (token blocks) or `pd-lightning record` (logit store)"


@dataclass
class TokenizerInfo:
    """Which tokenizer made the ids.

    Args:
        digest: `tokenizer_digest` of the folder's tokenizer.
        eos_token_id: Id of end-of-text, which ends every document.
        bos_token_id: Id of beginning-of-text, where the tokenizer has one.
        pad_token_id: Id of padding, where the tokenizer has one.
        vocab_size: One more than its largest id; None in folders that don't tell.
    """

    digest: str
    eos_token_id: int
    bos_token_id: int | None = None
    pad_token_id: int | None = None
    vocab_size: int | None = None


@dataclass
class SplitInfo:
    """Size of one split.

    Args:
        num_blocks: Blocks of `block_size + 1` ids.
        num_tokens: Predicted tokens, `num_blocks * block_size`.
        blocks_per_chunk: Blocks in every chunk file but the last, which holds the rest.
        extra: Further figures, such as documents and bytes.
    """

    num_blocks: int
    num_tokens: int
    blocks_per_chunk: int
    extra: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        assert self.blocks_per_chunk >= 1, "a chunk holds at least one block"
        assert self.num_blocks >= 0


@dataclass
class Manifest:
    """What a data folder holds.

    Args:
        kind: `blocks` (tokens alone) or `logits` (tokens with the teacher's targets).
        block_size: Predicted tokens of a block, T. A block is stored as T+1 ids.
        vocab_size: Size of the vocabulary, V; all ids are below. That of the tokenizer (kind `blocks`), or the width
            of the teacher's logits, padding included (kind `logits`).
        tokenizer: Which tokenizer made the ids.
        splits: Size of each split, by the name of its sub-folder.
        document_attention: Whether models attend over a whole block (`full`) or within a document (`isolated`).
        teacher: Who made the targets (kind `logits`).
        selection: Which ids were kept, by `k` with what else decides, or the number of `samples` drawn at random with
            `s` and `seed` (kind `logits`).
        codec: Name, version and value type of the codec, see `codec.codec_info` (kind `logits`).
        columns: Names of the per-position columns that there are; `log_tail` is one unless ids were drawn at random
            (kind `logits`).
        teacher_steps: Whether each item has a `teacher_step`: it was recorded while the teacher trained.
        statistics: Figures measured while writing.
        software: Version of each package that wrote the folder.
        extra: Anything else, such as the settings of the command.
    """

    kind: str
    block_size: int
    vocab_size: int
    tokenizer: TokenizerInfo
    splits: dict[str, SplitInfo]
    document_attention: str = "full"
    teacher: dict[str, Any] | None = None
    selection: dict[str, Any] | None = None
    codec: dict[str, Any] | None = None
    columns: tuple[str, ...] = ()
    teacher_steps: bool = False
    statistics: dict[str, Any] = field(default_factory=dict)
    software: dict[str, str] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def tokenizer_vocab_size(self) -> int | None:
        """One more than the tokenizer's largest id, or None where the folder does not tell."""
        return self.vocab_size if self.kind == "blocks" else self.tokenizer.vocab_size

    @property
    def sampled(self) -> bool:
        """Whether the targets are ids drawn at random, rather than the most probable ones."""
        return "samples" in (self.selection or {})

    @property
    def counted(self) -> bool:
        """Whether the targets are how often each id was drawn, rather than log-probabilities."""
        return (self.codec or {}).get("values") == "counts"

    @property
    def most_kept(self) -> int:
        """Kept ids of a position at most: what is selected, or else all ids there are."""
        selection = self.selection or {}
        return min(self.vocab_size, int(selection.get("samples", selection.get("k", self.vocab_size))))

    def to_json(self) -> dict[str, Any]:
        """The manifest as plain JSON values, without secrets."""
        body = dataclasses.asdict(self)
        body |= {"teacher": redact(self.teacher), "extra": redact(self.extra)}
        body["columns"] = list(self.columns)
        for split in body["splits"].values():
            extra = split.pop("extra")
            assert not extra.keys() & split.keys(), "an extra must not hide a field of its split"
            split.update(extra)
        return {"format": FORMAT, "format_version": FORMAT_VERSION, **body}

    @classmethod
    def from_json(cls, data: Any, source: str) -> Manifest:
        """Read a manifest back, checking every field that the reader relies on.

        Args:
            data: What `to_json` gave.
            source: Name of the file, for messages.

        Raises:
            ValueError: Another format, a newer format version, or a malformed field.
        """
        if not isinstance(data, dict) or data.get("format") != FORMAT:
            found = data.get("format") if isinstance(data, dict) else type(data).__name__
            raise ValueError(f"{source} must have the format {FORMAT!r}, got {found!r}. {_HOW_TO_WRITE}.")
        try:
            version = count(data, "format_version", 1)
            if version <= FORMAT_VERSION:
                return cls._parse(data)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            reason = f"field {error} is missing" if isinstance(error, KeyError) else str(error)
            raise ValueError(
                f"{source} must be a complete manifest, got a damaged one: {reason}. "
                "Write the folder again with the command that made it."
            ) from error
        raise ValueError(
            f"format_version of {source} must be at most {FORMAT_VERSION}, got {version}. "
            "It was written by a newer pd-lightning: upgrade with `pip install -U pd-lightning`."
        )

    @classmethod
    def _parse(cls, data: dict[str, Any]) -> Manifest:
        check(data["kind"] in KINDS, f"kind must be one of {KINDS}, got {data['kind']!r}")
        block_size, vocab_size = count(data, "block_size", 1), count(data, "vocab_size", 1)
        check(max(block_size, vocab_size) < 1 << 31, "block_size and vocab_size must be below 2^31")
        splits = {}
        for name, value in data["splits"].items():
            check(bool(_SPLIT_NAME.fullmatch(name)), f"a split must have a plain name, got {name!r}")
            splits[name] = _split(value, block_size)
        tokenizer = TokenizerInfo(**data["tokenizer"])
        check(isinstance(tokenizer.digest, str), "the tokenizer's digest must be text")
        for key, least in (("eos_token_id", 0), ("bos_token_id", 0), ("pad_token_id", 0), ("vocab_size", 1)):
            if key == "eos_token_id" or data["tokenizer"].get(key) is not None:
                count(data["tokenizer"], key, least)
        attention = data.get("document_attention", "full")
        known = ", ".join(DOCUMENT_ATTENTION)
        check(attention in DOCUMENT_ATTENTION, f"document_attention must be one of {known}, got {attention!r}")
        optional: dict[str, Any] = {key: optional_object(data, key) for key in ("teacher", "selection", "codec")}
        optional["teacher_steps"] = data.get("teacher_steps", False)
        check(type(optional["teacher_steps"]) is bool, "teacher_steps must be true or false")
        free: dict[str, Any] = {key: optional_object(data, key) or {} for key in ("software", "extra")}
        free["statistics"] = numbers(data, "statistics")
        optional |= {"document_attention": attention, "columns": column_names(data)}
        manifest = cls(data["kind"], block_size, vocab_size, tokenizer, splits, **optional, **free)
        numbers(data, "selection")
        _check_targets(manifest)
        return manifest


def _check_targets(manifest: Manifest) -> None:
    selection = manifest.selection or {}
    for key in selection.keys() & {"k", "samples"}:
        count(selection, key, 0)
    if manifest.kind == "blocks":
        check(not manifest.teacher_steps, "teacher_steps must be false for blocks")
    elif manifest.sampled:
        assert manifest.selection is not None
        count(manifest.selection, "samples", 1)
        check("log_tail" not in manifest.columns, "columns of sampled targets must not include log_tail")
    else:
        check("log_tail" in manifest.columns, "columns must include log_tail")


def _split(data: dict[str, Any], block_size: int) -> SplitInfo:
    fields = ("num_blocks", "num_tokens", "blocks_per_chunk")
    extra = {key: value for key, value in data.items() if key not in fields}
    split = SplitInfo(
        count(data, "num_blocks", 0),
        count(data, "num_tokens", 0),
        count(data, "blocks_per_chunk", 1),
        extra,
    )
    expected = split.num_blocks * block_size
    check(split.num_tokens == expected, f"num_tokens must be {expected}, got {split.num_tokens}")
    return split


def read_manifest(folder: str | Path) -> Manifest:
    """Read the manifest of a finished data folder.

    Raises:
        FileNotFoundError: No such folder, or one that holds no (finished) data.
        ValueError: The manifest is damaged, not ours, or of a newer format version.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"the data folder must exist, got {folder}. {_HOW_TO_WRITE}, or correct the path.")
    path = folder / MANIFEST_FILE
    if not path.is_file():
        raise FileNotFoundError(_without_manifest(folder))
    return Manifest.from_json(read_json(path), str(path))


def _without_manifest(folder: Path) -> str:
    if any(folder.glob("*/chunk-*")) or any(folder.glob("*/index.json")):
        return (
            f"the data folder must be finished, got {folder} with chunks but without {MANIFEST_FILE}. "
            "Run the command that writes it again."
        )
    return f"the data folder must hold {MANIFEST_FILE}, got {folder} without it. {_HOW_TO_WRITE}."


def tokenizer_digest(folder: str | Path) -> str:
    """Digest of the tokenizer in `folder`, that of its `tokenizer.json`.

    Args:
        folder: A tokenizer folder, or a data folder with a `tokenizer` sub-folder.

    Raises:
        FileNotFoundError: There is no `tokenizer.json`.
    """
    folder = Path(folder)
    for path in (folder / "tokenizer.json", folder / "tokenizer" / "tokenizer.json"):
        if path.is_file():
            return "sha256:" + hashlib.sha256(path.read_bytes()).hexdigest()
    raise FileNotFoundError(
        f"the tokenizer folder must hold tokenizer.json, got {folder} without it. "
        "Save a fast tokenizer there with `save_pretrained`."
    )


def software_versions(*more: str) -> dict[str, str]:
    """Installed version of each package that decides what a folder holds; an absent one is left out.

    Args:
        more: Further packages.

    Returns:
        Versions by package.
    """
    versions = {}
    for package in ("pd-lightning", "litdata", "numpy", "tokenizers", "torch", "transformers", "zstandard", *more):
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return versions
