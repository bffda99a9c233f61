"""`TokenBlocks`: blocks of a data folder as training and validation batches, resumable to the block."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.trainer.states import TrainerFn
from torch.utils.data import DataLoader

from pd_lightning.data import resume
from pd_lightning.data.batch import BlockDataset, collate
from pd_lightning.data.order import BlockSampler, Order, Position, advance
from pd_lightning.store.manifest import Manifest, read_manifest
from pd_lightning.store.reader import BlockReader


class BlockLoader(DataLoader[Any]):
    """A DataLoader that starts at its first batch, not at `iter()`.

    Lightning calls `iter()` several times before it trains, partly before a checkpoint's counters are loaded:
    workers would be started in vain, and prefetch from a position that is not known yet.
    """

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        yield from super().__iter__()

    def state_dict(self) -> dict[str, Any]:
        """Nothing: the data module keeps the position. Being there, it tells Lightning that we can resume."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing to load."""


class TokenBlocks(LightningDataModule):
    """Batches from a folder of token blocks or a logit store.

    The order of blocks is a pure function of the seed, the epoch and the number of blocks: a store gives the same
    batches as the token blocks it was recorded from. A checkpoint holds the position, so that a resumed run sees
    exactly the blocks that are due, even with other ranks, workers or batch sizes.

    Args:
        path: A folder written by `pd-lightning tokenize` or `pd-lightning record`.
        batch_size: Blocks a device sees at a time.
        val_batch_size: The same in validation. Default: `batch_size`.
        val_path: Another folder to take the validation split from.
        num_workers: Processes that read and decode, on each rank. 0 reads in the training process.
        seed: Of the order.
        shuffle: Whether each epoch has another order; otherwise it is that of the folder.
        shuffle_window: 0 shuffles over the whole split; a number keeps reading local, shuffling runs of an eighth
            of it and then within windows of it, for storage where jumping about is slow.
        max_train_blocks: Use only the first so many training blocks.
        max_val_blocks: Use only the first so many validation blocks.
        pin_memory: Page-locked batches for faster copies to a GPU. Default: where training is on a GPU.
        prefetch_factor: Batches that each worker keeps ready.

    Raises:
        ValueError: A number is out of range.
    """

    def __init__(
        self,
        path: str,
        batch_size: int = 8,
        val_batch_size: int | None = None,
        val_path: str | None = None,
        num_workers: int = 0,
        seed: int = 0,
        shuffle: bool = True,
        shuffle_window: int = 0,
        max_train_blocks: int | None = None,
        max_val_blocks: int | None = None,
        pin_memory: bool | None = None,
        prefetch_factor: int = 4,
    ) -> None:
        super().__init__()
        self.path = Path(path)
        self.val_path = Path(val_path) if val_path is not None else self.path
        self.batch_size = _at_least(1, "batch_size", batch_size)
        self.val_batch_size = _at_least(1, "val_batch_size", batch_size if val_batch_size is None else val_batch_size)
        self.num_workers = _at_least(0, "num_workers", num_workers)
        self.seed = _at_least(0, "seed", seed)
        self.shuffle = shuffle
        self.shuffle_window = _at_least(0, "shuffle_window", shuffle_window)
        self.max_blocks = {
            "train": None if max_train_blocks is None else _at_least(1, "max_train_blocks", max_train_blocks),
            "val": None if max_val_blocks is None else _at_least(1, "max_val_blocks", max_val_blocks),
        }
        self.pin_memory = pin_memory
        self.prefetch_factor = _at_least(1, "prefetch_factor", prefetch_factor)
        self._readers: dict[str, BlockReader] = {}
        self._start = Position()

    @cached_property
    def manifest(self) -> Manifest:
        """The manifest of `path`."""
        return read_manifest(self.path)

    @property
    def kind(self) -> str:
        """`logits` (with the teacher's targets), or `blocks` where a split that is in use has tokens alone."""
        kinds = {reader.manifest.kind for reader in self._readers.values()} or {self.manifest.kind}
        return "blocks" if "blocks" in kinds else "logits"

    @property
    def block_size(self) -> int:
        """Positions of the longest blocks in use; those of `val_path` may be longer."""
        readers = self._readers.values()
        return max((reader.manifest.block_size for reader in readers), default=self.manifest.block_size)

    @property
    def vocab_size(self) -> int:
        """V; all token ids are below."""
        return self.manifest.vocab_size

    @property
    def tokenizer_dir(self) -> Path:
        """Folder that `AutoTokenizer` loads."""
        return self.path / "tokenizer"

    def setup(self, stage: str) -> None:
        """Opens the splits that the stage reads, and checks them."""
        if stage == "fit":
            self._open("train", self.path)
            if self.trainer is not None and resume.consumed(self.trainer) == 0:
                self._start = Position()  # a new run, unless a checkpoint is about to say otherwise
        if self.trainer is None or stage != "fit" or self.trainer.limit_val_batches:
            self._open("val", self.val_path)

    def train_dataloader(self) -> BlockLoader:
        """This rank's training batches from wherever training stands."""
        self._check_trainer()
        return self._loader("train", self._train_order, self.batch_size, self._position)

    def val_dataloader(self) -> BlockLoader:
        """This rank's share of the validation split, in the order of the folder, each block once."""
        self._check_trainer()
        return self._loader("val", Order(self._num_blocks("val")), self.val_batch_size, Position)

    def test_dataloader(self) -> BlockLoader:
        """The same as in validation."""
        return self.val_dataloader()

    def predict_dataloader(self) -> BlockLoader:
        """The same as in validation."""
        return self.val_dataloader()

    def state_dict(self) -> dict[str, Any]:
        """The position for a checkpoint."""
        if self.trainer is None or "train" not in self._readers:
            return {}
        attention = self.manifest.document_attention
        return resume.save(self.trainer, self._start, self._train_order, self._global_batch, attention)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on from a checkpoint's position.

        Raises:
            ValueError: The blocks now come in another order, are others, or are attended to otherwise.
        """
        if self.trainer is None or self.trainer.state.fn != TrainerFn.FITTING:
            return
        self._start = resume.load(state_dict, self._train_order, self.manifest.document_attention)
        # The one moment before Lightning reads its counters; it offers data modules no hook for it.
        loops = self.trainer._checkpoint_connector._loaded_checkpoint["loops"]["fit_loop"]
        resume.align(loops, state_dict, self._global_batch, self.trainer.limit_train_batches == 1.0)

    @property
    def _train_order(self) -> Order:
        return Order(self._num_blocks("train"), self.seed, self.shuffle, self.shuffle_window)

    @property
    def _ranks(self) -> tuple[int, int]:
        """This process among those that see different data (not all do under tensor parallelism)."""
        kwargs = (self.trainer.distributed_sampler_kwargs if self.trainer else None) or {}
        return kwargs.get("rank", 0), kwargs.get("num_replicas", 1)

    @property
    def _global_batch(self) -> int:
        return self.batch_size * self._ranks[1]

    def _position(self) -> Position:
        if self.trainer is None:
            return self._start
        batches = resume.consumed(self.trainer) - self._start.batches
        return advance(self._start, batches, self._num_blocks("train"), self._global_batch)

    def _num_blocks(self, split: str) -> int:
        available = len(self._readers[split])
        return min(available, self.max_blocks[split] or available)

    def _open(self, split: str, folder: Path) -> None:
        if split in self._readers:
            return
        manifest = read_manifest(folder)
        if split not in manifest.splits or manifest.splits[split].num_blocks == 0:
            raise ValueError(f"{folder} must hold blocks in its {split} split, got none. {_EMPTY[split]}")
        if folder != self.path and manifest.tokenizer.digest != self.manifest.tokenizer.digest:
            raise ValueError(
                f"data.val_path must hold blocks of the tokenizer of data.path, got {folder} and {self.path} with "
                "different ones. Tokenize it with --tokenizer set to the tokenizer folder of data.path."
            )
        if manifest.kind == self.manifest.kind and manifest.vocab_size != self.vocab_size:
            raise ValueError(
                f"data.val_path must hold targets over the vocabulary of those of data.path, got {folder} with "
                f"{manifest.vocab_size} ids and {self.path} with {self.vocab_size}. Record it with the teacher of "
                "data.path."
            )
        attention = self.manifest.document_attention
        if manifest.document_attention != attention:
            raise ValueError(
                f"data.val_path must hold blocks with the document_attention of data.path, got {folder} with "
                f"{manifest.document_attention} and {self.path} with {attention}. Tokenize it with "
                f"--document_attention {attention}."
            )
        self._readers[split] = BlockReader(folder, split)

    def _loader(self, split: str, order: Order, batch_size: int, position: Callable[[], Position]) -> BlockLoader:
        on_gpu = self.trainer is not None and self.trainer.strategy.root_device.type == "cuda"
        return BlockLoader(
            BlockDataset(self._readers[split]),
            sampler=BlockSampler(order, batch_size, *self._ranks, position),
            batch_size=None,  # the sampler gives whole batches
            collate_fn=collate,
            num_workers=self.num_workers,
            pin_memory=on_gpu if self.pin_memory is None else self.pin_memory,
            # Or each iteration would draw a seed from the global random state, and a resumed run, which iterates
            # once more or less, would see other dropout masks.
            generator=torch.Generator(),
            persistent_workers=self.num_workers > 0,
            prefetch_factor=self.prefetch_factor if self.num_workers > 0 else None,
        )

    def _check_trainer(self) -> None:
        trainer = self.trainer
        if trainer is None:
            return
        if self._ranks[1] > 1 and trainer._accelerator_connector.use_distributed_sampler:
            raise ValueError(
                f"trainer.use_distributed_sampler must be false with TokenBlocks, got true on {self._ranks[1]} ranks. "
                "Set trainer.use_distributed_sampler to false: TokenBlocks deals the blocks itself."
            )
        overfit_batches = getattr(trainer, "overfit_batches", 0)  # set by a function that hides it from type checkers
        if overfit_batches:
            raise ValueError(
                f"trainer.overfit_batches must be 0 with TokenBlocks, got {overfit_batches}. "
                "Set data.max_train_blocks to the number of blocks to overfit."
            )


_EMPTY = {
    "train": "Tokenize more text, or set data.path to another folder.",
    "val": (
        "Set data.val_path to a folder that has one, tokenize again with a larger --val_fraction, or set "
        "trainer.limit_val_batches to 0."
    ),
}


def _at_least(least: int, name: str, value: int) -> int:
    if value < least:
        raise ValueError(f"data.{name} must be at least {least}, got {value}. Raise data.{name}.")
    return value
