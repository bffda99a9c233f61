"""Sharded checkpoints of torch's own form, whose index and plain values it unpickles: both are looked at before."""

from __future__ import annotations

import io
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pd_lightning.store.checksums import CHECKSUMS_FILE, inside

_INDEX = ".metadata"
_PLAIN_VALUES = "meta.pt"
# What torch's own writer puts into an index: sizes, places and types, none of which runs anything.
_DATA = "torch.distributed.checkpoint."
_KNOWN = {
    f"{_DATA}metadata": {
        "BytesStorageMetadata",
        "ChunkStorageMetadata",
        "Metadata",
        "MetadataIndex",
        "StorageMeta",
        "TensorProperties",
        "TensorStorageMetadata",
        "_MEM_FORMAT_ENCODING",
    },
    f"{_DATA}filesystem": {"_StorageInfo"},
    "collections": {"OrderedDict"},
    "pathlib": {"Path", "PosixPath", "WindowsPath"},
    "torch": {"Size"},
    "torch.serialization": {"_get_layout"},
}


def check_sharded(path: str | Path | None) -> None:
    """Refuse a sharded checkpoint whose loading would run code.

    Anything but a folder passes, and a folder with checksums and no index that torch could unpickle.

    Args:
        path: What `--ckpt_path` has come to.

    Raises:
        ValueError: It is no sharded checkpoint of a Trainer, names files outside it, or holds other objects than
            tensors and plain values.
    """
    if path is None or not Path(path).is_dir():
        return
    folder = Path(path)
    if (folder / CHECKSUMS_FILE).is_file() and not any(folder.glob(f"*{_INDEX}")):
        return
    for name in (_INDEX, _PLAIN_VALUES):
        if not (folder / name).is_file():
            raise ValueError(
                f"--ckpt_path must be a checkpoint file or a whole sharded checkpoint, got the folder {folder} without "
                f"{name}. Set --ckpt_path to a checkpoint in it."
            )
    try:
        for index in sorted(folder.glob(f"*{_INDEX}")):
            for content in _plain_values(folder, _read_index(index)):
                _load_plain(content)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"--ckpt_path must hold tensors and plain values alone, got {folder} with other objects in it "
            f"({str(error).splitlines()[0]}). Loading that could run code of whoever wrote it: set --ckpt_path to "
            "another checkpoint."
        ) from error
    except (AttributeError, EOFError, ImportError, IndexError, KeyError, OSError, RuntimeError, TypeError) as error:
        raise ValueError(
            f"--ckpt_path must be a whole checkpoint, got the folder {folder}, which is damaged "
            f"({type(error).__name__}). Set --ckpt_path to another checkpoint of the run."
        ) from error


class _IndexReader(pickle.Unpickler):
    """Reads an index, and finds no class or function but those that describe tensors."""

    def find_class(self, module: str, name: str) -> Any:
        """Give a known class, or a data type of torch."""
        import torch

        found = super().find_class(module, name) if name in _KNOWN.get(module, ()) else None
        if found is None and module == "torch":
            found = getattr(torch, name, None)
            found = found if isinstance(found, torch.dtype) else None
        if found is None:
            raise pickle.UnpicklingError(f"{module}.{name}")
        return found


def _read_index(path: Path) -> Any:
    with path.open("rb") as file:
        try:
            return _IndexReader(file).load()
        except ValueError as error:  # of a protocol that pickle does not know
            raise pickle.UnpicklingError(str(error)) from error


def _plain_values(folder: Path, index: Any) -> Iterator[bytes]:
    """The bytes of everything that is no tensor: learning rates, betas and the like."""
    tensors = {
        name for name, entry in index.state_dict_metadata.items() if type(entry).__name__ == "TensorStorageMetadata"
    }
    for key, place in index.storage_data.items():
        path = inside(folder, place.relative_path)
        if key.fqn not in tensors:
            with path.open("rb") as file:
                file.seek(place.offset)
                yield file.read(place.length)


def _load_plain(content: bytes) -> None:
    import torch

    torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
