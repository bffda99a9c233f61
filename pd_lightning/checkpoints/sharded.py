"""Checkpoints of a run whose weights are spread over ranks: one whole file, or a folder with a share of each rank.

```
last.ckpt/shard-00001-model-00001-of-00001.safetensors   weights and optimizer states of rank 0, …
          rest.ckpt                                      all else: counters, schedules, the data's position
          checksums.json                                 written last: without it the folder is not whole
```
PyTorch's distributed checkpoints keep their index as a pickle, but for its safetensors storage, which is used here.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.tensor import DTensor, distribute_tensor

from pd_lightning.checkpoints.files import flaw, load_checkpoint, put_in_place, remove, save_checkpoint
from pd_lightning.store.checksums import CHECKSUMS_FILE, checksums_json, digest_file
from pd_lightning.store.durable import TEMPORARY, disk_full_explained, write_durably

REST = "rest.ckpt"
_WEIGHTS, _OPTIMIZERS, _STATE = "state_dict", "optimizer_states", "state"
_SEPARATOR = "/"
Like = Callable[[str], DTensor | None]


def whole(value: Any) -> Any:
    """Gather every tensor of nested dictionaries and lists that is spread over ranks; all ranks must take part.

    Args:
        value: Weights or optimizer states.

    Returns:
        The same on the first rank, in the host's memory; on others the tensors are empty, so that they cost nothing.
    """
    if isinstance(value, dict):
        return {name: whole(entry) for name, entry in value.items()}
    if isinstance(value, list):
        return [whole(entry) for entry in value]
    if not isinstance(value, Tensor):
        return value
    tensor = value.detach()
    if isinstance(tensor, DTensor):
        tensor = tensor.full_tensor()
    return tensor.cpu() if distributed.get_rank() == 0 else tensor.new_empty(0)


def write_shards(checkpoint: dict[str, Any], path: Path) -> None:
    """Write a checkpoint as a folder that is whole or not there; all ranks must take part, with one file system.

    Args:
        checkpoint: Of a Trainer; tensors of `state_dict` and `optimizer_states` may be spread over ranks.
        path: The folder, which replaces what has that name.

    Raises:
        OSError: On all ranks, if one can't write, for want of space say; what had the name stays.
        ValueError: If the ranks don't see the same folder.
    """
    rank, temporary = distributed.get_rank(), path.with_name(f"{TEMPORARY}{path.name}")
    if rank == 0:
        remove(temporary)
        temporary.mkdir(parents=True)
    distributed.barrier()
    tensors, rest = _split(checkpoint)
    remedy = "Earlier checkpoints stay. Free some space, then go on with the same command and --ckpt_path auto."
    with disk_full_explained(f"the checkpoint {path}", lambda: remedy):
        _save(_apart(tensors), temporary)
    if rank == 0:
        save_checkpoint(rest, temporary / REST)
    own = [*temporary.glob(f"shard-{rank + 1:05d}-*"), *([temporary / REST] if rank == 0 else [])]
    digests: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(digests, {file.name: digest_file(file) for file in own})
    files = {name: digest for part in digests for name, digest in part.items()}
    if rank == 0:
        write_durably(temporary / CHECKSUMS_FILE, checksums_json(files))
    distributed.barrier()
    if not all((temporary / name).is_file() for name in (*files, CHECKSUMS_FILE)):
        raise ValueError(
            f"The folder of checkpoints must be the same on all ranks, got {path.parent}, where rank {rank} doesn't "
            "see what others wrote. Set trainer.default_root_dir to a folder in a file system that all nodes share, or "
            "trainer.strategy.init_args.save_distributed_checkpoint to false."
        )
    distributed.barrier()
    if rank == 0:
        put_in_place(temporary, path)
    distributed.barrier()


def read_on_first_rank(read: Callable[[], dict[str, Any]], like: Like, optimizers: bool) -> dict[str, Any]:
    """Read a checkpoint that is a file, and spread it; all ranks must take part.

    Args:
        read: Reads it; called on the first rank alone.
        like: Gives the tensor that one of the checkpoint is spread like, by its name, or None for one that is whole on
            each rank.
        optimizers: Whether states of optimizers are wanted.

    Returns:
        The checkpoint.

    Raises:
        ValueError: On all ranks, if the first can't read it.
        FileNotFoundError: The same.
    """
    tensors: dict[str, Tensor] = {}
    told: list[Any] = [None]
    if distributed.get_rank() == 0:
        try:
            checkpoint = read()
            tensors, rest = _split(checkpoint if optimizers else {**checkpoint, _OPTIMIZERS: []})
            told = [(rest, {name: (tensor.shape, tensor.dtype) for name, tensor in tensors.items()})]
        except (ValueError, FileNotFoundError) as error:
            told = [error]
    distributed.broadcast_object_list(told)
    if isinstance(told[0], Exception):
        raise told[0]
    rest, known = told[0]
    for name, (shape, dtype) in known.items():
        tensors[name] = _spread(tensors.get(name, torch.empty(shape, dtype=dtype)), _fitting(like(name), shape))
    return _join(tensors, rest)


def read_shards(
    path: Path, like: Like = lambda name: None, optimizers: bool = True, key: str = "--ckpt_path"
) -> dict[str, Any]:
    """Read a checkpoint that is a folder, each rank its own share, or the whole of it in one process.

    Args:
        path: The folder.
        like: As of `read_on_first_rank`; by default every tensor is whole.
        optimizers: Whether states of optimizers are wanted.
        key: The setting that names it, for messages.

    Returns:
        The checkpoint.

    Raises:
        ValueError: If it is not whole.
    """
    check_shards(path, key)
    reader = HuggingFaceStorageReader(str(path))
    tensors: dict[str, Tensor] = {}
    for name, entry in reader.read_metadata().state_dict_metadata.items():
        assert isinstance(entry, TensorStorageMetadata)
        if not optimizers and name.startswith(_OPTIMIZERS):
            continue
        pattern, dtype = _fitting(like(name), entry.size), entry.properties.dtype
        if pattern is None:
            tensors[name] = torch.empty(entry.size, dtype=dtype)
        else:
            tensors[name] = torch.empty_like(pattern, dtype=dtype)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled")
        load(dict(tensors), storage_reader=reader, no_dist=not distributed.is_initialized())
    rest = load_checkpoint(path / REST, key)
    return _join(tensors, rest if optimizers else {**rest, _OPTIMIZERS: []})


def check_shards(path: Path, key: str = "--ckpt_path") -> None:
    """Check the files of a checkpoint that is a folder; where there are several ranks, each checks its part.

    Raises:
        ValueError: On all ranks, if one is missing or damaged.
    """
    ranks = distributed.get_world_size() if distributed.is_initialized() else 1
    rank = distributed.get_rank() if distributed.is_initialized() else 0
    found = flaw(path, rank, ranks)
    if ranks > 1:
        said: list[Any] = [None] * ranks
        distributed.all_gather_object(said, found)
        found = next((problem for problem in said if problem), None)
    if found:
        raise ValueError(
            f"{key} must be a whole checkpoint, got the folder {path}, which is {found}. Set {key} to another "
            "checkpoint of the run."
        )


def _save(tensors: dict[str, Tensor], folder: Path) -> None:
    try:
        save(tensors, storage_writer=HuggingFaceStorageWriter(str(folder), save_distributed=True))
    except CheckpointException as error:
        failures = [failure for failure, _ in error.failures.values()]
        raise next((failure for failure in failures if isinstance(failure, OSError)), error) from error


def _fitting(like: DTensor | None, shape: torch.Size) -> DTensor | None:
    """Another shape is another model's, or no value per parameter: it stays whole, for those to judge who load it."""
    return like if like is not None and like.shape == shape else None


def _spread(tensor: Tensor, like: DTensor | None) -> Tensor:
    if like is not None:
        return distribute_tensor(tensor.to(like.to_local().device), like.device_mesh, like.placements)
    device = torch.device("cuda", torch.cuda.current_device()) if distributed.get_backend() == "nccl" else "cpu"
    there = tensor.to(device)
    distributed.broadcast(there, 0)
    return there.cpu()


def _split(checkpoint: dict[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Weights and optimizer states by flat names, and the checkpoint without them."""
    rest = {name: value for name, value in checkpoint.items() if name != _WEIGHTS}
    tensors = {f"{_WEIGHTS}{_SEPARATOR}{name}": tensor for name, tensor in checkpoint[_WEIGHTS].items()}
    rest[_OPTIMIZERS] = []
    for index, optimizer in enumerate(checkpoint.get(_OPTIMIZERS, [])):
        values = dict(_flat(optimizer[_STATE], f"{_OPTIMIZERS}{_SEPARATOR}{index}"))
        tensors |= {name: value for name, value in values.items() if isinstance(value, Tensor)}
        plain = {name: value for name, value in values.items() if not isinstance(value, Tensor)}
        rest[_OPTIMIZERS].append({**optimizer, _STATE: plain})
    return tensors, rest


def _apart(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Copy what has its memory in common with another tensor, as tied weights do: safetensors refuses it."""
    seen: set[int] = set()
    apart = {}
    for name, tensor in tensors.items():
        local = tensor.detach()
        place = (local.to_local() if isinstance(local, DTensor) else local).data_ptr()
        apart[name] = local.clone() if place in seen else local
        seen.add(place)
    return apart


def _flat(state: dict[int, dict[str, Any]], prefix: str) -> Iterator[tuple[str, Any]]:
    for number, entries in state.items():
        yield from ((f"{prefix}{_SEPARATOR}{number}{_SEPARATOR}{key}", value) for key, value in entries.items())


def _join(tensors: dict[str, Tensor], rest: dict[str, Any]) -> dict[str, Any]:
    """The opposite of `_split`."""
    checkpoint: dict[str, Any] = {**rest, _WEIGHTS: {}}
    for optimizer in checkpoint[_OPTIMIZERS]:
        plain, optimizer[_STATE] = optimizer[_STATE], {}
        for name, value in plain.items():
            _put(checkpoint, name, value)
    for name, tensor in tensors.items():
        _put(checkpoint, name, tensor)
    return checkpoint


def _put(checkpoint: dict[str, Any], name: str, value: Any) -> None:
    kind, *place = name.split(_SEPARATOR)
    if kind == _WEIGHTS:
        checkpoint[_WEIGHTS][_SEPARATOR.join(place)] = value
    else:
        index, number, key = place
        checkpoint[_OPTIMIZERS][int(index)][_STATE].setdefault(int(number), {})[key] = value
