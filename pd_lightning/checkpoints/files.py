"""Checkpoint files: written whole or not at all, read without pickle, and with a clear word where that can't be."""

from __future__ import annotations

import os
import re
import shutil
import sys
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

from pd_lightning.checkpoints.sealing import SealedFile, damage, damage_of_folder
from pd_lightning.store.checksums import CHECKSUMS_FILE
from pd_lightning.store.durable import TEMPORARY, disk_full_explained, publish, sync
from pd_lightning.store.space import check_room, stored_bytes

_FORMER = f"{TEMPORARY}former-"  # a checkpoint that is out of the way while its successor gets its name
_WRITTEN = "a file that `pd-lightning fit` wrote, <trainer.default_root_dir>/checkpoints/last.ckpt say"
_CLASS = re.compile(r"GLOBAL (\S+)")
# The file that was found whole last. In the environment, since Lightning's launcher starts the other ranks from a
# process that has looked at it.
_WHOLE = "PD_LIGHTNING_WHOLE_CHECKPOINT"


def save_checkpoint(checkpoint: dict[str, Any], path: str | Path) -> None:
    """Write a checkpoint under a temporary name, then give it its own: what had that name stays until then.

    Args:
        checkpoint: What `torch.save` takes.
        path: The file.

    Raises:
        OSError: The disk is full; earlier checkpoints stay.
    """
    path = Path(path)
    # One name for all attempts, so that killed ones don't pile up. Only one process writes a checkpoint.
    temporary = path.with_name(f"{TEMPORARY}{path.name}")
    remedy = "Earlier checkpoints stay. Free some space, then go on with the same command and --ckpt_path auto."
    with disk_full_explained(f"the checkpoint {path}", lambda: remedy):
        path.parent.mkdir(parents=True, exist_ok=True)
        remove(temporary)
        check_room(path, stored_bytes(checkpoint))
        try:
            _write(checkpoint, temporary)
            put_in_place(temporary, path)
        finally:
            remove(temporary)


def load_checkpoint(path: str | Path, key: str, **options: Any) -> dict[str, Any]:
    """Load a checkpoint of a Trainer, tensors and plain values alone.

    Args:
        path: The file, or the folder of a checkpoint that several ranks wrote.
        key: The setting that names it, for messages.
        **options: Passed on to `torch.load`.

    Returns:
        The checkpoint.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is cut off, damaged, no checkpoint of a Trainer, or needs pickle.
    """
    import torch

    if Path(path).is_dir():
        from pd_lightning.checkpoints.sharded import read_shards

        return read_shards(Path(path), key=key)
    if not Path(path).is_file():
        raise FileNotFoundError(
            f"{key} must be a checkpoint file, got {path}, where there is none. Set {key} to {_WRITTEN}."
        )
    found = flaw(path)
    if found is not None:
        raise ValueError(_not_whole(path, key, found))
    try:
        checkpoint = torch.load(path, weights_only=True, **options)
    except UnpicklingError as error:
        named = _CLASS.search(str(error))
        raise ValueError(
            f"{key} must hold tensors and plain values alone, got {path} with {named[1] if named else 'other objects'}"
            f" in it. Loading that could run code of whoever wrote it: set {key} to another checkpoint."
        ) from error
    except (RuntimeError, EOFError, KeyError) as error:
        raise ValueError(_not_whole(path, key, "damaged")) from error
    if not isinstance(checkpoint, dict) or "pytorch-lightning_version" not in checkpoint:
        raise ValueError(
            f"{key} must be a checkpoint of a Trainer, got {path}, which is none. Set {key} to {_WRITTEN}."
        )
    return checkpoint


def checkpoints_in(folder: str | Path) -> list[Path]:
    """List the checkpoints of a folder: none that is being written, and none whose writing was killed.

    Args:
        folder: The folder; where there is none, it has none.

    Returns:
        In no order, files, and folders of checkpoints that several ranks wrote; among these one that was out of the way
        when its successor's writing was killed.
    """
    return [path for path in Path(folder).glob("*.ckpt") if not path.name.startswith(TEMPORARY) or _stands_in(path)]


def remove_unfinished(folder: str | Path) -> None:
    """Remove what killed writes have left in the folder of a run: no other may write there.

    Args:
        folder: The folder; where there is none, nothing is done.
    """
    for path in set(Path(folder).glob(f"{TEMPORARY}*.ckpt")).difference(checkpoints_in(folder)):
        remove(path)


def put_in_place(written: Path, path: Path) -> None:
    """Give a finished checkpoint its name.

    Args:
        written: A file or folder beside `path`.
        path: What has that name is replaced; where either is a folder, it is out of the way for a moment, see
            `checkpoints_in`.
    """
    former = path.with_name(f"{_FORMER}{path.name}")
    if path.exists() and (written.is_dir() or path.is_dir()):
        sync(written)  # first, since it takes long
        remove(former)
        path.rename(former)
    publish(written, path)
    remove(former)


def remove(path: Path) -> None:
    """Remove a checkpoint, a file or a folder, if it is there."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def flaw(path: str | Path, first: int = 0, every: int = 1) -> str | None:
    """Tell what is wrong with a checkpoint, see `sealing`; one that was found whole is not read a second time.

    Each rank of a training asks for itself, all at the same time, so that none waits for another and all start from
    the same checkpoint.

    Args:
        path: The file or folder.
        first: Of a folder, the first file to read; ranks that know of each other can share the work.
        every: Of a folder, read each so many-th file from there on.

    Returns:
        What is wrong with it, None where nothing is.
    """
    path = Path(path)
    last_written = path / CHECKSUMS_FILE if path.is_dir() else path
    about = last_written.stat() if last_written.exists() else path.stat()
    identity = f"{path.resolve()} {about.st_size} {about.st_mtime_ns}"
    if os.environ.get(_WHOLE) == identity:
        return None
    found = damage_of_folder(path, first, every) if path.is_dir() else damage(path)
    if found is None and every == 1:
        os.environ[_WHOLE] = identity
    return found


def _stands_in(path: Path) -> bool:
    return path.name.startswith(_FORMER) and not path.with_name(path.name.removeprefix(_FORMER)).exists()


def _write(checkpoint: dict[str, Any], path: Path) -> None:
    import torch

    handled = sys.exc_info()[1]  # where a failing run saves what it has
    try:
        # torch tells of a full disk where it writes into a file of Python's, but not where it opens one by itself.
        with path.open("wb") as file:
            sealed = SealedFile(file)
            torch.save(checkpoint, sealed)  # type: ignore[arg-type]  # it only writes
            sealed.seal()
    except RuntimeError as error:
        # What ended the writing, a full disk or Ctrl+C say: torch says in its place that the archive is not complete.
        if error.__context__ is not None and error.__context__ is not handled:
            raise error.__context__ from None
        raise


def _not_whole(path: str | Path, key: str, found: str) -> str:
    return (
        f"{key} must be a whole checkpoint, got {path} of {Path(path).stat().st_size:,} bytes, which is {found}. Set "
        f"{key} to another checkpoint of the run, or remove the file."
    )
