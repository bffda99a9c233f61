"""Recording: the teacher over blocks once, into a logit store."""

import hashlib
import shutil
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor
from torch.utils.data import DataLoader

from pd_lightning.data import TokenBlocks
from pd_lightning.data.batch import BlockDataset, SplitsDataset, collate
from pd_lightning.recording_plan import RecordingPlan, check_space, earlier_plan
from pd_lightning.selection import COLUMNS, Selection
from pd_lightning.store.chunks import (
    blocks_in_chunk,
    chunk_statistics,
    discard_unfinished,
    done_chunks,
    finish,
    num_chunks,
    write_chunk,
)
from pd_lightning.store.codec import Values, codec_info, encode_targets
from pd_lightning.store.manifest import MANIFEST_FILE, Manifest, SplitInfo, software_versions
from pd_lightning.store.reader import BlockReader
from pd_lightning.targets import HiddenTargets, SparseTargets
from pd_lightning.teachers import Surroundings, Teacher

Item = dict[str, np.ndarray]
_CHUNK_BYTES = 64 * 2**20


class Recorder(pl.LightningModule):
    """Runs a teacher over the blocks of a data folder and stores what it says of each position.

    Started again after a crash it goes on with the chunks that are missing; what is written is never written twice.

    Args:
        teacher: The teacher, a FrozenTeacher.
        output_dir: Folder of the store.
        selection: Which ids are kept at each position.
        values: How log-probabilities and figures are stored: `half` in 16 bits, `exact` in 32.
        blocks_per_chunk: Blocks of a chunk file; by default what makes about 64 MiB. A crash costs at most the chunks
            at hand.
        splits: Splits of the data to record.
    """

    def __init__(
        self,
        teacher: Teacher,
        output_dir: str,
        selection: Selection | None = None,
        values: Literal["exact", "half"] = "half",
        blocks_per_chunk: int | None = None,
        splits: tuple[str, ...] = ("train", "val"),
    ) -> None:
        super().__init__()
        # A rank may have no chunk to write.
        self.allow_zero_length_dataloader_with_multiple_devices = True
        if blocks_per_chunk is not None and blocks_per_chunk < 1:
            raise ValueError(
                f"blocks_per_chunk must be at least 1, got {blocks_per_chunk}. Raise model.blocks_per_chunk."
            )
        self.teacher = teacher
        self.output_dir = Path(output_dir)
        self.selection = selection or Selection()
        self.values: Values = values
        self.blocks_per_chunk = blocks_per_chunk
        self.split_names = splits
        self._data: TokenBlocks | None = None
        self._plan: RecordingPlan | None = None
        self._todo: Iterator[tuple[str, int]] = iter(())
        self._chunk: tuple[str, int] | None = None
        self._items: list[Item] = []
        self._figures: list[dict[str, float]] = []

    def attach(self, datamodule: pl.LightningDataModule | None) -> None:
        """Take the blocks to record.

        Raises:
            ValueError: If they are no folder of token blocks, or lack the splits to record.
        """
        if not isinstance(datamodule, TokenBlocks) or datamodule.kind != "blocks":
            found = "a logit store" if isinstance(datamodule, TokenBlocks) else type(datamodule).__name__
            raise ValueError(
                f"record must have token blocks to run the teacher over, got {found}. Set data to "
                "pd_lightning.data.TokenBlocks with the path of a folder that `pd-lightning tokenize` wrote."
            )
        available = datamodule.manifest.splits
        missing = [name for name in self.split_names if name not in available]
        # Data without a validation split are recorded as they are.
        if set(missing) - {"val"} or len(missing) == len(self.split_names):
            raise ValueError(
                f"model.splits must name splits of {datamodule.path}, got {', '.join(missing) or 'none'}. Set "
                f"model.splits to some of {', '.join(available)}."
            )
        self._data = datamodule

    def configure_model(self) -> None:
        """Load the teacher.

        Raises:
            ValueError: If the teacher's vocabulary lacks ids of the data.
        """
        blocks = self._blocks.manifest
        self.teacher.setup(
            Surroundings(
                device=self.trainer.strategy.root_device,
                data_kind=blocks.kind,
                data_vocab_size=blocks.vocab_size,
                tokenizer_vocab_size=blocks.tokenizer_vocab_size,
                tokenizer_dir=self._blocks.tokenizer_dir,
                block_size=blocks.block_size,
                document_attention=blocks.document_attention,
            )
        )
        if self._vocab_size < blocks.vocab_size:
            raise ValueError(
                f"The teacher's vocabulary must hold every id of the data, got {self._vocab_size} for "
                f"{blocks.vocab_size} ids. Set model.teacher to a teacher trained with the data's tokenizer."
            )

    def predict_dataloader(self) -> DataLoader:
        """Give this rank's batches of the chunks that are missing, split by split."""
        self._plan = self.trainer.strategy.broadcast(self._make_plan() if self.trainer.is_global_zero else None)
        missing = [(name, chunk) for name in self._splits for chunk in self._missing(name)]
        todo = missing[self.global_rank :: self.trainer.world_size]
        self._todo = iter(todo)
        self._chunk = next(self._todo, None)
        size = self._blocks.batch_size
        batches = [
            (name, blocks[start : start + size])
            for name, blocks in ((name, self._chunk_blocks(name, chunk)) for name, chunk in todo)
            for start in range(0, len(blocks), size)
        ]
        workers = self._blocks.num_workers
        dataset = SplitsDataset({name: BlockDataset(BlockReader(self._blocks.path, name)) for name in self._splits})
        return DataLoader(dataset, batch_size=None, sampler=batches, collate_fn=collate, num_workers=workers)

    def predict_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Record a batch; write the chunk that it completes."""
        assert self._chunk is not None
        for item, figures in self._record(batch):
            self._items.append(item)
            self._figures.append(figures)
        name, index = self._chunk
        if len(self._items) == len(self._chunk_blocks(name, index)):
            write_chunk(self.output_dir / name, index, self._items, _add(self._figures))
            self._items, self._figures = [], []
            self._chunk = next(self._todo, None)

    def finish(self) -> None:
        """Make the store out of all chunks, on one rank, when all ranks are through."""
        if (self.output_dir / MANIFEST_FILE).exists():
            rank_zero_info(f"{self.output_dir} is complete")
            return
        assert self._plan is not None
        per_split = {name: chunk_statistics(self.output_dir / name) for name in self._splits}
        totals = _add([chunk for chunks in per_split.values() for chunk in chunks])
        tokens = totals.pop("tokens")
        discard_unfinished(self.output_dir)
        shutil.copytree(self._blocks.tokenizer_dir, self.output_dir / "tokenizer", dirs_exist_ok=True)
        manifest = Manifest(
            kind="logits",
            block_size=self._blocks.manifest.block_size,
            vocab_size=self._vocab_size,
            tokenizer=self._blocks.manifest.tokenizer,
            splits=self._splits,
            document_attention=self._blocks.manifest.document_attention,
            teacher=self.teacher.describe(),
            selection=asdict(self.selection),
            codec=codec_info(self.values),
            columns=("log_tail", *COLUMNS),
            statistics={f"{key}_per_token": value / tokens for key, value in totals.items()},
            software=software_versions(),
            extra={"settings": self._plan.settings, "blocks": self._blocks.manifest.extra},
        )
        finish(self.output_dir, manifest)
        size = manifest.statistics["bytes_per_token"]
        rank_zero_info(f"Recorded {int(tokens):,} tokens at {size:.1f} bytes each into {self.output_dir}")

    @property
    def _blocks(self) -> TokenBlocks:
        assert self._data is not None, "attach comes first"
        return self._data

    @property
    def _vocab_size(self) -> int:
        return self.teacher.vocab_size or self._blocks.manifest.vocab_size

    @property
    def _splits(self) -> dict[str, SplitInfo]:
        """The splits of the store: those of the blocks, in chunks of the plan's size."""
        assert self._plan is not None
        return {
            name: SplitInfo(count, count * self._blocks.manifest.block_size, self._plan.blocks_per_chunk)
            for name, count in self._num_blocks().items()
        }

    def _num_blocks(self) -> dict[str, int]:
        """Blocks to record of each split: all that there are, or as many as the data's settings allow."""
        available = self._blocks.manifest.splits
        counts = {name: available[name].num_blocks for name in self.split_names if name in available}
        limits = self._blocks.max_blocks
        return {name: min(count, limits[name] or count) for name, count in counts.items() if count}

    def _make_plan(self) -> RecordingPlan:
        settings = {
            "teacher": self.teacher.describe(),
            "blocks": hashlib.sha256((self._blocks.path / MANIFEST_FILE).read_bytes()).hexdigest(),
            "selection": asdict(self.selection),
            "values": self.values,
            "batch_size": self._blocks.batch_size,
            "blocks_per_chunk": self.blocks_per_chunk,
            "num_blocks": self._num_blocks(),
        }
        plan = earlier_plan(self.output_dir, settings)
        if plan is None:
            plan = self._pilot(settings)
            plan.save(self.output_dir)
        return plan

    def _pilot(self, settings: dict[str, Any]) -> RecordingPlan:
        """Record one batch to see how large the store will be."""
        blocks, batch_size = self._blocks.manifest, self._blocks.batch_size
        reader = BlockReader(self._blocks.path, next(iter(self._num_blocks())))
        batch = collate(BlockDataset(reader)[range(min(batch_size, len(reader)))])
        batch = {name: tensor.to(self.trainer.strategy.root_device) for name, tensor in batch.items()}
        with torch.inference_mode():
            sizes = [figures["bytes"] for _, figures in self._record(batch)]
        bytes_per_block = sum(sizes) / len(sizes)
        wanted = self.blocks_per_chunk or max(1, int(_CHUNK_BYTES / bytes_per_block))
        num_blocks = sum(self._num_blocks().values())
        check_space(self.output_dir, num_blocks * bytes_per_block)
        rank_zero_info(
            f"The store will have about {num_blocks * bytes_per_block / 1e6:,.1f} MB: "
            f"{num_blocks * blocks.block_size:,} tokens at {bytes_per_block / blocks.block_size:.1f} bytes"
        )
        return RecordingPlan(settings, -(-wanted // batch_size) * batch_size, bytes_per_block)

    def _missing(self, name: str) -> list[int]:
        if (self.output_dir / MANIFEST_FILE).exists():
            return []
        split, done = self._splits[name], done_chunks(self.output_dir / name)
        return [chunk for chunk in range(num_chunks(split.num_blocks, split.blocks_per_chunk)) if chunk not in done]

    def _chunk_blocks(self, name: str, index: int) -> range:
        split = self._splits[name]
        start = index * split.blocks_per_chunk
        return range(start, start + blocks_in_chunk(index, split))

    def _record(self, batch: dict[str, Tensor]) -> Iterator[tuple[Item, dict[str, float]]]:
        """Encode each block of a batch, with its figures for the manifest."""
        targets = self.teacher(batch)
        if not isinstance(targets, HiddenTargets):
            raise ValueError(
                f"record must have a teacher that computes its logits, got {type(self.teacher).__name__}. Set "
                "model.teacher to pd_lightning.teachers.FrozenTeacher."
            )
        labels = batch["labels"]
        selected, counts = self.selection.select(targets.hidden, targets.head, labels.flatten())
        block = torch.cat([batch["input_ids"][:, :1], labels], dim=1).cpu().numpy()
        T = labels.shape[1]
        for row in range(len(labels)):
            rows = slice(row * T, (row + 1) * T)
            yield self._encode(block[row], selected.rows(rows), counts[rows])

    def _encode(self, block: np.ndarray, targets: SparseTargets, counts: Tensor) -> tuple[Item, dict[str, float]]:
        kept = targets.logprobs > -torch.inf
        ids, logprobs = targets.ids[kept].cpu().numpy(), targets.logprobs[kept].cpu().numpy()
        assert targets.log_tail is not None
        columns = {"log_tail": targets.log_tail, **targets.statistics}
        item = encode_targets(
            block,
            counts.cpu().numpy(),
            ids,
            logprobs,
            {name: values.cpu().numpy() for name, values in columns.items()},
            values=self.values,
            vocab_size=self._vocab_size,
        )
        figures = {
            "tokens": float(len(counts)),
            "bytes": float(sum(array.nbytes for array in item.values())),
            "kept_ids": float(counts.sum()),
            "kept_mass": float(np.exp(logprobs, dtype=np.float64).sum()),
            "entropy": float(targets.statistics["entropy"].sum()),
        }
        return item, figures


def _add(figures: list[dict[str, float]]) -> dict[str, float]:
    return {key: sum(part[key] for part in figures) for key in figures[0]}
