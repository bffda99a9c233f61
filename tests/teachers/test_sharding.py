"""A teacher whose weights are spread over ranks; tests/recording/test_record.py records with one on two."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import distributed
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor

from pd_lightning.teachers import FrozenTeacher, Surroundings


@pytest.fixture
def mesh() -> Iterator[DeviceMesh]:
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield init_device_mesh("cpu", (1, 1), mesh_dim_names=("data_parallel", "tensor_parallel"))
    distributed.destroy_process_group()


def teacher(folder: Path, mesh: DeviceMesh | None, device: str | None = None) -> FrozenTeacher:
    made = FrozenTeacher(str(folder), device=device)
    made.setup(Surroundings(torch.device("cpu"), device_mesh=mesh))
    return made


def sharded(made: FrozenTeacher) -> dict[str, bool]:
    return {name: isinstance(parameter, DTensor) for name, parameter in made.model.named_parameters()}


def test_a_sharded_teacher_says_what_a_whole_one_does(teacher_dir: Path, mesh: DeviceMesh) -> None:
    whole, shards = teacher(teacher_dir, None), teacher(teacher_dir, mesh)
    assert set(sharded(shards).values()) == {True}
    assert not any(sharded(whole).values())
    batch = {"input_ids": torch.arange(32).view(2, 16)}
    for _ in range(2):
        assert torch.equal(shards(batch).rows(slice(None)).logprobs, whole(batch).rows(slice(None)).logprobs)
    after = sharded(shards)
    assert all(after[name] for name in after if ".layers." in name), "layers are gathered only while they compute"
    assert shards.describe() == whole.describe()
    shards.setup(Surroundings(torch.device("cpu"), device_mesh=mesh))
    assert sharded(shards) == after, "a second set-up changes nothing"


def test_a_teacher_with_a_device_of_its_own_stays_whole(teacher_dir: Path, mesh: DeviceMesh) -> None:
    assert not any(sharded(teacher(teacher_dir, mesh, device="cpu")).values())
