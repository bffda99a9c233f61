"""A frozen model whose weights are spread over devices, for one that fits no single device."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

from pd_lightning.language_model import LanguageModel


def shard(model: LanguageModel, mesh: DeviceMesh) -> None:
    """Spread a model's weights over the devices of a mesh, with FSDP2: each layer is gathered when it computes.

    The weights move to their devices layer by layer, so a model that fits into the host's memory can be sharded. From
    then on all ranks of the mesh must compute together, each on a batch of its own. Embeddings and head are gathered
    with the first forward pass, and stay.

    Args:
        model: The model, in place.
        mesh: Of any dimensions: a frozen model is spread over all its devices, whatever they are for to a student.
    """
    mesh = DeviceMesh(mesh.device_type, mesh.mesh.flatten())
    for layer in _layers(model):
        fully_shard(layer, mesh=mesh, reshard_after_forward=True)
    fully_shard(model, mesh=mesh, reshard_after_forward=False)
    register_fsdp_forward_method(model, "hidden")


def _layers(module: nn.Module) -> Iterator[nn.Module]:
    """The members of a model's outermost lists of modules: its decoder layers."""
    for child in module.children():
        if isinstance(child, nn.ModuleList):
            yield from child
        else:
            yield from _layers(child)
