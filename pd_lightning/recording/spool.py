"""A store in object storage: chunks are written to a local folder, uploaded, read back, and emptied.

Emptied chunk files mark what has moved, so that the local folder otherwise is what it is without an upload. A chunk's
record follows its chunk: where both are there, the chunk is whole. The plan goes first, the manifest last.
"""

import contextlib
import hashlib
import os
from collections.abc import Collection
from pathlib import Path, PurePosixPath
from typing import Any

from pd_lightning.data.addresses import file_system
from pd_lightning.recording.plan import PLAN_FILE
from pd_lightning.store.checksums import FileDigest, check_inside, digest_file
from pd_lightning.store.durable import TEMPORARY, write_durably
from pd_lightning.store.manifest import MANIFEST_FILE

_CHUNKS = "*/chunk-*.bin"
_PIECE = 8 * 2**20


class Spool:
    """Moves the files of a store from a local folder to an address.

    Args:
        folder: The local folder.
        address: Any that fsspec knows: `s3://bucket/store`, `gs://bucket/store`, `file:///folder/store`.
    """

    def __init__(self, folder: Path, address: str) -> None:
        self.folder = folder
        self.address = address
        # Typed so, as file systems are of other people's making.
        self._files: Any
        self._files, self._root = file_system(address, "model.upload_to")

    @property
    def complete(self) -> bool:
        """Whether the store is finished."""
        exists: bool = self._files.exists(self._there(MANIFEST_FILE))
        return exists

    def fetch(self) -> None:
        """Learn what is uploaded already. On one process.

        Raises:
            ValueError: If the address holds something else than the recording of the local folder, or lacks chunks that
                moved there from it.
        """
        there = set(self._listed())
        self._check(there)
        records = [name for name in there if _is_record(name) and str(_chunk_of(name)) in there]
        wanted = [name for name in (PLAN_FILE, *records) if name in there and not (self.folder / name).exists()]
        for name in wanted:
            (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
            write_durably(self.folder / name, self._files.cat_file(self._there(name)))
        if MANIFEST_FILE not in there:
            check_moved(self.folder, {self.folder / _chunk_of(name) for name in records}, self.address)
        for name in records:
            _empty(self.folder / _chunk_of(name))

    def catch_up(self) -> None:
        """Upload what an earlier start left behind. On one process, after `fetch`."""
        plan = self.folder / PLAN_FILE
        if plan.exists() and not self._files.exists(self._there(PLAN_FILE)):
            self.send(plan)
        for chunk in sorted(self.folder.glob(_CHUNKS)):
            if chunk.stat().st_size:
                self.send_chunk(chunk)

    def send_chunk(self, chunk: Path) -> None:
        """Upload a chunk, then its record, and empty it here.

        Raises:
            OSError: If something else arrived than was sent.
        """
        self.send(chunk)
        record = chunk.with_suffix(".json")
        if record.exists():  # a store that was finished here has none: its chunks stay until all of it has moved
            self.send(record)
            _empty(chunk)

    def send(self, path: Path) -> None:
        """Upload a file and read it back.

        Raises:
            OSError: If something else arrived than was sent.
        """
        there = self._there(path.relative_to(self.folder).as_posix())
        self._files.makedirs(str(PurePosixPath(there).parent), exist_ok=True)
        self._files.put_file(str(path), there)
        expected, found = digest_file(path), self._digest(there)
        if (found.bytes, found.sha256) != (expected.bytes, expected.sha256):
            raise OSError(
                f"{there} at {self.address} must hold the {expected.bytes} bytes that were sent, got {found.bytes} "
                "bytes with another checksum. Run the same command again: the chunk is still in model.output_dir."
            )

    def finish(self) -> None:
        """Upload what belongs to the finished folder, the manifest last, and remove it here. May be called again."""
        if (self.folder / MANIFEST_FILE).exists():
            here = [path for path in self.folder.rglob("*") if path.is_file() and not path.name.startswith(TEMPORARY)]
            rest = [path for path in here if path.suffix != ".bin" and path.name != MANIFEST_FILE]
            for path in [*rest, self.folder / MANIFEST_FILE]:
                self.send(path)
            for path in here:
                path.unlink()
            for folder in sorted((path for path in self.folder.rglob("*") if path.is_dir()), reverse=True):
                with contextlib.suppress(OSError):  # not empty: somebody else's
                    folder.rmdir()
        for name in self._listed():
            if _is_record(name):
                self._files.rm_file(self._there(name))

    def _check(self, there: set[str]) -> None:
        """Refuse to mix two recordings."""
        plan = self.folder / PLAN_FILE
        if there and PLAN_FILE not in there:
            raise ValueError(
                f"model.upload_to must be a new address or one of `pd-lightning record`, got {self.address}, which "
                f"holds other files. Set another model.upload_to."
            )
        if there and plan.exists() and self._files.cat_file(self._there(PLAN_FILE)) != plan.read_bytes():
            raise ValueError(
                f"model.upload_to must hold the recording of model.output_dir, got {self.address} with that of other "
                f"settings than {self.folder}. Set another model.output_dir, or another model.upload_to."
            )

    def _listed(self) -> list[str]:
        """Names of the uploaded files, relative to the store."""
        self._files.invalidate_cache()
        root = PurePosixPath(self._root)
        names = sorted(PurePosixPath(name).relative_to(root).as_posix() for name in self._files.find(self._root))
        check_inside(self.folder, names)  # an object's name may well have `..` in it
        return names

    def _digest(self, there: str) -> FileDigest:
        digest, size = hashlib.sha256(), 0
        with self._files.open(there, "rb") as file:
            while piece := file.read(_PIECE):
                digest.update(piece)
                size += len(piece)
        return FileDigest(size, digest.hexdigest())

    def _there(self, name: str) -> str:
        return f"{self._root.rstrip('/')}/{name}"


def check_moved(folder: Path, found: Collection[Path], upload_to: str | None) -> None:
    """Refuse to go on without chunks that moved elsewhere.

    Args:
        folder: The local folder.
        found: The emptied chunk files whose chunks are where they moved to.
        upload_to: The address, or None where there is none.

    Raises:
        ValueError: If others are emptied.
    """
    chunks = folder.glob(_CHUNKS)
    lost = sorted(chunk for chunk in chunks if chunk not in found and chunk.stat().st_size == 0)
    if lost:
        raise ValueError(
            f"model.upload_to must be the address that chunks of model.output_dir moved to, got {upload_to}, which "
            f"lacks {len(lost)} of {folder}, {lost[0].relative_to(folder)} first. Set model.upload_to as it was, or "
            "another model.output_dir to record them again."
        )


def _is_record(name: str) -> bool:
    return PurePosixPath(name).match("*/chunk-*.json")


def _chunk_of(record: str) -> PurePosixPath:
    return PurePosixPath(record).with_suffix(".bin")


def _empty(chunk: Path) -> None:
    with chunk.open("wb") as file:
        os.fsync(file.fileno())
