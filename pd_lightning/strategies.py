"""Strategies of the Trainer for students that are spread over devices."""

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.utilities.types import _PATH
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.strategies import ModelParallelStrategy, Strategy, StrategyRegistry
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from pd_lightning.checkpoints.sharded import read_on_first_rank, read_shards, whole, write_shards
from pd_lightning.language_model import LanguageModel
from pd_lightning.sharding import shard_student

_COMPUTE = {"bf16-mixed": torch.bfloat16}


class FSDP2Strategy(ModelParallelStrategy):
    """Fully sharded data parallelism (FSDP2) over all devices: each holds a share of student and optimizer.

    A frozen teacher is spread over the devices too, and is in no checkpoint. Checkpoints are those of a single device,
    so that a run goes on on any number of devices.

    Args:
        replicas: Groups of devices that each hold a whole student, spread over the group (hybrid sharding): the number
            of nodes, say, so that weights are gathered within a node alone. By default one group of all devices.
        reshard_after_forward: Whether a layer's weights are dropped after the forward pass, and gathered again in the
            backward pass: less memory, more traffic.
        cpu_offload: Whether weights and optimizer states lie in the host's memory.
        save_distributed_checkpoint: Whether each rank writes its share: a checkpoint is then a folder, in a file system
            that all ranks see. By default it is a single file, which the first rank writes.
        timeout: Time after which a rank that waits for another gives up, `00:30:00` say. Default: PyTorch's.
        load_in_turn: Whether the ranks of a node make and load models one after another: the host then holds one whole
            model at a time, not one of each rank.

    Raises:
        ValueError: If the number of devices is no multiple of `replicas`.
    """

    def __init__(
        self,
        replicas: int = 1,
        reshard_after_forward: bool = True,
        cpu_offload: bool = False,
        save_distributed_checkpoint: bool = False,
        timeout: timedelta | None = None,
        load_in_turn: bool = False,
    ) -> None:
        # Lightning's default puts the devices of a node into tensor parallelism, where nobody would sum gradients.
        options: dict[str, Any] = {} if timeout is None else {"timeout": timeout}
        super().__init__("auto", 1, save_distributed_checkpoint, **options)
        self.replicas = replicas
        self.reshard_after_forward = reshard_after_forward
        self.cpu_offload = cpu_offload
        self.load_in_turn = load_in_turn
        self._student_mesh: DeviceMesh | None = None

    def setup_environment(self) -> None:
        """Put all devices into data parallelism."""
        world_size = self.num_nodes * self.num_processes
        self.check_replicas(world_size)
        self._data_parallel_size = world_size
        super().setup_environment()
        self._student_mesh = self.device_mesh["data_parallel"]
        if self.replicas > 1:
            shape = (self.replicas, world_size // self.replicas)
            self._student_mesh = init_device_mesh(self.root_device.type, shape, mesh_dim_names=("replicas", "shards"))

    def check_replicas(self, world_size: int) -> None:
        """Refuse groups of devices of unequal size.

        Args:
            world_size: Number of devices.

        Raises:
            ValueError: If it is no multiple of `replicas`.
        """
        if self.replicas < 1 or world_size % self.replicas:
            raise ValueError(
                f"replicas must divide the number of devices, got {self.replicas} for {world_size}. Set "
                "trainer.strategy.init_args.replicas to the number of nodes, or leave it out."
            )

    @contextmanager
    def in_turn(self) -> Iterator[None]:
        """Let the ranks of a node do something one after another, if so it was asked; without collectives in it."""
        for rank in range(self.num_processes if self.load_in_turn else 1):
            if not self.load_in_turn or rank == self.local_rank:
                yield
            if self.load_in_turn:
                self.barrier("in turn")

    def shard(self, student: LanguageModel, precision: str) -> None:
        """Spread a student over the devices; one that is spread stays so.

        Args:
            student: The student, in place.
            precision: That of the Trainer.
        """
        assert self._student_mesh is not None
        if not any(isinstance(parameter, DTensor) for parameter in student.parameters()):
            compute = _COMPUTE.get(precision)
            shard_student(student, self._student_mesh, compute, self.reshard_after_forward, self.cpu_offload)

    def model_to_device(self) -> None:
        """Move what is not spread over devices; weights of a student in the host's memory stay there."""
        assert self.lightning_module is not None
        for tensor in _unsharded(self.lightning_module):
            tensor.data = tensor.data.to(self.root_device)

    @property
    def lightning_restore_optimizer(self) -> bool:
        """Lightning restores weights and optimizer as on a single device, out of what `load_checkpoint` gives."""
        return True

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """Give the weights: each rank its share, or all of them on the first rank."""
        assert self.lightning_module is not None
        state = self.lightning_module.state_dict()
        return state if self._save_distributed_checkpoint else whole(state)

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """Give the state of an optimizer, numbered as on a single device, spread as the weights are."""
        optimizer = optimizer._optimizer if isinstance(optimizer, LightningOptimizer) else optimizer
        state = optimizer.state_dict()
        return state if self._save_distributed_checkpoint else whole(state)

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: _PATH, storage_options: Any = None) -> None:
        """Write a checkpoint: a file, or a folder with a share of each rank."""
        path = Path(self.broadcast(filepath))
        if self._save_distributed_checkpoint:
            write_shards(checkpoint, path)
            return
        if self.is_global_zero and path.is_dir():
            shutil.rmtree(path)
        Strategy.save_checkpoint(self, checkpoint, path, storage_options)

    def load_checkpoint(self, checkpoint_path: _PATH, weights_only: bool | None = None) -> dict[str, Any]:
        """Read a checkpoint of any number of devices; weights and optimizer states come spread as the student is."""
        path = Path(self.broadcast(checkpoint_path))
        training = bool(self.optimizers)
        if path.is_dir():
            return read_shards(path, self._like, training)
        io = self.checkpoint_io
        return read_on_first_rank(lambda: io.load_checkpoint(path, weights_only=weights_only), self._like, training)

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """Load the weights, as on a single device."""
        Strategy.load_model_state_dict(self, checkpoint, strict)

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Load the states of optimizers, as on a single device."""
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            optimizer.load_state_dict(state)

    def _get_process_group_backend(self) -> str:
        on_gpu = self.root_device.type == "cuda"
        return "cpu:gloo,cuda:nccl" if self.cpu_offload and on_gpu else super()._get_process_group_backend()

    def _like(self, name: str) -> DTensor | None:
        """What the tensor of a checkpoint is spread like, by its name there; None where it is whole on each rank."""
        assert self.lightning_module is not None
        kind, *place = name.split("/")
        if kind == "state_dict":
            found = self.lightning_module.state_dict().get("/".join(place))
        else:
            optimizer, number = int(place[0]), int(place[1])
            groups = self.optimizers[optimizer].param_groups if optimizer < len(self.optimizers) else []
            parameters = [parameter for group in groups for parameter in group["params"]]
            found = parameters[number] if number < len(parameters) else None
        return found if isinstance(found, DTensor) else None


def _unsharded(module: nn.Module) -> Iterator[Tensor]:
    tensors = (*module.parameters(), *module.buffers())
    return (tensor for tensor in tensors if not isinstance(tensor, DTensor))


StrategyRegistry.register("fsdp2", FSDP2Strategy, "Student and teacher spread over all devices, with FSDP2")
