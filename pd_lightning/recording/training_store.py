"""A store that grows while its teacher trains: rewound with the training, put together at its end."""

import json
import shutil
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial, reduce
from itertools import groupby, islice
from pathlib import Path
from typing import Any

from pd_lightning.recording.store_format import combine, per_token
from pd_lightning.recording.targets import Encoded
from pd_lightning.store.chunks import chunk_statistics, discard_unfinished, done_chunks, finish, write_chunk
from pd_lightning.store.durable import TEMPORARY, write_durably
from pd_lightning.store.manifest import MANIFEST_FILE, Manifest, SplitInfo, read_manifest
from pd_lightning.store.unfinished import read_chunk, read_statistics, remove_chunk, renumber_chunk

SPLIT = "train"
_RECORDING = "recording.json"
# Temporary, so that neither is taken for a part of the store: both must outlast a finish that is cut off.
_PENDING = f"{TEMPORARY}pending"
_FINISHING = f"{TEMPORARY}finishing"


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

    @property
    def finished(self) -> bool:
        """Whether the store is whole."""
        return (self.folder / MANIFEST_FILE).exists()

    @property
    def recording(self) -> str | None:
        """Name of the recording that the folder holds, as checkpoints know it."""
        return (self._read_recording() or {}).get("name")

    def claim(self, settings: dict[str, Any], recording: str | None) -> None:
        """Take the folder, on one rank, before any begins.

        A recording that no checkpoint knows of can't go on, and makes room for a new one.

        Args:
            settings: What must stay as it is, in JSON values.
            recording: Name of the one that the training's checkpoint knows of, if any.

        Raises:
            ValueError: The folder holds something else, a finished store, or another recording.
        """
        settings = {**settings, "blocks_per_chunk": self.blocks_per_chunk, "num_ranks": self.num_ranks}
        before = self._read_recording()
        self._check_folder(before, recording)
        if before is not None and before["name"] == recording:
            self._check_settings(before, settings)
            self._undo_finish()
        else:
            for name in (SPLIT, "tokenizer"):
                shutil.rmtree(self.folder / name, ignore_errors=True)
            discard_unfinished(self.folder)
            self.folder.mkdir(parents=True, exist_ok=True)
            self._write_recording({**settings, "name": uuid.uuid4().hex, "saved": False})
        self._split.mkdir(exist_ok=True)

    def rewind(self, num_blocks: int) -> None:
        """Go back to where a checkpoint was written; later blocks are removed.

        Args:
            num_blocks: Blocks of this rank when the checkpoint was written; 0 for a new recording.

        Raises:
            ValueError: Blocks that the checkpoint had seen are not there.
        """
        chunk, rest = divmod(num_blocks, self.blocks_per_chunk)
        done = {index // self.num_ranks for index in done_chunks(self._split) if index % self.num_ranks == self.rank}
        if not done.issuperset(range(chunk)):
            raise ValueError(self._lost(num_blocks))
        self._blocks = self._read_back(num_blocks, chunk in done) if rest else []
        self.num_blocks = num_blocks
        self.keep()
        for later in sorted(index for index in done if index >= chunk):
            remove_chunk(self._split, self._index(later))

    def add(self, block: Encoded) -> None:
        """Take a block with its `teacher_step`; write the chunk that it completes."""
        self._blocks.append(block)
        self.num_blocks += 1
        if len(self._blocks) == self.blocks_per_chunk:
            index = self._index(self.num_blocks // self.blocks_per_chunk - 1)
            self._write(self._split, index, self._blocks, origin=index)
            self._blocks = []
            self.keep()

    def keep(self) -> None:
        """Write down the blocks that are in no chunk yet, for a checkpoint that is about to be written."""
        kept = self._pending / str(self.num_blocks)
        if self._blocks:
            self._write(kept, 0, self._blocks)
        for folder in self._pending.glob("*"):
            if folder != kept or not self._blocks:
                remove_chunk(folder, 0)  # first, so that no half of it is taken for the whole
                shutil.rmtree(folder)

    def note_checkpoint(self) -> None:
        """Write down, on one rank, that a checkpoint will know of this recording."""
        about = self._read_recording()
        if about is not None and not about["saved"]:
            self._write_recording({**about, "saved": True})

    def finish(self, manifest: Manifest) -> Manifest | None:
        """Put the chunks of all ranks together, on one rank, after all have kept what they have.

        Killed at any point, the recording is as it was once the folder is claimed again.

        Args:
            manifest: That of the store, but for its splits and statistics.

        Returns:
            The whole manifest, or None where nothing was recorded.
        """
        kept = [folder for rank in range(self.num_ranks) for folder in self._kept(rank)]
        if not kept and not done_chunks(self._split):
            return None
        write_durably(self.folder / _FINISHING, b"")
        self._close_gaps()
        rest = (block for folder in kept for block in _blocks_of(folder, 0))
        while blocks := list(islice(rest, self.blocks_per_chunk)):
            self._write(self._split, len(done_chunks(self._split)), blocks)
        chunks = partial(chunk_statistics, self._split)
        runs = list(_runs(_joined(pair for chunk in chunks() for pair in chunk["teacher_steps"])))
        figures = reduce(lambda one, other: combine([one, other]), (chunk["figures"] for chunk in chunks()))
        num_blocks = sum(blocks * steps for _, blocks, steps, _ in runs)
        extra = {"teacher_steps": runs}
        manifest.splits = {SPLIT: SplitInfo(num_blocks, num_blocks * manifest.block_size, self.blocks_per_chunk, extra)}
        manifest.teacher_steps = True
        manifest.statistics = per_token(figures)
        finish(self.folder, manifest)
        self.tidy()
        return manifest

    def tidy(self) -> None:
        """Remove what only a recording that goes on needs from a finished store."""
        finish(self.folder, read_manifest(self.folder))
        discard_unfinished(self.folder)

    @property
    def _split(self) -> Path:
        return self.folder / SPLIT

    @property
    def _pending(self) -> Path:
        return self.folder / _PENDING / str(self.rank)

    def _index(self, chunk: int) -> int:
        return chunk * self.num_ranks + self.rank

    def _read_recording(self) -> dict[str, Any] | None:
        path = self.folder / _RECORDING
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None

    def _write_recording(self, about: dict[str, Any]) -> None:
        write_durably(self.folder / _RECORDING, json.dumps(about, indent=1).encode())

    def _check_folder(self, before: dict[str, Any] | None, recording: str | None) -> None:
        if self.finished:
            raise ValueError(
                f"output_dir of LogitsRecorder must not be a finished folder, got {self.folder}. Set it to a new one: "
                "a training that goes on records there what is still to come."
            )
        if before is None and any(_is_foreign(path) for path in self.folder.rglob("*")):
            raise ValueError(
                f"output_dir of LogitsRecorder must be a new folder, or that of the training which goes on, got "
                f"{self.folder} with other files. Set it to another folder."
            )
        if before is not None and before["name"] != recording and before["saved"]:
            raise ValueError(
                f"output_dir of LogitsRecorder must be a new folder for a new training, got {self.folder}, which holds "
                "an unfinished recording. Go on with the training that wrote it, from a checkpoint that knows of it "
                "(--ckpt_path auto), or set output_dir to a new folder."
            )

    def _check_settings(self, before: dict[str, Any], settings: dict[str, Any]) -> None:
        if changed := [name for name in settings if before.get(name) != settings[name]]:
            changes = "; ".join(f"{name} was {before.get(name)}, is {settings[name]}" for name in changed)
            raise ValueError(
                f"LogitsRecorder must go on with the settings that it began with, got {self.folder}, where {changes}. "
                "Put them back, or set output_dir to a new folder."
            )

    def _read_back(self, num_blocks: int, completed: bool) -> list[Encoded]:
        """The blocks after the last whole chunk, whether theirs was completed since or not."""
        chunk, rest = divmod(num_blocks, self.blocks_per_chunk)
        if completed:
            return _blocks_of(self._split, self._index(chunk))[:rest]
        for folder in self._kept(self.rank):
            kept = int(folder.name)
            if kept >= num_blocks and kept // self.blocks_per_chunk == chunk:
                return _blocks_of(folder, 0)[:rest]
        raise ValueError(self._lost(num_blocks))

    def _lost(self, num_blocks: int) -> str:
        return (
            f"output_dir of LogitsRecorder must hold the {num_blocks} blocks that rank {self.rank} had recorded when "
            f"the checkpoint was written, got {self.folder}, where some were removed: the training went on from an "
            "earlier checkpoint since. Go on from that one (--ckpt_path), or set output_dir to a new folder."
        )

    def _kept(self, rank: int) -> list[Path]:
        """Folders of blocks of a rank that are in no chunk yet; only one, unless the last was being written."""
        return [folder for folder in (self.folder / _PENDING / str(rank)).glob("*") if done_chunks(folder)]

    def _close_gaps(self) -> None:
        """Number the chunks without gaps: ranks may have recorded some blocks more or less."""
        done = sorted(done_chunks(self._split))
        for gap in sorted(set(range(len(done))) - set(done)):
            renumber_chunk(self._split, done.pop(), gap)

    def _undo_finish(self) -> None:
        """Give each chunk the number back that its rank wrote it under, where a finish was cut off."""
        mark = self.folder / _FINISHING
        if not mark.exists():
            return
        origins = {index: read_statistics(self._split, index)["origin"] for index in done_chunks(self._split)}
        for index in [index for index, origin in origins.items() if origin is None]:
            remove_chunk(self._split, index)
        for index, origin in origins.items():
            if origin not in (None, index):
                renumber_chunk(self._split, index, origin)
        mark.unlink()

    def _write(self, folder: Path, index: int, blocks: list[Encoded], origin: int | None = None) -> None:
        figures = [block.figures for block in blocks]
        statistics = {
            "figures": combine(figures),
            "of_each": figures,
            "teacher_steps": list(_joined((int(block.item["teacher_step"][0]), 1) for block in blocks)),
            "origin": origin,
        }
        write_chunk(folder, index, [block.item for block in blocks], statistics)


def _is_foreign(path: Path) -> bool:
    return path.is_file() and not path.name.startswith(TEMPORARY)


def _blocks_of(folder: Path, index: int) -> list[Encoded]:
    items, statistics = read_chunk(folder, index)
    pairs = zip(items, statistics["of_each"], strict=True)
    return [Encoded(item, figures) for item, figures in pairs]


def _joined(pairs: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Steps with the number of blocks of each, those of equal neighbours together."""
    for step, group in groupby(pairs, key=lambda pair: pair[0]):
        yield step, sum(count for _, count in group)


def _runs(pairs: Iterable[tuple[int, int]]) -> Iterator[list[int]]:
    """Runs of steps at equal distances with equally many blocks: first step, blocks of each, steps, distance.

    However many steps a chunk spans, it takes a few runs: the manifest grows with the chunks, as the index does.
    """
    run: list[int] = []
    for step, blocks in pairs:
        first, of_each, steps, distance = run or (0, 0, 0, 0)
        if blocks == of_each and step > first and (steps == 1 or step == first + steps * distance):
            run = [first, blocks, steps + 1, step - first if steps == 1 else distance]
            continue
        if run:
            yield run
        run = [step, blocks, 1, 1]
    if run:
        yield run
