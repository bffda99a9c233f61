"""`pd-lightning tokenize`: text in, a folder of token blocks out.

The corpus streams through: a batch of documents and one chunk of blocks are in memory at a time. The blocks are the
same whatever the number of workers, since documents keep their order and are split by their content.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from pd_lightning.data import bpe
from pd_lightning.data.pack import Packer, batched, is_validation
from pd_lightning.data.room import make_room, remove_mark
from pd_lightning.data.sources import Source
from pd_lightning.data.split import SplitWriter
from pd_lightning.data.standard_library import StandardLibrary
from pd_lightning.data.token_documents import Encoded, encoded_documents
from pd_lightning.data.token_sources import TokenSource
from pd_lightning.store import chunks
from pd_lightning.store.manifest import (
    DOCUMENT_ATTENTION,
    Manifest,
    SplitInfo,
    TokenizerInfo,
    software_versions,
    tokenizer_digest,
)
from pd_lightning.store.space import check_estimate

BATCH_CHARACTERS = 2_000_000
# Of text, whatever the language and the vocabulary: what is less than this allows has no chance.
_MOST_BYTES_PER_TOKEN = 8

console = Console(stderr=True)


def tokenize(
    output_dir: str,
    source: Source | None = None,
    tokenizer: str | None = None,
    vocab_size: int | None = None,
    block_size: int = 1024,
    val_fraction: float = 0.05,
    eos_token: str | None = None,
    document_attention: Literal["full", "isolated"] = "full",
    blocks_per_chunk: int | None = None,
    num_workers: int | None = None,
    seed: int = 0,
    tokenizer_bytes: int = 100_000_000,
    overwrite: bool = False,
) -> None:
    """Turns text into blocks of tokens, split into training and validation by document.

    A finished folder with the same settings is left as it is; an unfinished one is started afresh.

    Args:
        output_dir: Folder to write: `train/`, `val/`, `tokenizer/` and `manifest.json`.
        source: Where text comes from, by class_path: `pd_lightning.data.TextFiles`, `JSONLines`, `Parquet`,
            `HuggingFace` or a class of your own. Default: the running Python's standard library source. Or token ids
            that are there already: `LitData`, `MegatronIndexed`, `NanoGPT`, `HuggingFaceTokens`.
        tokenizer: A Hugging Face tokenizer, by name or folder; of token ids the one that made them. Default: train a
            byte-level BPE on the corpus.
        vocab_size: Ids of the tokenizer to train, bytes and end-of-text included. Default: 4096.
        block_size: Tokens of a block, which is the longest context a student can be trained with.
        val_fraction: Share of documents for validation, decided by a hash of each document's text, or token ids.
        eos_token: The token after each document. Default: the tokenizer's own, `<|endoftext|>` for a trained one.
        document_attention: `full` lets a block's documents see the ones before them. `isolated` has teacher and student
            keep to one document: positions begin at 0 in each, and attention never crosses an end-of-text.
        blocks_per_chunk: Blocks in a file. Default: about 32 MB of them.
        num_workers: Threads that encode. Default: one per core. The result is the same.
        seed: Of the split.
        tokenizer_bytes: How much of the training text the tokenizer is trained on, in bytes.
        overwrite: Replace a folder made with other settings.

    Raises:
        ValueError: A setting is out of range, the corpus is too small, or the folder holds something else.
        FileNotFoundError: The source names files that do not exist.
    """
    source = StandardLibrary() if source is None else source
    settings: dict[str, Any] = {
        "source": repr(source),
        "tokenizer": tokenizer,
        "vocab_size": vocab_size,
        "block_size": block_size,
        "val_fraction": val_fraction,
        "eos_token": eos_token,
        "document_attention": document_attention,
        "blocks_per_chunk": blocks_per_chunk,
        "seed": seed,
        "tokenizer_bytes": tokenizer_bytes,
    }
    _check_settings(settings, num_workers)
    if isinstance(source, TokenSource) and tokenizer is None:
        raise ValueError(
            f"tokenizer must be given where the source holds token ids, got none for {source!r}. Set tokenizer to the "
            "one that made them."
        )
    settings["source_bytes"] = source.size_hint()
    if isinstance(source, TokenSource):
        settings["source_tokens"] = source.num_tokens()
    if tokenizer is None:
        settings["vocab_size"] = vocab_size or 4096
    folder = Path(output_dir)
    if not make_room(folder, settings, overwrite):
        console.print(f"{folder} already holds these blocks: nothing to do.", soft_wrap=True)
        return
    _check_space(
        folder, (settings["source_bytes"] or 0) / _MOST_BYTES_PER_TOKEN, settings["vocab_size"] or 0, least=1.0
    )
    with _threads(num_workers):
        encoder = _make_tokenizer(folder / "tokenizer", source, settings)
        splits = _encode(folder, source, encoder, settings)
    _check_splits(splits, settings)
    special = (encoder.eos_token_id, encoder.bos_token_id, encoder.pad_token_id)
    info = TokenizerInfo(tokenizer_digest(folder), *special, vocab_size=encoder.vocab_size)
    manifest = Manifest("blocks", block_size, encoder.vocab_size, info, splits, document_attention)
    manifest.software, manifest.extra = software_versions(), {"settings": settings}
    chunks.finish(folder, manifest)
    remove_mark(folder)
    _report(folder, manifest)


def _make_tokenizer(target: Path, source: Source, settings: dict[str, Any]) -> bpe.Tokenizer:
    target.mkdir(parents=True)
    if settings["tokenizer"] is not None:
        bpe.fetch(settings["tokenizer"], target)
        return bpe.load(target, settings["eos_token"])
    limit = settings["tokenizer_bytes"]
    # The validation text stays unseen here too, or its perplexity would flatter.
    documents = _documents(source, settings, "Training the tokenizer", limit)
    texts = (text for text, validation in documents if not validation)
    eos_token = settings["eos_token"] or bpe.EOS_TOKEN
    bpe.train(texts, settings["vocab_size"], eos_token, limit, settings["block_size"], target)
    return bpe.load(target)


def _encode(folder: Path, source: Source, encoder: bpe.Tokenizer, settings: dict[str, Any]) -> dict[str, SplitInfo]:
    names = ["train", "val"] if settings["val_fraction"] > 0 else ["train"]
    writers, measured = {}, False
    for name in names:
        packer = Packer(settings["block_size"], encoder.eos_token_id)
        writers[name] = SplitWriter(folder / name, packer, encoder.vocab_size, settings["blocks_per_chunk"])
    if isinstance(source, TokenSource):
        expected = settings["source_tokens"]
        _check_space(folder, expected or 0, encoder.vocab_size, least=1.0)
        for ids, size, validation, ends in _counted(encoded_documents(source, encoder, settings), expected):
            writers["val" if validation else "train"].add(ids, size, ends)
        return {name: writer.close() for name, writer in writers.items()}
    for batch in batched(_documents(source, settings, "Encoding"), BATCH_CHARACTERS):
        encoded = encoder.encode([text for text, _ in batch])
        for (text, validation), ids in zip(batch, encoded, strict=True):
            writers["val" if validation else "train"].add(ids, len(text.encode()))
        if not measured:
            measured, packers = True, [writer.packer for writer in writers.values()]
            tokens, size = (sum(getattr(packer, name) for packer in packers) for name in ("tokens", "bytes"))
            # The first documents may differ from the rest.
            _check_space(folder, (settings["source_bytes"] or 0) * tokens / size, encoder.vocab_size, least=0.5)
    return {name: writer.close() for name, writer in writers.items()}


def _check_space(folder: Path, num_tokens: float, vocab_size: int, least: float) -> None:
    """Refuse blocks that the disk has no room for: for the share `least` of them, where their number is an estimate."""
    needed = num_tokens * (2 if vocab_size <= 2**16 else 4)
    check_estimate(folder, least * needed, needed, "the blocks", "Set output_dir to another disk, or make room there.")


def _documents(
    source: Source, settings: dict[str, Any], task: str, limit: int | None = None
) -> Iterator[tuple[str, bool]]:
    """The corpus, each document with whether it is for validation; a progress bar counts its bytes."""
    total = settings["source_bytes"]
    expected = total if limit is None else min(limit, total or limit)
    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(TextColumn("{task.description}"), *columns, console=console) as progress:
        bar = progress.add_task(task, total=expected)
        for text in source:
            data = text.encode("utf-8", "replace")  # JSON can hold half a surrogate pair, which is no UTF-8
            if data:
                clean = data.decode()
                yield clean, is_validation(clean, settings["val_fraction"], settings["seed"])
                progress.advance(bar, len(data))


def _counted(documents: Iterator[Encoded], expected: int | None) -> Iterator[Encoded]:
    """The documents as they are; a progress bar counts their tokens."""
    columns = (BarColumn(), TextColumn("{task.completed:,} tokens"), TimeRemainingColumn())
    with Progress(TextColumn("{task.description}"), *columns, console=console) as progress:
        bar = progress.add_task("Packing", total=expected)
        for document in documents:
            yield document
            progress.advance(bar, len(document.ids))


@contextmanager
def _threads(num_workers: int | None) -> Iterator[None]:
    """How many threads `tokenizers` uses; its pool keeps the size that it had at first use in a process."""
    wanted = {"TOKENIZERS_PARALLELISM": "false" if num_workers == 1 else "true"}
    if num_workers is not None:
        wanted["RAYON_NUM_THREADS"] = str(num_workers)
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _check_settings(settings: dict[str, Any], num_workers: int | None) -> None:
    if settings["tokenizer"] is not None and settings["vocab_size"] is not None:
        raise ValueError(
            f"vocab_size must be left out where tokenizer is given, got {settings['vocab_size']} and "
            f"{settings['tokenizer']!r}. A tokenizer brings its own vocabulary."
        )
    if not 0 <= settings["val_fraction"] < 1:
        raise ValueError(
            f"val_fraction must be at least 0 and less than 1, got {settings['val_fraction']}. "
            "Set val_fraction to 0.05, say."
        )
    if settings["document_attention"] not in DOCUMENT_ATTENTION:
        raise ValueError(
            f"document_attention must be one of {', '.join(DOCUMENT_ATTENTION)}, got "
            f"{settings['document_attention']!r}. Set document_attention to full, say."
        )
    least = {"block_size": 1, "vocab_size": bpe.ALPHABET + 1, "blocks_per_chunk": 1, "tokenizer_bytes": 1}
    for name, value in [*((name, settings[name]) for name in least), ("num_workers", num_workers)]:
        if value is not None and value < least.get(name, 1):
            raise ValueError(f"{name} must be at least {least.get(name, 1)}, got {value}. Raise {name}.")


def _check_splits(splits: dict[str, SplitInfo], settings: dict[str, Any]) -> None:
    documents = sum(split.extra["documents"] for split in splits.values())
    block_size = settings["block_size"]
    if documents == 0:
        raise ValueError(f"the corpus must hold text, got none from {settings['source']}. Name another source.")
    for name, split in splits.items():
        if split.num_blocks > 0:
            continue
        got = f"{split.extra['tokens']} tokens in {split.extra['documents']} of {documents} documents"
        if name == "train":
            raise ValueError(
                f"the training split must fill a block of {block_size} tokens, got {got}. Name more text in source, "
                "or lower block_size or val_fraction."
            )
        raise ValueError(
            f"the validation split must fill a block of {block_size} tokens, got {got} with val_fraction "
            f"{settings['val_fraction']}. Raise val_fraction, lower block_size, name more documents in source, or "
            "set val_fraction to 0 and point data.val_path at another folder when training."
        )


def _report(folder: Path, manifest: Manifest) -> None:
    console.print(f"{folder}: {manifest.vocab_size:,} token ids, blocks of {manifest.block_size}", soft_wrap=True)
    for name, split in manifest.splits.items():
        extra = split.extra
        console.print(
            f"  {name}: {split.num_blocks:,} blocks, {split.num_tokens:,} tokens from {extra['documents']:,} "
            f"documents ({extra['bytes'] / extra['tokens']:.2f} bytes a token)"
        )
