"""A store that grows while its teacher trains: rewound with the training, put together at its end."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import groupby, islice
from pathlib import Path
from typing import Any

from pd_lightning.recording_targets import Encoded
from pd_lightning.store.chunks import chunk_statistics, discard_unfinished, done_chunks, finish, write_chunk
from pd_lightning.store.durable import write_durably
from pd_lightning.store.manifest import MANIFEST_FILE, Manifest, SplitInfo
from pd_lightning.store.unfinished import read_chunk, remove_chunk, renumber_chunk
from pd_lightning.store_format import combine, per_token

SPLIT = "train"
_SETTINGS = "recording.json"
_PENDING = "pending"
_RESUME = "Go on with the training that wrote it (--ckpt_path auto), or set output_dir to a new folder."


@dataclass
class TrainingStore:
    """The blocks of one rank, and at the end those of all ranks.

    Rank r of W writes the chunks r, r + W, r + 2W, …; what is not in a chunk yet is kept with each checkpoint, so that
    memory holds one chunk, and a resumed training finds the blocks that its checkpoint had seen and no others.

    Args:
        folder: Folder of the store.
        blocks_per_chunk: Blocks of a chunk.
        rank: This process.
        num_ranks: Of so many.
    """

    folder: Path
    blocks_per_chunk: int
    rank: int = 0
    num_ranks: int = 1
    num_blocks: int = field(default=0, init=False)
    _blocks: list[Encoded] = field(default_factory=list, init=False)

    def claim(self, settings: dict[str, Any], resumes: bool) -> None:
        """Take the folder, on one rank, before any begins.

        Args:
            settings: What must stay as it is, in JSON values.
            resumes: Whether the training goes on from a checkpoint.

        Raises:
            ValueError: The folder holds something else, a finished store, or another recording.
        """
        settings = {**settings, "blocks_per_chunk": self.blocks_per_chunk, "num_ranks": self.num_ranks}
        self._check_folder(settings, resumes)
        self._split.mkdir(parents=True, exist_ok=True)
        write_durably(self.folder / _SETTINGS, json.dumps(settings, indent=1).encode())

    def rewind(self, num_blocks: int) -> None:
        """Go back to where a checkpoint was written; later blocks are removed.

        Args:
            num_blocks: Blocks of this rank when the checkpoint was written; 0 for a new training.

        Raises:
            ValueError: Blocks that the checkpoint had seen are not there.
        """
        chunk, rest = divmod(num_blocks, self.blocks_per_chunk)
        self._blocks = self._read_back(chunk, rest) if rest else []
        self.num_blocks = num_blocks
        self.keep()
        for index in done_chunks(self._split):
            if index % self.num_ranks == self.rank and index // self.num_ranks >= chunk:
                remove_chunk(self._split, index)

    def add(self, block: Encoded) -> None:
        """Take a block with its `teacher_step`; write the chunk that it completes."""
        self._blocks.append(block)
        self.num_blocks += 1
        if len(self._blocks) == self.blocks_per_chunk:
            self._write(self._split, self._index(self.num_blocks // self.blocks_per_chunk - 1), self._blocks)
            self._blocks = []
            self.keep()

    def keep(self) -> None:
        """Write down the blocks that are in no chunk yet, for a checkpoint that is about to be written."""
        kept = self._pending / str(self.num_blocks)
        if self._blocks and not kept.is_dir():
            self._write(kept, 0, self._blocks)
        for folder in self._pending.glob("*"):
            if folder != kept or not self._blocks:
                shutil.rmtree(folder)

    def finish(self, manifest: Manifest) -> Manifest:
        """Put the chunks of all ranks together, on one rank, after all have kept what they have.

        Args:
            manifest: That of the store, but for its splits and statistics.

        Returns:
            The whole manifest.
        """
        self._close_gaps()
        rest = iter(block for rank in range(self.num_ranks) for block in self._kept(rank))
        while blocks := list(islice(rest, self.blocks_per_chunk)):
            self._write(self._split, len(done_chunks(self._split)), blocks)
        chunks = chunk_statistics(self._split)
        steps = [tuple(run) for chunk in chunks for run in chunk["teacher_steps"]]
        num_blocks = sum(count for _, count in steps)
        extra = {"teacher_steps": [[step, count] for step, count in _joined(steps)]}
        manifest.splits = {SPLIT: SplitInfo(num_blocks, num_blocks * manifest.block_size, self.blocks_per_chunk, extra)}
        manifest.teacher_steps = True
        if chunks:
            manifest.statistics = per_token(combine([chunk["figures"] for chunk in chunks]))
        shutil.rmtree(self.folder / _PENDING, ignore_errors=True)
        discard_unfinished(self.folder)
        finish(self.folder, manifest)
        return manifest

    @property
    def _split(self) -> Path:
        return self.folder / SPLIT

    @property
    def _pending(self) -> Path:
        return self.folder / _PENDING / str(self.rank)

    def _index(self, chunk: int) -> int:
        return chunk * self.num_ranks + self.rank

    def _check_folder(self, settings: dict[str, Any], resumes: bool) -> None:
        path = self.folder / _SETTINGS
        if (self.folder / MANIFEST_FILE).exists():
            raise ValueError(
                f"output_dir of LogitsRecorder must not be a finished folder, got {self.folder}. Set it to a new one."
            )
        if not path.is_file():
            if resumes or (self.folder.exists() and any(self.folder.iterdir())):
                found = "no recording" if resumes else "other files"
                raise ValueError(
                    f"output_dir of LogitsRecorder must be a new folder, or that of the training which goes on, got "
                    f"{self.folder} with {found}. Set it to another folder."
                )
            return
        before = json.loads(path.read_text(encoding="utf-8"))
        if changed := [name for name in settings if before.get(name) != settings[name]]:
            changes = "; ".join(f"{name} was {before.get(name)}, is {settings[name]}" for name in changed)
            raise ValueError(
                f"LogitsRecorder must go on with the settings that it began with, got {self.folder}, where {changes}. "
                "Put them back, or set output_dir to a new folder."
            )
        if not resumes and done_chunks(self._split):
            raise ValueError(
                f"output_dir of LogitsRecorder must be a new folder for a new training, got {self.folder}, which holds "
                f"an unfinished recording. {_RESUME}"
            )

    def _read_back(self, chunk: int, count: int) -> list[Encoded]:
        """The first blocks of a chunk, whether it was completed since or not."""
        if self._index(chunk) in done_chunks(self._split):
            return _blocks_of(self._split, self._index(chunk))[:count]
        blocks = self._kept(self.rank)
        if len(blocks) < count:
            raise ValueError(
                f"{self.folder} must hold the {count} blocks that were in no chunk when the checkpoint was written, "
                f"got {len(blocks)}. {_RESUME}"
            )
        return blocks[:count]

    def _kept(self, rank: int) -> list[Encoded]:
        folders = list((self.folder / _PENDING / str(rank)).glob("*"))
        return _blocks_of(max(folders, key=lambda folder: int(folder.name)), 0) if folders else []

    def _close_gaps(self) -> None:
        """Number the chunks without gaps: ranks may have recorded some blocks more or less."""
        done = sorted(done_chunks(self._split))
        for gap in sorted(set(range(len(done))) - set(done)):
            renumber_chunk(self._split, done.pop(), gap)

    def _write(self, folder: Path, index: int, blocks: list[Encoded]) -> None:
        figures = [block.figures for block in blocks]
        statistics = {
            "figures": combine(figures),
            "of_each": figures,
            "teacher_steps": list(_joined([(int(block.item["teacher_step"][0]), 1) for block in blocks])),
        }
        write_chunk(folder, index, [block.item for block in blocks], statistics)


def _blocks_of(folder: Path, index: int) -> list[Encoded]:
    items, statistics = read_chunk(folder, index)
    pairs = zip(items, statistics["of_each"], strict=True)
    return [Encoded(item, figures) for item, figures in pairs]


def _joined(runs: list[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Runs of equal steps, with the number of blocks of each."""
    for step, group in groupby(runs, key=lambda run: run[0]):
        yield step, sum(count for _, count in group)
