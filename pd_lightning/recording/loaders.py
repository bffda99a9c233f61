"""Recording the data of any LightningDataModule: its own batches, in its own order."""

import hashlib
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities import CombinedLoader
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, IterableDataset, RandomSampler, SequentialSampler

from pd_lightning.data import bpe
from pd_lightning.data.batch import LABELLED
from pd_lightning.data.inputs import as_mapping
from pd_lightning.recording.batches import as_blocks
from pd_lightning.recording.data import RecordingData, Share
from pd_lightning.store.manifest import TokenizerInfo, tokenizer_digest


class LoaderData(RecordingData):
    """The batches of a LightningDataModule, in the order of its loaders.

    `train_dataloader` gives the split `train`, `val_dataloader` the split `val`. Every rank must be given all blocks,
    and every start the same order. A DataLoader that shuffles is read in the order of its data set instead: students
    shuffle when they read. One with a (batch) sampler reads nothing but the blocks that are missing; any other loader
    is read from its beginning, and what is recorded is skipped.

    Args:
        data: The data, whose batches `batches.as_blocks` describes.
        splits: Names of the splits to record, `train` and `val`; a validation split that does not exist is left out.
        tokenizer: Folder or hub name of the tokenizer; by default the `tokenizer_dir` of the data.
        batch_map: Gives such a batch for one of data that have others.

    Raises:
        ValueError: If no tokenizer is named, or there is no loader for a split.
    """

    document_attention = "full"

    def __init__(
        self,
        data: pl.LightningDataModule,
        splits: tuple[str, ...],
        tokenizer: str | None,
        batch_map: Callable[[Any], Any] | None = None,
    ) -> None:
        name = tokenizer or getattr(data, "tokenizer_dir", None)
        if name is None:
            raise ValueError(
                f"record must know the tokenizer of the data, got none from {type(data).__name__}. Set model.tokenizer "
                "to its folder or hub name, or give the data an attribute tokenizer_dir."
            )
        loaders = [split for split in ("train", "val") if is_overridden(f"{split}_dataloader", data)]
        if set(splits) - {"val", *loaders} or not set(splits) & set(loaders):
            raise ValueError(
                f"model.splits must name loaders of {type(data).__name__}, got {', '.join(splits)}. Set model.splits "
                f"to some of {', '.join(loaders) or 'train and val, and give the data a train_dataloader'}."
            )
        self._data = data
        self._map = batch_map or as_mapping
        self._firsts: dict[str, Any] = {}
        self.num_blocks = {split: None for split in splits if split in loaders}
        self._copy = tempfile.TemporaryDirectory(prefix="pd-lightning-")
        self.tokenizer_dir = Path(self._copy.name)
        bpe.fetch(str(name), self.tokenizer_dir)
        loaded = bpe.load(self.tokenizer_dir)
        self.vocab_size = loaded.vocab_size
        special = (loaded.eos_token_id, loaded.bos_token_id, loaded.pad_token_id)
        self.tokenizer = TokenizerInfo(tokenizer_digest(self.tokenizer_dir), *special, vocab_size=loaded.vocab_size)
        self.origin = {"data": f"{type(data).__module__}.{type(data).__qualname__}"}

    def prepare(self) -> None:
        """Let the data get themselves."""
        self._data.prepare_data()

    def setup(self, trainer: pl.Trainer) -> None:
        """Open the data and look at the first batch of each split."""
        self._data.trainer = trainer
        self._data.setup("fit")
        self._firsts = {split: self._first(split) for split in self.num_blocks}
        self.batch_sizes = {split: len(first["labels"]) for split, first in self._firsts.items()}
        self.block_size = self.first()["labels"].shape[1]
        self.columns = (LABELLED,) if LABELLED in self.first() else ()

    def identity(self) -> str:
        """The digest of the first batch of each split."""
        digest = hashlib.sha256()
        for split, first in self._firsts.items():
            for name in sorted(first):
                digest.update(f"{split} {name} {tuple(first[name].shape)}".encode())
                digest.update(first[name].contiguous().numpy().data)
        return f"sha256:{digest.hexdigest()}"

    def first(self) -> dict[str, Tensor]:
        """The first batch of the first split."""
        first: dict[str, Tensor] = next(iter(self._firsts.values()))
        return first

    def batches(self, split: str, share: Share) -> Iterator[tuple[int, dict[str, Tensor]]]:
        """The batches of a rank's chunks."""
        wanted = _Wanted(share, self.batch_sizes[split], split)
        loader = self._loader(split)
        mapped = wanted.of_samples if _has_batch_sampler(loader) else wanted.of_batches
        for start, batch in mapped(loader, self._map):
            blocks = as_blocks(batch, self.vocab_size, self.tokenizer.eos_token_id)
            first = self._firsts[split]
            if blocks.keys() != first.keys() or blocks["labels"].shape[1] != self.block_size:
                raise ValueError(
                    f"{split}_dataloader must give blocks of one length, all with labels or all without, got "
                    f"{blocks['labels'].shape[1]} positions after {self.block_size}. Cut or pad them in the data."
                )
            if start == 0 and not torch.equal(blocks["input_ids"], first["input_ids"]):
                raise ValueError(
                    f"{split}_dataloader must give the same batches in the same order each time, got another first "
                    "batch. Turn its shuffling off: students shuffle when they read the store."
                )
            yield start, blocks
        self.num_blocks[split] = wanted.num_blocks

    def _first(self, split: str) -> dict[str, Tensor]:
        batch = next(iter(self._loader(split)), None)
        if batch is None:
            raise ValueError(
                f"{split}_dataloader must give a batch at least, got none. Give {type(self._data).__name__} more data, "
                "or leave the split out of model.splits."
            )
        return as_blocks(self._map(batch), self.vocab_size, self.tokenizer.eos_token_id)

    def _loader(self, split: str) -> Iterable[Any]:
        loader = getattr(self._data, f"{split}_dataloader")()
        if isinstance(loader, (list, tuple, Mapping, CombinedLoader)):
            raise ValueError(
                f"{split}_dataloader must give one loader, got a {type(loader).__name__} of them. Join their data sets "
                "into one with torch.utils.data.ConcatDataset."
            )
        if _has_batch_sampler(loader) and isinstance(loader.sampler, RandomSampler):
            indices = SequentialSampler(loader.dataset)
            return _with(loader, BatchSampler(indices, loader.batch_size, loader.drop_last))
        return loader  # type: ignore[no-any-return]


class _Wanted:
    """Counts the blocks that a loader gives, and lets those through that a rank records."""

    def __init__(self, share: Share, batch_size: int, split: str) -> None:
        self.num_blocks = 0
        self._share = share
        self._batch_size = batch_size
        self._split = split

    def of_samples(self, loader: Any, batch_map: Callable[[Any], Any]) -> Iterator[tuple[int, Any]]:
        """Load the wanted batches alone."""
        starts: deque[int] = deque()

        def indices() -> Iterator[Any]:
            for batch in loader.batch_sampler:
                start = self._count(len(batch))
                if self._share.wants(start):
                    starts.append(start)
                    yield batch

        for batch in _with(loader, indices()):
            yield starts.popleft(), batch_map(batch)

    def of_batches(self, loader: Iterable[Any], batch_map: Callable[[Any], Any]) -> Iterator[tuple[int, Any]]:
        """Load all batches, and skip those not wanted."""
        for batch in map(batch_map, loader):
            start = self._count(len(as_mapping(batch)["input_ids"]))
            if self._share.wants(start):
                yield start, batch

    def _count(self, size: int) -> int:
        start = self.num_blocks
        if start % self._batch_size or size > self._batch_size:
            raise ValueError(
                f"Batches of {self._split}_dataloader must be of one size, but for the last, got "
                f"{size if size > self._batch_size else start % self._batch_size} blocks after {self._batch_size}. Set "
                "the data to a fixed batch size."
            )
        self.num_blocks += size
        return start


def _has_batch_sampler(loader: Any) -> bool:
    """Whether batches can be left out by leaving out their indices; a subclass may do more than its sampler says."""
    return (
        type(loader) is DataLoader
        and not isinstance(loader.dataset, IterableDataset)
        and loader.batch_sampler is not None
    )


def _with(loader: DataLoader, batches: Iterable[Any]) -> DataLoader:
    """A loader with other batches."""
    return DataLoader(
        loader.dataset,
        batch_sampler=batches,
        collate_fn=loader.collate_fn,
        num_workers=loader.num_workers,
        worker_init_fn=loader.worker_init_fn,
        multiprocessing_context=loader.multiprocessing_context,
        prefetch_factor=loader.prefetch_factor,
        timeout=loader.timeout,
    )
