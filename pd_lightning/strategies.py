"""Strategies of the Trainer for students that are spread over devices."""

import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from torch.distributed.device_mesh import init_device_mesh

from pd_lightning.language_model import LanguageModel
from pd_lightning.sharding import shard_student

_COMPUTE = {"bf16-mixed": torch.bfloat16}


class FSDP2Strategy(ModelParallelStrategy):
    """Fully sharded data parallelism (FSDP2) over all devices: each holds a share of student and optimizer.

    Args:
        replicas: Groups of devices that each hold a whole student, spread over the group (hybrid sharding): the number
            of nodes, say, so that weights are gathered within a node alone. By default one group of all devices.
        reshard_after_forward: Whether a layer's weights are dropped after the forward pass, and gathered again in the
            backward pass: less memory, more traffic.
        cpu_offload: Whether weights and optimizer states lie in the host's memory.
        save_distributed_checkpoint: Whether each rank writes its share: a checkpoint is then a folder. By default a
            single file, that goes on on any number of devices, and that `export` takes.

    Raises:
        ValueError: If the number of devices is no multiple of `replicas`.
    """

    def __init__(
        self,
        replicas: int = 1,
        reshard_after_forward: bool = True,
        cpu_offload: bool = False,
        save_distributed_checkpoint: bool = False,
    ) -> None:
        # Lightning's default puts the devices of a node into tensor parallelism, where nobody would sum gradients.
        super().__init__("auto", 1, save_distributed_checkpoint)
        self.replicas = replicas
        self.reshard_after_forward = reshard_after_forward
        self.cpu_offload = cpu_offload

    def setup_environment(self) -> None:
        """Put all devices into data parallelism."""
        world_size = self.num_nodes * self.num_processes
        if self.replicas < 1 or world_size % self.replicas:
            raise ValueError(
                f"replicas must divide the number of devices, got {self.replicas} for {world_size}. Set "
                "trainer.strategy.init_args.replicas to the number of nodes, or leave it out."
            )
        self._data_parallel_size = world_size
        super().setup_environment()

    def shard(self, student: LanguageModel, precision: str) -> None:
        """Spread a student over the devices.

        Args:
            student: The student, in place.
            precision: That of the Trainer.
        """
        mesh = self.device_mesh["data_parallel"]
        if self.replicas > 1:
            shape = (self.replicas, mesh.size() // self.replicas)
            mesh = init_device_mesh(self.root_device.type, shape, mesh_dim_names=("replicas", "shards"))
        shard_student(student, mesh, _COMPUTE.get(precision), self.reshard_after_forward, self.cpu_offload)
