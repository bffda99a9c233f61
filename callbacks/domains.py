"""Texts of one kind that a student is evaluated on: blocks of a data folder, or texts in rolling windows."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from pd_lightning.callbacks.rolling import encode_text, prefix_id, rolling_windows
from pd_lightning.data import Source, TextFiles
from pd_lightning.data.batch import IGNORE_INDEX, BlockDataset, collate
from pd_lightning.data.files import find_files
from pd_lightning.store.manifest import MANIFEST_FILE, Manifest, read_manifest
from pd_lightning.store.reader import BlockReader

Batch = dict[str, Tensor]


class Domain(ABC):
    """Batches of one kind of text: `input_ids` and `labels`, int64 `[B, T]`, -100 where nothing is scored.

    Attributes:
        length: Tokens of the longest sequence, T.
        manifest: Of a data folder; None for texts.
        num_bytes: UTF-8 bytes of all texts; None where the scored tokens tell them.
        num_words: Words of all texts, as lm-evaluation-harness counts them; None where that is not known.
    """

    length: int
    manifest: Manifest | None = None
    num_bytes: int | None = None
    num_words: int | None = None

    @abstractmethod
    def __len__(self) -> int:
        """Number of batches."""

    @abstractmethod
    def __getitem__(self, index: int) -> Batch:
        """Give a batch."""

    def share(self, rank: int, num_ranks: int) -> Sequence[Batch]:
        """Give the batches of one rank; as many to each, for they may have to compute together.

        Args:
            rank: The rank, of those that see different data.
            num_ranks: Their number.

        Returns:
            Batches, made as they are asked for; where they run out, one in which nothing is scored.
        """
        return _Share(self, rank, num_ranks)


class BlockDomain(Domain):
    """The validation split of a data folder, or its only split: each block for itself, all its labels scored.

    Args:
        folder: Token blocks or a logit store.
        batch_size: Blocks of a batch.
        limit: Use only the first so many blocks.

    Raises:
        ValueError: If there are no blocks, or none that is scored.
    """

    def __init__(self, folder: Path, batch_size: int, limit: int | None) -> None:
        self.folder = folder
        self.manifest = read_manifest(folder)
        self.length = self.manifest.block_size
        filled = [name for name, split in self.manifest.splits.items() if split.num_blocks > 0]
        split = "val" if "val" in filled or not filled else filled[0]
        if split not in filled:
            raise ValueError(f"A domain must hold blocks, got {folder} without. Name another folder in domains.")
        self._data = BlockDataset(BlockReader(folder, split))
        number = len(self._data) if limit is None else min(limit, len(self._data))
        self._batches = [range(first, min(first + batch_size, number)) for first in range(0, number, batch_size)]
        # Stores may have positions without a label; as a rule the first batch has some with one.
        if not any((batch["labels"] != IGNORE_INDEX).any() for batch in self.share(0, 1)):
            raise ValueError(
                f"A domain must hold labels to score, got {number} blocks of {folder} without any. Raise limit, or "
                "name another folder in domains."
            )

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, index: int) -> Batch:
        return collate(self._data[self._batches[index]])


class TextDomain(Domain):
    """Texts, each for itself in the windows of the model's context, as lm-evaluation-harness scores them.

    Args:
        source: The texts.
        tokenizer: A Hugging Face tokenizer.
        length: Tokens of a window, the longest that the model takes.
        batch_size: Windows of a batch.
        limit: Use only the first so many texts.

    Raises:
        ValueError: If there is no text.
    """

    def __init__(self, source: Source, tokenizer: Any, length: int, batch_size: int, limit: int | None) -> None:
        self._windows: list[tuple[Tensor, int]] = []
        self._batch_size = batch_size
        self.num_bytes = self.num_words = 0
        prefix = prefix_id(tokenizer)
        for number, text in enumerate(source):
            if number == limit:
                break
            self.num_bytes += len(text.encode(errors="replace"))
            self.num_words += len(re.split(r"\s+", text))
            windows = rolling_windows(encode_text(tokenizer, text), prefix, length)
            self._windows += [(torch.tensor(ids, dtype=torch.int32), scored) for ids, scored in windows]
        if not self._windows:
            raise ValueError(f"A domain must hold text, got none from {source!r}. Name another in domains.")
        self.length = max(len(ids) - 1 for ids, _ in self._windows)

    def __len__(self) -> int:
        return -(-len(self._windows) // self._batch_size)

    def __getitem__(self, index: int) -> Batch:
        windows = self._windows[index * self._batch_size : (index + 1) * self._batch_size]
        inputs = [ids[:-1].long() for ids, _ in windows]
        labels = []
        for ids, scored in windows:
            label = ids[1:].long()
            label[: len(label) - scored] = IGNORE_INDEX
            labels.append(label)
        # What comes after a text changes nothing of it: the models are causal.
        return {
            "input_ids": pad_sequence(inputs, batch_first=True),
            "labels": pad_sequence(labels, batch_first=True, padding_value=IGNORE_INDEX),
        }


def is_blocks(path: str | Source) -> bool:
    """Tell whether a domain is a data folder, rather than text."""
    return isinstance(path, str) and (Path(path) / MANIFEST_FILE).is_file()


def as_source(path: str | Source, key: str) -> Source:
    """Give the texts of a file, a folder or a glob.

    Args:
        path: One of these, or a source, which is given back.
        key: The setting that names it, for the message.

    Raises:
        FileNotFoundError: If there is no such file.
    """
    if not isinstance(path, str):
        return path
    find_files([path], key)
    return TextFiles([path])


class _Share(Sequence[Batch]):
    def __init__(self, domain: Domain, rank: int, num_ranks: int) -> None:
        self._domain, self._rank, self._ranks = domain, rank, num_ranks

    def __len__(self) -> int:
        return -(-len(self._domain) // self._ranks)

    def __getitem__(self, index: Any) -> Any:
        if index >= len(self):
            raise IndexError(index)
        number = index * self._ranks + self._rank
        if number < len(self._domain):
            return self._domain[number]
        batch = self._domain[len(self._domain) - 1]
        return batch | {"labels": torch.full_like(batch["labels"], IGNORE_INDEX)}
