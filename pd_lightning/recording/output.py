"""Where a recording goes: a folder, and maybe an address that it moves on to."""

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pd_lightning.recording.plan import PLAN_FILE, RecordingPlan, earlier_plan
from pd_lightning.recording.spool import Spool, check_moved
from pd_lightning.recording.store_format import combine
from pd_lightning.recording.targets import Encoded
from pd_lightning.store.chunks import (
    chunk_name,
    chunk_statistics,
    discard_unfinished,
    done_chunks,
    finish,
    write_chunk,
)
from pd_lightning.store.manifest import MANIFEST_FILE, Manifest, read_manifest


class RecordingOutput:
    """The files of a recording, from its plan to its manifest.

    Args:
        folder: Folder of the store.
        upload_to: Address that its files move on to, if any.
    """

    def __init__(self, folder: Path, upload_to: str | None) -> None:
        self.folder = folder
        self._spool = Spool(folder, upload_to) if upload_to else None

    @property
    def address(self) -> str:
        """Where the finished store is."""
        return str(self.folder) if self._spool is None else self._spool.address

    @property
    def is_remote(self) -> bool:
        """Whether chunks leave the folder when they are written."""
        return self._spool is not None

    @property
    def complete(self) -> bool:
        """Whether the store is finished."""
        return (self.folder / MANIFEST_FILE).exists() or (self._spool is not None and self._spool.complete)

    def earlier_plan(self, settings: dict[str, Any]) -> RecordingPlan | None:
        """Find the plan of an earlier start, see `plan.earlier_plan`.

        Raises:
            ValueError: If chunks of the folder moved to another address than `upload_to`.
        """
        if self._spool is None:
            check_moved(self.folder, (), None)
            return earlier_plan(self.folder, settings)
        self._spool.fetch()
        plan = earlier_plan(self.folder, settings)
        self._spool.catch_up()
        return plan

    def save_plan(self, plan: RecordingPlan) -> None:
        """Write the plan, before anything else."""
        plan.save(self.folder)
        if self._spool is not None:
            self._spool.send(self.folder / PLAN_FILE)

    def done(self, splits: Iterable[str]) -> dict[str, tuple[int, ...]]:
        """The chunks of each split that are written; no splits where the store is complete."""
        if self.complete:
            return {}
        return {name: tuple(sorted(done_chunks(self.folder / name))) for name in splits}

    def write(self, split: str, index: int, blocks: list[Encoded]) -> None:
        """Write a chunk.

        Raises:
            OSError: The disk is full, or the chunk was uploaded and not found there as it was sent.
        """
        folder = self.folder / split
        write_chunk(folder, index, [block.item for block in blocks], combine([block.figures for block in blocks]))
        if self._spool is not None:
            self._spool.send_chunk(folder / chunk_name(index))

    def totals(self, splits: Iterable[str]) -> dict[str, float]:
        """Sums of the figures of all blocks, when all chunks are written."""
        if self._spool is not None:
            self._spool.fetch()  # what ranks on other machines wrote
        return combine([chunk for name in splits for chunk in chunk_statistics(self.folder / name)])

    def finish(self, manifest: Manifest, tokenizer_dir: Path) -> None:
        """Make the store out of all chunks, on one process, when no other writes."""
        discard_unfinished(self.folder)
        shutil.copytree(tokenizer_dir, self.folder / "tokenizer", dirs_exist_ok=True)
        finish(self.folder, manifest)

    def settle(self) -> None:
        """Move what is left of a finished store to its address, or tidy up where a kill has left that undone."""
        if self._spool is None:
            finish(self.folder, read_manifest(self.folder))
        else:
            self._spool.finish()
