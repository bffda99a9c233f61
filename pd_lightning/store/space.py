"""Room on a disk: looked at before something is written, so that it is not found out half-way."""

from __future__ import annotations

import errno
import os
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def free_bytes(path: str | Path) -> float:
    """Bytes that may be written at a path, which need not exist yet; infinite where the file system does not say.

    Args:
        path: A file or folder. Quotas are not seen.
    """
    path = Path(path).absolute()
    while not path.exists():
        path = path.parent
    usage = shutil.disk_usage(path)
    return usage.free if usage.total else float("inf")


def check_room(path: str | Path, needed: float) -> None:
    """Refuse to begin a file that will not fit, as a full disk would later.

    Args:
        path: The file or its folder.
        needed: Its size, in bytes.

    Raises:
        OSError: With the `errno` of a full disk, if less is free.
    """
    free = free_bytes(path)
    if needed > free:
        reason = f"{os.strerror(errno.ENOSPC)} ({gigabytes(needed)} needed, {gigabytes(free)} free)"
        raise OSError(errno.ENOSPC, reason)


def check_estimate(path: str | Path, least: float, likely: float, what: str, remedy: str) -> None:
    """Refuse what cannot fit, and warn of what will probably not.

    Args:
        path: Where it will be written.
        least: Bytes that it takes in any case.
        likely: Bytes that it will probably take.
        what: What will be written, for messages.
        remedy: What to set.

    Raises:
        ValueError: If less than `least` is free.
    """
    free = free_bytes(path)
    if free >= likely and free >= least:
        return
    needed = f"at least {gigabytes(least)}" if free < least else f"about {gigabytes(likely)}"
    message = f"the disk of {path} must have room for {what}, got {gigabytes(free)} free for {needed}. {remedy}"
    if free < least:
        raise ValueError(message)
    warnings.warn(message, stacklevel=2)


def stored_bytes(content: Any) -> int:
    """Bytes of all tensors in nested mappings, lists and tuples; what tensors share counts once, as in a file."""
    storages: dict[int, int] = {}
    _gather(content, storages)
    return sum(storages.values())


def gigabytes(size: float) -> str:
    """A size in bytes as text."""
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"


def _gather(node: Any, storages: dict[int, int]) -> None:
    if hasattr(node, "to_local"):
        storages[id(node)] = node.numel() * node.element_size()  # spread over ranks: all of it
    elif hasattr(node, "untyped_storage"):
        storage = node.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
    elif isinstance(node, Mapping):
        for part in node.values():
            _gather(part, storages)
    elif isinstance(node, list | tuple):
        for part in node:
            _gather(part, storages)
