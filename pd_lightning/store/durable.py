"""Files that are either whole or absent, whenever the process or the machine dies."""

from __future__ import annotations

import contextlib
import errno
import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

TEMPORARY = ".tmp-"


def temporary_beside(path: Path) -> Path:
    """A name in the same folder (so that a rename is atomic) that no other process uses."""
    return path.with_name(f"{TEMPORARY}{path.name}-{uuid.uuid4().hex}")


def sync(path: Path) -> None:
    """Wait until a file's contents, or a folder's list of names, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def publish(written: Path, final: Path) -> None:
    """Give a written file its final name, replacing what had it. Both are in the same file system."""
    sync(written)
    written.replace(final)
    sync(final.parent)


def write_durably(path: Path, content: bytes) -> None:
    """Write a small file that is whole whenever it exists."""
    temporary = temporary_beside(path)
    try:
        temporary.write_bytes(content)
        publish(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def disk_full_explained(what: str, remedy: Callable[[], str]) -> Iterator[None]:
    """Turn "no space left on device" into a message that says how to go on.

    Args:
        what: What is being written.
        remedy: Says what is there already, and how to go on.

    Raises:
        OSError: With the same `errno`, and a message of `what` and `remedy`.
    """
    try:
        yield
    except OSError as error:
        explained_before = error.strerror is None
        if explained_before or error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        explained = OSError(f"disk full while writing {what}: {error.strerror}. {remedy()}")
        explained.errno = error.errno
        raise explained from error
