"""Recording: the teacher over blocks once, into a logit store."""

import math
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities import rank_zero_info

from pd_lightning.data import TokenBlocks
from pd_lightning.recording.chunk_writer import ChunkWriter
from pd_lightning.recording.data import FolderData, RankBatches, RecordingBatch, RecordingData, Share
from pd_lightning.recording.loaders import LoaderData
from pd_lightning.recording.output import RecordingOutput
from pd_lightning.recording.plan import RecordingPlan, check_space
from pd_lightning.recording.store_format import per_token, store_format
from pd_lightning.recording.targets import TargetEncoder
from pd_lightning.redaction import redact, redact_text
from pd_lightning.sampling import Sampling
from pd_lightning.selection import Selection
from pd_lightning.store.manifest import Manifest, SplitInfo, software_versions
from pd_lightning.teachers import Surroundings, Teacher

_T = TypeVar("_T")
_CHUNK_BYTES = 64 * 2**20


class Recorder(pl.LightningModule):
    """Runs a teacher over blocks of tokens and stores what it says of each position.

    Started again after a crash it goes on with the chunks that are missing; what is written is never written twice.
    On several ranks each writes chunks of its own, under any strategy; the store is the same.

    Args:
        teacher: The teacher, a FrozenTeacher.
        output_dir: Folder of the store.
        selection: Which ids are kept at each position.
        sampling: Ids drawn at random instead, which estimate all of them without bias (RS-KD).
        values: How log-probabilities are stored: `half` in 16 bits, `exact` in 32 bits as all other figures then,
            `compact` in as few as `kl_budget` allows. Draws are counted, without loss. Default: half.
        kl_budget: Largest mean KL divergence over a block's positions by `compact` values, in nats. Default: 1e-4.
        blocks_per_chunk: Blocks of a chunk file; by default what makes about 64 MiB. A crash costs at most the chunks
            at hand.
        splits: Splits of the data to record.
        tokenizer: Folder or hub name of the tokenizer of the data; TokenBlocks know theirs.
        upload_to: Address in object storage that the store moves to chunk by chunk, `s3://bucket/store` say; then
            output_dir holds little more than the chunks at hand.
        batch_map: For data other than TokenBlocks whose batches are in a layout of their own: gives a dictionary of
            `input_ids`, and maybe `labels`, for a batch.
    """

    def __init__(
        self,
        teacher: Teacher,
        output_dir: str,
        selection: Selection | None = None,
        values: Literal["exact", "half", "compact"] | None = None,
        blocks_per_chunk: int | None = None,
        splits: tuple[str, ...] = ("train", "val"),
        tokenizer: str | None = None,
        upload_to: str | None = None,
        sampling: Sampling | None = None,
        kl_budget: float | None = None,
        batch_map: Callable[[Any], Any] | None = None,
    ) -> None:
        super().__init__()
        if blocks_per_chunk is not None and blocks_per_chunk < 1:
            raise ValueError(
                f"blocks_per_chunk must be at least 1, got {blocks_per_chunk}. Raise model.blocks_per_chunk."
            )
        self.teacher = teacher
        self.output = RecordingOutput(Path(output_dir), upload_to)
        self.form = store_format(selection, sampling, values, kl_budget)
        self.blocks_per_chunk = blocks_per_chunk
        self.split_names = splits
        self.tokenizer = tokenizer
        self.batch_map = batch_map
        self._data: RecordingData | None = None
        self._plan: RecordingPlan | None = None
        self._writer: ChunkWriter | None = None

    def attach(self, datamodule: pl.LightningDataModule | None) -> None:
        """Take the blocks to record.

        Raises:
            ValueError: If there are none, or not those of the splits to record.
        """
        if datamodule is None:
            raise ValueError("record must have data to run the teacher over, got none. Set data.")
        if not isinstance(datamodule, TokenBlocks):
            self._data = LoaderData(datamodule, self.split_names, self.tokenizer, self.batch_map)
            return
        self._data = FolderData(datamodule, self.split_names)
        for name in ("tokenizer", "batch_map"):
            if (given := getattr(self, name)) is not None:
                raise ValueError(
                    f"model.{name} must be left out with TokenBlocks, which know their own, got {given!r}. Remove "
                    f"model.{name}."
                )

    def prepare_data(self) -> None:
        """Let the data get themselves, on one process of each node."""
        self._blocks.prepare()

    def setup(self, stage: str) -> None:
        """Open the data."""
        self._blocks.setup(self.trainer)

    def configure_model(self) -> None:
        """Load the teacher.

        Raises:
            ValueError: If the teacher's vocabulary lacks ids of the data.
        """
        blocks = self._blocks
        self.teacher.setup(
            Surroundings(
                device=self.trainer.strategy.root_device,
                data_kind="blocks",
                data_vocab_size=blocks.vocab_size,
                tokenizer_vocab_size=blocks.vocab_size,
                tokenizer_dir=blocks.tokenizer_dir,
                block_size=blocks.block_size,
                document_attention=blocks.document_attention,
                device_mesh=getattr(self.trainer.strategy, "device_mesh", None),
            )
        )
        if self.teacher.vocab_size is not None:
            self._check_vocabulary(self.teacher.vocab_size)

    def predict_dataloader(self) -> RankBatches:
        """Give this rank's batches of the chunks that are missing, split by split."""
        self._check_ranks()
        self._plan = self._make_plan()
        done = self._on_rank_zero(lambda: self.output.done(self._blocks.num_blocks))
        m, rank, num_ranks = self._plan.blocks_per_chunk, self.global_rank, self.trainer.world_size
        self._writer = ChunkWriter(m, self.output.write)
        return RankBatches(self._blocks, {name: Share(m, chunks, rank, num_ranks) for name, chunks in done.items()})

    def predict_step(self, batch: RecordingBatch, batch_idx: int) -> None:
        """Record a batch."""
        assert self._writer is not None
        assert self._plan is not None
        selected = self._encoder.select(batch)
        if batch.start is not None:
            encode = partial(self._encoder.encode, selected, self._plan.vocab_size)
            self._writer.add(batch.split, batch.start, encode)

    def on_predict_epoch_end(self) -> None:
        """Wait for what is being written."""
        assert self._writer is not None
        self._writer.finish()

    def finish(self) -> None:
        """Make the store out of all chunks, on one rank, when all ranks are through."""
        address = redact_text(self.output.address)
        if self.output.complete:
            rank_zero_info(f"{address} is complete")
        else:
            totals = self.output.totals(self._blocks.num_blocks)
            statistics = per_token(totals)
            self.output.finish(self._manifest(statistics), self._blocks.tokenizer_dir)
            tokens, size = int(totals["tokens"]), statistics["bytes_per_token"]
            rank_zero_info(f"Recorded {tokens:,} tokens at {size:.1f} bytes each into {address}")
        self.output.settle()

    def _manifest(self, statistics: dict[str, float]) -> Manifest:
        assert self._plan is not None
        blocks = self._blocks
        return Manifest(
            kind="logits",
            block_size=blocks.block_size,
            vocab_size=self._plan.vocab_size,
            tokenizer=blocks.tokenizer,
            splits=self._splits(),
            document_attention=blocks.document_attention,
            teacher=self.teacher.describe(),
            selection=asdict(self.form.selection),
            codec=self.form.codec,
            columns=(*self.form.columns, *blocks.columns),
            statistics=statistics,
            software=software_versions(),
            extra={"settings": self._plan.settings, "blocks": blocks.origin},
        )

    @property
    def _blocks(self) -> RecordingData:
        assert self._data is not None, "attach comes first"
        return self._data

    @property
    def _encoder(self) -> TargetEncoder:
        return TargetEncoder(self.teacher, self.form)

    def _check_vocabulary(self, vocab_size: int) -> None:
        if vocab_size < self._blocks.vocab_size:
            raise ValueError(
                f"The teacher's vocabulary must hold every id of the data, got {vocab_size} for "
                f"{self._blocks.vocab_size} ids. Set model.teacher to a teacher trained with the data's tokenizer."
            )

    def _splits(self) -> dict[str, SplitInfo]:
        """The splits of the store, whose lengths are known now."""
        assert self._plan is not None
        splits = {}
        for name, count in self._blocks.num_blocks.items():
            assert count is not None, "the loop ends when all data were read"
            splits[name] = SplitInfo(count, count * self._blocks.block_size, self._plan.blocks_per_chunk)
        return splits

    def _on_rank_zero(self, function: Callable[[], _T]) -> _T:
        """What a function gives on the first rank, on all."""
        result: Any = function() if self.trainer.is_global_zero else None
        return self.trainer.strategy.broadcast(result)  # type: ignore[no-any-return]

    def _check_ranks(self) -> None:
        """Refuse data that give each rank blocks of its own: the same number would mean another block on each."""
        if self._blocks.identity() != self._on_rank_zero(self._blocks.identity):
            raise ValueError(
                f"Every rank must be given all blocks, of which it records its chunks, got others on rank "
                f"{self.global_rank} than on rank 0. Leave distributed samplers out of the data, or set "
                "trainer.devices to 1."
            )

    def _make_plan(self) -> RecordingPlan:
        plan = self._on_rank_zero(lambda: self.output.earlier_plan(self._settings()))
        if plan is None:
            # On all ranks, as a sharded teacher computes on all or none.
            found = self._pilot()
            plan = self._on_rank_zero(partial(self._new_plan, *found))
        else:
            self._on_rank_zero(partial(self._check_space, plan))
        return plan

    def _settings(self) -> dict[str, Any]:
        blocks = self._blocks
        settings = {
            "teacher": self.teacher.describe(),
            "blocks": blocks.identity(),
            "selection": asdict(self.form.selection),
            "codec": self.form.codec,
            "batch_sizes": blocks.batch_sizes,
            "blocks_per_chunk": self.blocks_per_chunk,
            "num_blocks": blocks.num_blocks,
        }
        redacted: dict[str, Any] = redact(settings)
        return redacted

    def _new_plan(self, bytes_per_block: float, vocab_size: int) -> RecordingPlan:
        blocks = self._blocks
        batch_size = math.lcm(*blocks.batch_sizes.values())
        wanted = self.blocks_per_chunk or max(1, int(_CHUNK_BYTES / bytes_per_block))
        plan = RecordingPlan(self._settings(), -(-wanted // batch_size) * batch_size, bytes_per_block, vocab_size)
        counts = [count for count in blocks.num_blocks.values() if count is not None]
        self._check_space(plan)
        size = f"{bytes_per_block / blocks.block_size:.1f} bytes a token"
        if len(counts) == len(blocks.num_blocks):
            tokens = sum(counts) * blocks.block_size
            size = f"about {sum(counts) * bytes_per_block / 1e6:,.1f} MB: {tokens:,} tokens at {size}"
        rank_zero_info(f"The store will have {size}")
        self.output.save_plan(plan)
        return plan

    def _check_space(self, plan: RecordingPlan) -> None:
        """Refuse a store whose missing chunks the disk has no room for, as far as their number is known."""
        if self.output.complete:
            return
        done, m = self.output.done(self._blocks.num_blocks), plan.blocks_per_chunk
        counts = self._blocks.num_blocks
        missing = sum(max(0, (count or 0) - m * len(done[name])) for name, count in counts.items())
        if None in counts.values():
            missing = max(m, missing)
        # Those of a remote store leave the disk one by one.
        check_space(self.output.folder, plan.bytes_per_block * (min(m, missing) if self.output.is_remote else missing))

    def _pilot(self) -> tuple[float, int]:
        """Record one batch to see how large a block will be, in bytes, and how many logits there are."""
        device = self.trainer.strategy.root_device
        tensors = {name: tensor.to(device) for name, tensor in self._blocks.first().items()}
        batch = RecordingBatch("", None, tensors)
        with torch.no_grad():
            vocab_size = self._encoder.width(batch)
            self._check_vocabulary(vocab_size)
            selected = self._encoder.select(batch)
        sizes = [encoded.figures["bytes"] for encoded in self._encoder.encode(selected, vocab_size)]
        return sum(sizes) / len(sizes), vocab_size
