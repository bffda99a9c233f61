"""Data folders in object storage, read through a local cache of the chunks in use."""

from __future__ import annotations

import hashlib
import os
import time
from functools import cached_property
from pathlib import Path
from typing import Any

from pd_lightning.store.checksums import CHECKSUMS_FILE, FileDigest, digest_file, read_checksums
from pd_lightning.store.durable import publish, temporary_beside, write_durably
from pd_lightning.store.reader import BlockReader

# A chunk used so recently may be about to be opened by another process.
_IN_USE_SECONDS = 60.0


class RemoteFolder:
    """A finished data folder at an address; small files are fetched at once, chunks when they are read.

    What is fetched is held against the folder's checksums. The local copy is named after them, so that it is never
    that of another recording at the same address; processes of one machine share it. Reading all over a store that is
    larger than the cache fetches chunks again and again: set `shuffle_window`.

    Args:
        address: Anything that fsspec knows: `s3://bucket/store`, `gs://bucket/store`, `file:///folder/store`.
        cache_dir: Folder of local copies.
        cache_bytes: What chunks may take there; those used least recently go first. Chunks of the last minute stay.

    Raises:
        FileNotFoundError: There is no finished data folder at the address.
    """

    def __init__(self, address: str, cache_dir: Path, cache_bytes: float) -> None:
        self.address = address.rstrip("/")
        self.cache_bytes = cache_bytes
        self._opened: tuple[int, Any, str] | None = None
        self._last = ""
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
        for name in self._digests:
            if not _is_chunk(name):
                self._get(name)

    def fetch(self, name: str) -> None:
        """Make sure that a chunk is in the cache.

        Args:
            name: Its path in the data folder.

        Raises:
            ValueError: What is at the address is not what was written.
        """
        if name == self._last and (self.folder / name).exists():
            return
        self._get(name)
        os.utime(self.folder / name)
        self._last = name

    def _get(self, name: str) -> None:
        path, expected = self.folder / name, self._digests[name]
        if path.exists() and path.stat().st_size == expected.bytes:
            return
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
        if _is_chunk(name):
            self._evict()

    def _evict(self) -> None:
        """Remove the chunks used least recently, down to the size of the cache."""
        found = []
        for path in self.folder.glob("*/chunk-*.bin"):
            try:
                status = path.stat()
            except FileNotFoundError:  # another process was faster
                continue
            found.append((status.st_mtime, status.st_size, path))
        total = sum(size for _, size, _ in found)
        for used, size, path in sorted(found):
            if total <= self.cache_bytes or used > time.time() - _IN_USE_SECONDS:
                return
            path.unlink(missing_ok=True)
            total -= size

    @cached_property
    def _digests(self) -> dict[str, FileDigest]:
        return read_checksums(self.folder)

    @property
    def _files(self) -> tuple[Any, str]:
        """The file system, opened anew in each process: connections do not survive a fork."""
        if self._opened is None or self._opened[0] != os.getpid():
            import fsspec

            self._opened = (os.getpid(), *fsspec.core.url_to_fs(self.address))
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
        """The blocks of a split of a folder that `local` gave."""
        remote = self._remote.get(folder)
        return BlockReader(folder, split, None if remote is None else remote.fetch)


def _is_chunk(name: str) -> bool:
    return name.endswith(".bin") and "/chunk-" in name
