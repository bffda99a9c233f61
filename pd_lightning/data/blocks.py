"""`TokenBlocks`: blocks of a data folder as training and validation batches, resumable to the block."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.trainer.states import TrainerFn

from pd_lightning.data import resume
from pd_lightning.data.batch import BlockDataset, MixedDataset, collate
from pd_lightning.data.layout import BatchMap, OwnLayout
from pd_lightning.data.limit import Limit
from pd_lightning.data.loader import BlockLoader, leave_signals_to_the_trainer
from pd_lightning.data.mix import MixedIn, check_mixture, chosen_blocks, in_common
from pd_lightning.data.order import BlockSampler, Order, Position, advance
from pd_lightning.data.remote import Folders
from pd_lightning.data.suitability import check_split, check_trainer, check_validation
from pd_lightning.store.manifest import Manifest, read_manifest
from pd_lightning.store.reader import BlockReader

_Number = TypeVar("_Number", int, int | None, float)
_GPU_WORKERS = 2


class TokenBlocks(LightningDataModule):
    """Batches from a folder of token blocks or a logit store.

    The order of blocks is a pure function of the seed, the epoch and the number of blocks: a store gives the same
    batches as the token blocks it was recorded from. A checkpoint holds the position, so that a resumed run sees
    exactly the blocks that are due, even with other ranks, workers or batch sizes.

    Further folders can be mixed in: stores of other teachers, or token blocks that are trained on the LM loss alone. An
    epoch is one pass over `path`; each other folder is read on from where the epoch before stopped.

    Args:
        path: A folder written by `pd-lightning tokenize` or `pd-lightning record`, or its address in object storage:
            `s3://bucket/store`, or anything else that fsspec knows.
        batch_size: Blocks a device sees at a time.
        val_batch_size: The same in validation. Default: `batch_size`.
        val_path: Another folder to take the validation split from.
        num_workers: Processes that read and decode, on each rank. 0 reads in the training process. Default: 2 where
            training is on a GPU, which then does not wait for them, else 0.
        seed: Of the order.
        shuffle: Whether each epoch has another order; otherwise it is that of the folder or, in a store recorded while
            the teacher trained, that of the teacher's steps.
        shuffle_window: 0 shuffles over the whole split; a number keeps reading local, shuffling runs of an eighth
            of it and then within windows of it, for storage where jumping about is slow.
        max_train_blocks: Use only the first so many training blocks.
        max_val_blocks: Use only the first so many validation blocks.
        pin_memory: Page-locked batches for faster copies to a GPU. Default: where training is on a GPU.
        prefetch_factor: Batches that each worker keeps ready.
        mix: Further folders whose training blocks are mixed in, by a name of yours.
        min_teacher_step: Of a store recorded while the teacher trained, use only the blocks from this step of the
            teacher on.
        cache_dir: Where chunks of folders in object storage are kept.
        cache_gb: What they may take there for each folder, in GB: those used least recently go first. Those of the
            last minute stay, and each process has up to 4 open, which take disk until it opens others.
        train_fraction: Use only this share of the training blocks, the first ones.
        batch_map: Gives a batch in your project's layout for one of ours, see `collate`, as
            `pd_lightning.data.layout.as_next_tokens` does, for a LightningModule of your own.

    Raises:
        ValueError: A number is out of range.
    """

    def __init__(
        self,
        path: str,
        batch_size: int = 8,
        val_batch_size: int | None = None,
        val_path: str | None = None,
        num_workers: int | None = None,
        seed: int = 0,
        shuffle: bool = True,
        shuffle_window: int = 0,
        max_train_blocks: int | None = None,
        max_val_blocks: int | None = None,
        pin_memory: bool | None = None,
        prefetch_factor: int = 4,
        mix: dict[str, MixedIn] | None = None,
        min_teacher_step: int = 0,
        cache_dir: str = "~/.cache/pd-lightning",
        cache_gb: float = 100.0,
        train_fraction: float = 1.0,
        batch_map: BatchMap | None = None,
    ) -> None:
        super().__init__()
        self.layout = None if batch_map is None else OwnLayout(batch_map, self)
        self._addresses = (path, path if val_path is None else val_path)
        self._files = Folders(Path(cache_dir), _at_least(0, "cache_gb", cache_gb))
        self.batch_size = _at_least(1, "batch_size", batch_size)
        self.val_batch_size = _at_least(1, "val_batch_size", batch_size if val_batch_size is None else val_batch_size)
        self.num_workers = _at_least(0, "num_workers", num_workers)
        self.seed = _at_least(0, "seed", seed)
        self.shuffle = shuffle
        self.shuffle_window = _at_least(0, "shuffle_window", shuffle_window)
        self.limits = {
            "train": Limit(_at_least(1, "max_train_blocks", max_train_blocks), _share(train_fraction)),
            "val": Limit(_at_least(1, "max_val_blocks", max_val_blocks)),
        }
        self.pin_memory = pin_memory
        self.prefetch_factor = _at_least(1, "prefetch_factor", prefetch_factor)
        self.mix = mix or {}
        self.min_teacher_step = _at_least(0, "min_teacher_step", min_teacher_step)
        self._parts: dict[str, list[BlockDataset]] = {}
        self._start = Position()

    @cached_property
    def path(self) -> Path:
        """The folder of the data; of one in object storage, its local copy."""
        return self._files.local(self._addresses[0])

    @cached_property
    def val_path(self) -> Path:
        """The folder that the validation split is taken from."""
        same = self._addresses[0] == self._addresses[1]
        return self.path if same else self._files.local(self._addresses[1])

    @cached_property
    def manifest(self) -> Manifest:
        """The manifest of `path`; with `mix`, what all its folders have in common."""
        return in_common([read_manifest(folder) for folder in self._folders])

    @property
    def kind(self) -> str:
        """`logits` where training, or else the split in use, has teacher's targets; `blocks` where it has none."""
        parts = self._parts.get("train") or self._parts.get("val")
        kinds = {part.reader.manifest.kind for part in parts} if parts else {self.manifest.kind}
        return "logits" if "logits" in kinds else "blocks"

    @property
    def block_size(self) -> int:
        """Positions of the longest blocks in use; those of `val_path` may be longer."""
        manifests = [part.reader.manifest for parts in self._parts.values() for part in parts]
        return max((manifest.block_size for manifest in manifests), default=self.manifest.block_size)

    @property
    def vocab_size(self) -> int:
        """V; all token ids are below."""
        return self.manifest.vocab_size

    @property
    def tokenizer_dir(self) -> Path:
        """Folder that `AutoTokenizer` loads."""
        return self.path / "tokenizer"

    def reader(self, split: str) -> BlockReader:
        """The blocks of a split of `path`, as they come."""
        return self._files.reader(self.path, split)

    def setup(self, stage: str) -> None:
        """Opens the splits that the stage reads, and checks them."""
        if stage == "fit":
            self._open_train()
            if self.trainer is not None and resume.consumed(self.trainer) == 0:
                self._start = Position()  # a new run, unless a checkpoint is about to say otherwise
        if self.trainer is None or stage != "fit" or self.trainer.limit_val_batches:
            self._open_val()

    def train_dataloader(self) -> BlockLoader:
        """This rank's training batches from wherever training stands."""
        check_trainer(self.trainer, self._ranks[1])
        return self._loader("train", self._train_order, self.batch_size, self._position)

    def val_dataloader(self) -> BlockLoader:
        """This rank's share of the validation split, in the order of the folder, each block once."""
        check_trainer(self.trainer, self._ranks[1])
        return self._loader("val", Order(len(self._parts["val"][0])), self.val_batch_size, Position)

    def test_dataloader(self) -> BlockLoader:
        """The same as in validation."""
        return self.val_dataloader()

    def predict_dataloader(self) -> BlockLoader:
        """The same as in validation."""
        return self.val_dataloader()

    def state_dict(self) -> dict[str, Any]:
        """The position for a checkpoint."""
        if self.trainer is None or "train" not in self._parts:
            return {}
        return resume.save(self.trainer, self._start, self._train_order, self._global_batch, self._unchanging)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on from a checkpoint's position.

        Raises:
            ValueError: The blocks now come in another order, are others, or are attended to otherwise.
        """
        if self.trainer is None or self.trainer.state.fn != TrainerFn.FITTING:
            return
        self._start = resume.load(state_dict, self._train_order, self._unchanging)
        # The one moment before Lightning reads its counters; it offers data modules no hook for it.
        loops = self.trainer._checkpoint_connector._loaded_checkpoint["loops"]["fit_loop"]
        resume.align(loops, state_dict, self._global_batch, self.trainer.limit_train_batches == 1.0)

    @property
    def _train_order(self) -> Order:
        first, *others = self._parts["train"]
        mix = tuple(
            (len(part), mixed.per_epoch(len(part), len(first)))
            for part, mixed in zip(others, self.mix.values(), strict=True)
        )
        return Order(len(first), self.seed, self.shuffle, self.shuffle_window, mix)

    @property
    def _unchanging(self) -> dict[str, Any]:
        return {
            "tokenizer": self.manifest.tokenizer.digest,
            "block_size": self.manifest.block_size,
            "document_attention": self.manifest.document_attention,
            "min_teacher_step": self.min_teacher_step,
        }

    @cached_property
    def _folders(self) -> list[Path]:
        return [self.path, *(self._files.local(mixed.path) for mixed in self.mix.values())]

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
        return advance(self._start, batches, self._train_order.length, self._global_batch)

    def _open_train(self) -> None:
        if "train" in self._parts:
            return
        manifests = {folder: read_manifest(folder) for folder in self._folders}
        for folder, manifest in manifests.items():
            check_split(manifest, folder, "train")
        check_mixture(manifests)
        split = manifests[self.path].splits["train"]
        blocks = chosen_blocks(split, self.limits["train"], self.min_teacher_step, self.shuffle)
        parts = [BlockDataset(self.reader("train"), blocks)]
        for folder, mixed in zip(self._folders[1:], self.mix.values(), strict=True):
            reader = self._files.reader(folder, "train")
            parts.append(BlockDataset(reader, mixed.blocks(len(reader))))
        self._parts["train"] = parts

    def _open_val(self) -> None:
        if "val" in self._parts:
            return
        manifest = read_manifest(self.val_path)
        check_split(manifest, self.val_path, "val")
        if self.val_path != self.path:
            check_validation(manifest, self.val_path, self.manifest, self.path)
        reader = self._files.reader(self.val_path, "val")
        self._parts["val"] = [BlockDataset(reader, range(self.limits["val"].of(len(reader))))]

    def _loader(self, split: str, order: Order, batch_size: int, position: Callable[[], Position]) -> BlockLoader:
        on_gpu = self.trainer is not None and self.trainer.strategy.root_device.type == "cuda"
        parts = self._parts[split]
        workers = (_GPU_WORKERS if on_gpu else 0) if self.num_workers is None else self.num_workers
        return BlockLoader(
            parts[0] if len(parts) == 1 else MixedDataset(parts, self.manifest),
            sampler=BlockSampler(order, batch_size, *self._ranks, position),
            batch_size=None,  # the sampler gives whole batches
            collate_fn=collate,
            num_workers=workers,
            worker_init_fn=leave_signals_to_the_trainer,
            pin_memory=on_gpu if self.pin_memory is None else self.pin_memory,
            # Or each iteration would draw a seed from the global random state, and a resumed run, which iterates
            # once more or less, would see other dropout masks.
            generator=torch.Generator(),
            persistent_workers=workers > 0,
            prefetch_factor=self.prefetch_factor if workers > 0 else None,
        )


def _at_least(least: int, name: str, value: _Number) -> _Number:
    if value is not None and value < least:
        raise ValueError(f"data.{name} must be at least {least}, got {value}. Raise data.{name}.")
    return value


def _share(value: float) -> float:
    if not 0 < value <= 1:
        raise ValueError(f"data.train_fraction must be above 0 and at most 1, got {value}. Set it to 0.1, say.")
    return value
