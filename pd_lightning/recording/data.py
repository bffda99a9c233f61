"""What is recorded: blocks by number, dealt to ranks in whole chunks."""

import hashlib
from abc import ABC, abstractmethod
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import lightning.pytorch as pl
from torch import Tensor
from torch.utils.data import DataLoader

from pd_lightning.data import TokenBlocks
from pd_lightning.data.batch import BlockDataset, collate
from pd_lightning.store.chunks import num_chunks
from pd_lightning.store.manifest import MANIFEST_FILE, TokenizerInfo


class RecordingBatch(NamedTuple):
    """Consecutive blocks of a split.

    Args:
        split: Name of the split.
        start: Number of the first block in its split; None for a batch that is only computed, not stored.
        tensors: `input_ids` and `labels`, int64 `[B, T]`, every label a token; maybe `labelled`, bool `[B, T]`, false
            where the student shall not train on the label; maybe `position_ids`, int64 `[B, T]`.
    """

    split: str
    start: int | None
    tensors: dict[str, Tensor]


@dataclass(frozen=True)
class Share:
    """The chunks of a split that a rank records: the missing ones are dealt out in turn.

    Args:
        blocks_per_chunk: Blocks of a chunk.
        done: The chunks that are written, in order.
        rank: This process.
        num_ranks: Of so many.
    """

    blocks_per_chunk: int
    done: tuple[int, ...] = ()
    rank: int = 0
    num_ranks: int = 1

    def owner(self, chunk: int) -> int | None:
        """The rank that records a chunk, or None where it is written."""
        place = bisect_left(self.done, chunk)
        written = self.done[place : place + 1] == (chunk,)
        return None if written else (chunk - place) % self.num_ranks

    def wants(self, block: int) -> bool:
        """Whether a block is in a chunk that this rank records."""
        return self.owner(block // self.blocks_per_chunk) == self.rank

    def chunks(self, num_blocks: int) -> list[range]:
        """The blocks of each chunk of this rank."""
        m = self.blocks_per_chunk
        mine = (chunk for chunk in range(num_chunks(num_blocks, m)) if self.owner(chunk) == self.rank)
        return [range(chunk * m, min((chunk + 1) * m, num_blocks)) for chunk in mine]

    def steps(self, num_blocks: int, batch_size: int) -> tuple[int, int]:
        """The batches of this rank, and of the rank that has most.

        Where the teacher is sharded, every forward pass is one of all ranks together: they must do equally many.
        """
        steps = [0] * self.num_ranks
        for chunk in range(num_chunks(num_blocks, self.blocks_per_chunk)):
            owner = self.owner(chunk)
            if owner is not None:
                blocks = min(self.blocks_per_chunk, num_blocks - chunk * self.blocks_per_chunk)
                steps[owner] += -(-blocks // batch_size)
        return steps[self.rank], max(steps)


class RecordingData(ABC):
    """The blocks to record, in a fixed order.

    Attributes:
        block_size: Positions of a block, T.
        batch_sizes: Blocks of every batch of a split but its last.
        vocab_size: V; all token ids are below.
        tokenizer: Which tokenizer made the ids.
        tokenizer_dir: Its folder.
        document_attention: `isolated` where the teacher must keep to one document, else `full`.
        num_blocks: Blocks of each split; None where that is known only when the split has been read to its end.
        columns: Names of what batches hold of each position beside tokens, for the store's columns.
        origin: What the manifest says of where the blocks come from.
    """

    block_size: int
    batch_sizes: dict[str, int]
    vocab_size: int
    tokenizer: TokenizerInfo
    tokenizer_dir: Path
    document_attention: str
    num_blocks: dict[str, int | None]
    columns: tuple[str, ...] = ()
    origin: dict[str, Any]

    def prepare(self) -> None:
        """Get the data where they are not yet; called on one process of each node."""

    def setup(self, trainer: pl.Trainer) -> None:
        """Open the data, on every rank; from then on all attributes are known."""

    @abstractmethod
    def identity(self) -> str:
        """A digest that is the same at each start if the blocks are."""

    @abstractmethod
    def first(self) -> dict[str, Tensor]:
        """The first batch of the first split."""

    @abstractmethod
    def batches(self, split: str, share: Share) -> Iterator[tuple[int, dict[str, Tensor]]]:
        """The batches of a rank's chunks, each with the number of its first block; then `num_blocks` is known."""


class FolderData(RecordingData):
    """The blocks of a folder, read by number: a second start reads nothing but what is missing.

    Args:
        data: The folder, with the batch size and maybe a limit to the blocks.
        splits: Names of the splits to record; a validation split that does not exist is left out.

    Raises:
        ValueError: If the folder is a logit store, or lacks a split, or other folders are named.
    """

    def __init__(self, data: TokenBlocks, splits: tuple[str, ...]) -> None:
        given = {"mix": data.mix, "min_teacher_step": data.min_teacher_step, "val_path": data.val_path != data.path}
        unread = [name for name, value in given.items() if value]
        if unread:
            raise ValueError(
                f"record must have blocks of one folder, data.path, got data.{unread[0]}. Leave out data.{unread[0]}; "
                "record each folder into a store of its own, and name the others when a student reads them."
            )
        if data.kind != "blocks":
            raise ValueError(
                "record must have token blocks to run the teacher over, got a logit store. Set data to "
                "pd_lightning.data.TokenBlocks with the path of a folder that `pd-lightning tokenize` wrote."
            )
        manifest = data.manifest
        missing = [name for name in splits if name not in manifest.splits]
        # Data without a validation split are recorded as they are.
        if set(missing) - {"val"} or len(missing) == len(splits):
            raise ValueError(
                f"model.splits must name splits of {data.path}, got {', '.join(missing) or 'none'}. Set "
                f"model.splits to some of {', '.join(manifest.splits)}."
            )
        self._data = data
        self.block_size = manifest.block_size
        self.vocab_size, self.tokenizer = manifest.vocab_size, manifest.tokenizer
        self.tokenizer_dir = data.tokenizer_dir
        self.document_attention = manifest.document_attention
        self.origin = manifest.extra
        counts = {name: manifest.splits[name].num_blocks for name in splits if name in manifest.splits}
        self.num_blocks = {
            name: data.limits[name].of(count) if name in data.limits else count
            for name, count in counts.items()
            if count
        }
        self.batch_sizes = dict.fromkeys(self.num_blocks, data.batch_size)

    def identity(self) -> str:
        """The digest of the folder's manifest."""
        return hashlib.sha256((self._data.path / MANIFEST_FILE).read_bytes()).hexdigest()

    def first(self) -> dict[str, Tensor]:
        """The first batch of the first split."""
        split, count = next(iter(self.num_blocks.items()))
        assert count is not None
        return collate(self._dataset(split)[range(min(self.batch_sizes[split], count))])

    def batches(self, split: str, share: Share) -> Iterator[tuple[int, dict[str, Tensor]]]:
        """The batches of a rank's chunks."""
        count, size = self.num_blocks[split], self.batch_sizes[split]
        assert count is not None
        ranges = [blocks[i : i + size] for blocks in share.chunks(count) for i in range(0, len(blocks), size)]
        loader = DataLoader(
            self._dataset(split),
            batch_size=None,
            sampler=ranges,
            collate_fn=collate,
            num_workers=self._data.num_workers or 0,
        )
        yield from zip((blocks.start for blocks in ranges), loader, strict=True)

    def _dataset(self, split: str) -> BlockDataset:
        return BlockDataset(self._data.reader(split))


class RankBatches:
    """All batches of a rank, split by split; every rank takes as many steps, the last of some storing nothing.

    Args:
        data: The blocks.
        shares: The rank's chunks of each split.
    """

    def __init__(self, data: RecordingData, shares: dict[str, Share]) -> None:
        self._data = data
        self._shares = shares

    def __iter__(self) -> Iterator[RecordingBatch]:
        for split, share in self._shares.items():
            for start, tensors in self._data.batches(split, share):
                yield RecordingBatch(split, start, tensors)
            mine, most = self._steps(split)
            for _ in range(most - mine):
                yield RecordingBatch(split, None, self._data.first())

    def __len__(self) -> int:
        """Steps of every rank.

        Raises:
            TypeError: If a split must be read to its end to know.
        """
        if any(self._data.num_blocks[split] is None for split in self._shares):
            raise TypeError("not known before all data were read")
        return sum(self._steps(split)[1] for split in self._shares)

    def _steps(self, split: str) -> tuple[int, int]:
        count = self._data.num_blocks[split]
        assert count is not None, "known once the split has been read"
        return self._shares[split].steps(count, self._data.batch_sizes[split])
