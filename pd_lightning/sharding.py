"""Language models whose weights are spread over devices, with FSDP2: each layer is gathered when it computes."""

from __future__ import annotations

from typing import Any

import torch
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import (
    CPUOffloadPolicy,
    MixedPrecisionPolicy,
    OffloadPolicy,
    fully_shard,
    register_fsdp_forward_method,
)

from pd_lightning.language_model import LanguageModel
from pd_lightning.language_model.layers import layers


def shard_frozen(model: LanguageModel, mesh: DeviceMesh) -> None:
    """Spread a frozen model's weights over all devices of a mesh, whatever its dimensions are for to a student.

    The weights move to their devices layer by layer, so a model that fits into the host's memory can be sharded. From
    then on all ranks of the mesh must compute together, each on a batch of its own. Embeddings and head are gathered
    with the first forward pass, and stay.

    Args:
        model: The model, in place.
        mesh: Of any dimensions.
    """
    mesh = DeviceMesh(mesh.device_type, mesh.mesh.flatten())
    for layer in layers(model):
        fully_shard(layer, mesh=mesh, reshard_after_forward=True)
    fully_shard(model, mesh=mesh, reshard_after_forward=False)
    register_fsdp_forward_method(model, "hidden")


def shard_student(
    model: LanguageModel,
    mesh: DeviceMesh,
    dtype: torch.dtype | None = None,
    reshard: bool = True,
    offload: bool = False,
) -> None:
    """Spread a student's weights, gradients and optimizer states over the devices of a mesh.

    Embeddings and head are gathered for the whole of a step, in which the objective uses the head chunk by chunk.

    Args:
        model: The model, in place.
        mesh: Of one dimension, or of two: weights are repeated along the first and spread along the second.
        dtype: Data type that layers compute in; gradients are summed in float32 then. By default that of the weights.
        reshard: Whether layers are dropped after the forward pass, and gathered again in the backward pass.
        offload: Whether weights and optimizer states lie in the host's memory.
    """
    options: dict[str, Any] = {
        "mesh": mesh,
        "mp_policy": MixedPrecisionPolicy(dtype, torch.float32) if dtype else MixedPrecisionPolicy(),
        "offload_policy": CPUOffloadPolicy(pin_memory=mesh.device_type == "cuda") if offload else OffloadPolicy(),
    }
    for layer in layers(model):
        fully_shard(layer, reshard_after_forward=reshard, **options)
    fully_shard(model, reshard_after_forward=False, **options)
    for method in ("hidden", "compute"):
        register_fsdp_forward_method(model, method)
