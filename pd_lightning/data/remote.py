"""Data folders in object storage, read through a local cache of the chunks in use."""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

from pd_lightning.data.addresses import file_system
from pd_lightning.store.checksums import CHECKSUMS_FILE, FileDigest, digest_file, read_checksums
from pd_lightning.store.durable import TEMPORARY, publish, temporary_beside, write_durably
from pd_lightning.store.manifest import Manifest
from pd_lightning.store.reader import BlockReader
from pd_lightning.store.safety import verify_layout

# A chunk used so recently may be about to be opened by another process.
_IN_USE_SECONDS = 60.0
# A download to which nothing was added for so long is that of a process that was killed.
_ABANDONED_SECONDS = 3600.0


class RemoteFolder:
    """A finished data folder at an address; small files are fetched at once, chunks when they are read.

    What is fetched is held against the folder's checksums. The local copy is named after them, so that it is never
    that of another recording at the same address; processes of one machine share it. Reading all over a store that is
    larger than the cache fetches chunks again and again: set `shuffle_window`.

    Args:
        address: Anything that fsspec knows: `s3://bucket/store`, `gs://bucket/store`, `file:///folder/store`.
        cache_dir: Folder of local copies.
        cache_bytes: What chunks may take there; those used least recently go first. Chunks of the last minute stay, and
            a removed one takes disk until no process has it open.

    Raises:
        FileNotFoundError: There is no finished data folder at the address.
    """

    def __init__(self, address: str, cache_dir: Path, cache_bytes: float) -> None:
        self.address = address.rstrip("/")
        self.cache_bytes = cache_bytes
        self._opened: tuple[int, Any, str] | None = None
        try:
            checksums = self._read(CHECKSUMS_FILE)
        except FileNotFoundError:
            raise FileNotFoundError(
                f"the data folder must be finished, got {address} without {CHECKSUMS_FILE}. Write it with the command "
                "that makes it, or correct the path."
            ) from None
        self.folder = cache_dir.expanduser() / hashlib.sha256(checksums).hexdigest()[:16]
        self.folder.mkdir(parents=True, exist_ok=True)
        write_durably(self.folder / CHECKSUMS_FILE, checksums)
        for name, digest in self._digests.items():
            path = self.folder / name
            if not _is_chunk(name) and not (path.exists() and path.stat().st_size == digest.bytes):
                self._download(name)

    def fetch(self, name: str) -> None:
        """Make sure that a chunk is in the cache.

        Args:
            name: Its path in the data folder.

        Raises:
            ValueError: What is at the address is not what was written.
        """
        path = self.folder / name
        with contextlib.suppress(FileNotFoundError):
            os.utime(path)  # before it is looked at: from here on hardly any other process removes it
            if path.stat().st_size == self._digests[name].bytes:
                return
        self._download(name)
        self._evict(path)

    def _download(self, name: str) -> None:
        path, expected = self.folder / name, self._digests[name]
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = temporary_beside(path)
        try:
            files, root = self._files
            files.get_file(f"{root}/{name}", str(temporary))
            found = digest_file(temporary)
            if (found.bytes, found.sha256) != (expected.bytes, expected.sha256):
                raise ValueError(
                    f"{self.address}/{name} must match its checksum, got {found.bytes} bytes with another one. Copy "
                    "the data folder to its address again."
                )
            publish(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)

    def _evict(self, fetched: Path) -> None:
        """Remove abandoned downloads, and the chunks used least recently, down to the size of the cache."""
        now = time.time()
        for _, _, path in _by_age(self.folder.glob(f"*/{TEMPORARY}*"), now - _ABANDONED_SECONDS):
            path.unlink(missing_ok=True)
        chunks = _by_age(self.folder.glob("*/chunk-*.bin"))
        total = sum(size for _, size, _ in chunks)
        for used, size, path in chunks:
            if total <= self.cache_bytes or used > now - _IN_USE_SECONDS:
                return
            if path != fetched:
                path.unlink(missing_ok=True)
                total -= size

    @cached_property
    def _digests(self) -> dict[str, FileDigest]:
        return read_checksums(self.folder)

    @property
    def _files(self) -> tuple[Any, str]:
        """The file system, opened anew in each process: connections do not survive a fork."""
        if self._opened is None or self._opened[0] != os.getpid():
            self._opened = (os.getpid(), *file_system(self.address, "data.path"))
        return self._opened[1], self._opened[2]

    def _read(self, name: str) -> bytes:
        files, root = self._files
        content: bytes = files.cat_file(f"{root}/{name}")
        return content

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": None}


class Folders:
    """Data folders by path or address.

    Args:
        cache_dir: Folder of local copies of remote ones.
        cache_gb: What the chunks of each may take there, in GB.
    """

    def __init__(self, cache_dir: Path, cache_gb: float) -> None:
        self._cache_dir = cache_dir
        self._cache_bytes = cache_gb * 1e9
        self._remote: dict[Path, RemoteFolder] = {}
        self._verified: dict[Path, Manifest] = {}

    def local(self, address: str) -> Path:
        """The folder itself, or the local copy of one at an address, chunks left out.

        Raises:
            FileNotFoundError: There is no finished data folder at the address.
        """
        if "://" not in address:
            return Path(address)
        remote = RemoteFolder(address, self._cache_dir, self._cache_bytes)
        self._remote.setdefault(remote.folder, remote)
        return remote.folder

    def reader(self, folder: Path, split: str) -> BlockReader:
        """The blocks of a split of a folder that `local` gave; it is checked once for all splits."""
        remote = self._remote.get(folder)
        if folder not in self._verified:
            self._verified[folder] = verify_layout(folder, chunks=remote is None, share=_share())
        return BlockReader(folder, split, None if remote is None else remote.fetch, self._verified[folder])


def _share() -> tuple[int, int]:
    """This process, and how many there are."""
    from torch import distributed

    there = distributed.is_available() and distributed.is_initialized()
    return (distributed.get_rank(), distributed.get_world_size()) if there else (0, 1)


def _by_age(paths: Iterable[Path], before: float = float("inf")) -> list[tuple[float, int, Path]]:
    """Files last changed before a time: that of the change, size and path, oldest first."""
    found = []
    for path in paths:
        with contextlib.suppress(FileNotFoundError):  # another process was faster
            status = path.stat()
            found.append((status.st_mtime, status.st_size, path))
    return sorted(file for file in found if file[0] < before)


def _is_chunk(name: str) -> bool:
    return name.endswith(".bin") and "/chunk-" in name
