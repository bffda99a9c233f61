"""Checkpoint files that prove themselves whole: a digest of all their bytes, as the comment of a zip archive.

torch checks nothing of an archive when it reads; the archive's own sums, CRC-32, leave out its headers. The sealed file
stays what `torch.save` wrote, plus the comment: `torch.load` and Lightning open it as any other.
"""

from __future__ import annotations

import hashlib
import os
import zipfile
import zlib
from io import BufferedIOBase
from pathlib import Path
from typing import Any

from pd_lightning.store.checksums import CHECKSUMS_FILE, digest_file, read_checksums

_MARK = b"pd-lightning sha256 "
_COMMENT = len(_MARK) + 2 * hashlib.sha256().digest_size
_LENGTH = _COMMENT.to_bytes(2, "little")  # stands before the comment, and is 0 in what torch writes
_NO_LENGTH = bytes(2)
_END_RECORD = 22  # bytes of an archive's end without a comment
_PIECE = 2**20


class SealedFile:
    """What `torch.save` takes in place of a file: writes through, and reads along.

    Args:
        file: An empty file, open for writing.
    """

    def __init__(self, file: BufferedIOBase) -> None:
        self._file = file
        self._digest = hashlib.sha256()

    def write(self, data: Any) -> int:
        """Write bytes at the file's end."""
        self._digest.update(data)
        return self._file.write(data)

    def flush(self) -> None:
        """Hand buffered bytes to the system."""
        self._file.flush()

    def seal(self) -> None:
        """Add the digest, once the archive is complete."""
        self._file.seek(-len(_NO_LENGTH), os.SEEK_END)
        self._file.write(_LENGTH + _MARK + self._digest.hexdigest().encode())


def damage(path: str | Path) -> str | None:
    """Read a whole file, and compare it with its digest; with the archive's own sums, where it is older than that.

    Args:
        path: A checkpoint.

    Returns:
        What is wrong with it, None where nothing is.
    """
    path = Path(path)
    size = path.stat().st_size
    with path.open("rb") as file:
        file.seek(max(size - len(_LENGTH) - _COMMENT, 0))
        end = file.read()
        if end.startswith(_LENGTH + _MARK):
            file.seek(0)
            digest = _digest(file, size - len(end))
            return None if end.endswith(digest) else "damaged: its contents do not match their digest"
    # An archive of torch's own ends with no comment. Another end is that of a sealed one, and damaged.
    end = end[-_END_RECORD:]
    bare = end.startswith(b"PK\5\6") and end.endswith(_NO_LENGTH)
    try:
        if not zipfile.is_zipfile(path):
            return "cut off, or another file"
        with zipfile.ZipFile(path) as archive:
            return None if bare and archive.testzip() is None else "damaged"
    except (
        zipfile.BadZipFile,
        zlib.error,
        RuntimeError,
        EOFError,
        ValueError,
        OSError,
    ):  # what damage leads zipfile to
        return "damaged"


def damage_of_folder(path: Path, first: int = 0, every: int = 1) -> str | None:
    """Compare the files of a checkpoint that is a folder with its `checksums.json`.

    Args:
        path: The folder.
        first: The first file to read; several ranks can share the work.
        every: Read each so many-th file from there on.

    Returns:
        What is wrong with it, None where nothing is.
    """
    if not (path / CHECKSUMS_FILE).is_file():
        return f"none, or not finished: it has no {CHECKSUMS_FILE}"
    try:
        files = read_checksums(path)
    except ValueError as error:
        return f"damaged: {error}" if error.__cause__ is None else f"damaged: its {CHECKSUMS_FILE} can't be read"
    for name in list(files)[first::every]:
        if not (path / name).is_file():
            return f"damaged: {name} is missing"
        if digest_file(path / name) != files[name]:
            return f"damaged: {name} does not match its digest"
    return None


def _digest(file: BufferedIOBase, size: int) -> bytes:
    """The digest of an archive as it was before it had a comment."""
    digest = hashlib.sha256()
    while size > 0:
        piece = file.read(min(size, _PIECE))
        if not piece:
            break
        digest.update(piece)
        size -= len(piece)
    digest.update(_NO_LENGTH)
    return digest.hexdigest().encode()
