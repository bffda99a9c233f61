"""`checksums.json`: size and SHA-256 of every file of a data folder, the manifest included."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from pd_lightning.store.json_files import read_json

CHECKSUMS_FILE = "checksums.json"


@dataclass(frozen=True)
class FileDigest:
    """Size and digests of a file.

    Args:
        bytes: Size.
        sha256: Digest of the whole file, hexadecimal.
        header_sha256: Digest of a chunk's header (count and offsets), cheap enough to check at every opening.
    """

    bytes: int
    sha256: str
    header_sha256: str | None = None

    def to_json(self) -> dict[str, Any]:
        """The digest as plain JSON values."""
        return {key: value for key, value in dataclasses.asdict(self).items() if value is not None}


def digest_of(content: bytes) -> FileDigest:
    """Digest of a file's contents."""
    return FileDigest(len(content), hashlib.sha256(content).hexdigest())


def digest_file(path: Path) -> FileDigest:
    """Digest of a file, read in pieces."""
    digest, size = hashlib.sha256(), 0
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
            size += len(piece)
    return FileDigest(size, digest.hexdigest())


def chunk_header(path: Path) -> bytes:
    """Header of a litdata chunk: uint32 n, then n+1 uint32 offsets. Shorter if the file is cut off."""
    with path.open("rb") as file:
        count = file.read(4)
        size = 4 * (struct.unpack("<I", count)[0] + 1) if len(count) == 4 else 0
        # A damaged count must not make us read (and allocate) gigabytes.
        return count + file.read(min(size, path.stat().st_size))


def chunk_digest(path: Path) -> FileDigest:
    """Digest of a chunk, header included."""
    header = hashlib.sha256(chunk_header(path)).hexdigest()
    return dataclasses.replace(digest_file(path), header_sha256=header)


def inside(folder: Path, name: str) -> Path:
    """Path of a file that a data folder's own JSON names.

    Raises:
        ValueError: The name leads out of the folder, by `..`, an absolute path or a symbolic link, or is none.
    """
    check_inside(folder, [name])
    return folder / name


def check_inside(folder: Path, names: Iterable[str]) -> None:
    """Refuse names that lead out of a data folder, see `inside`.

    A store has up to a million files, on a file system that is slow to ask: each is asked about once, and not each
    folder on the way to it.

    Raises:
        ValueError: One of them does.
    """
    root, sound = folder.resolve(), set()
    for name in names:
        path, pure = folder / name, PurePosixPath(name)
        # On Windows a backslash separates folders, and a colon stands after a drive.
        leads_out = pure.is_absolute() or not pure.parts or ".." in pure.parts or not {*"\0\\:"}.isdisjoint(name)
        if not leads_out and path.parent not in sound:
            leads_out = not path.parent.resolve().is_relative_to(root)
            sound.add(path.parent)
        if leads_out or (path.is_symlink() and not path.resolve().is_relative_to(root)):
            raise ValueError(
                f"files of {folder} must lie inside it, got {name!r}. The folder is not to be trusted: "
                "get it again from its source."
            )


def checksums_json(files: dict[str, FileDigest]) -> bytes:
    """Contents of `checksums.json`."""
    body = {"files": {name: files[name].to_json() for name in sorted(files)}}
    return json.dumps(body, indent=1).encode()


def read_checksums(folder: Path) -> dict[str, FileDigest]:
    """Read `checksums.json`: the digest of each file, by its path relative to `folder`.

    Raises:
        ValueError: It is missing or damaged, or names a file outside the folder.
    """
    path = folder / CHECKSUMS_FILE
    try:
        body = read_json(path)["files"]
        files = {name: FileDigest(**value) for name, value in body.items()}
        if not all(type(digest.bytes) is int and isinstance(digest.sha256, str) for digest in files.values()):
            raise ValueError("a size or digest has the wrong type")
    except (OSError, KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(
            f"{path} must list the digest of every file, got {type(error).__name__}: {error}. "
            "Write the folder again with the command that made it."
        ) from error
    check_inside(folder, files)
    return files
