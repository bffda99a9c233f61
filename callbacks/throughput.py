"""Speed and memory of a training: tokens and samples a second, utilisation of the device, peak memory."""

import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.fabric.utilities.throughput import get_available_flops
from torch import Tensor

from pd_lightning.callbacks.distilling import distilling, live_models
from pd_lightning.flops import flops_per_token as count_flops
from pd_lightning.teachers import Teacher

_GIB = 2**30


class Throughput(pl.Callback):
    """Logs how fast a training is, on logged steps: docs/statistics.md has names and units.

    All ranks are counted. The time is that of training as a whole: waiting for data, checkpoints, and what callbacks
    do between steps (LMEval, ExportHF, LogitsStatistics) included, validation left out. On logged steps alone it waits
    for the device.

    Works on any LightningModule whose batches have token ids `[B, T]`, as `input_ids` or first of a pair; of other
    batches it counts samples.

    Args:
        peak_tflops: What a device can do at most in the precision of the run, in 1e12 operations a second, without
            sparsity. By default Lightning's table of GPUs knows; where it does not, and on a CPU, there is no MFU.
        flops_per_token: Operations of the model on one token, forward and backward. By default by formula from its
            weights and its configuration, see `pd_lightning.flops`.
        batch_map: Gives a mapping with `input_ids` for a batch of other data.

    Raises:
        ValueError: If a number is not positive, or a batch has no tensor to count.
    """

    def __init__(
        self,
        peak_tflops: float | None = None,
        flops_per_token: float | None = None,
        batch_map: Callable[[Any], Any] | None = None,
    ) -> None:
        for name, value in (("peak_tflops", peak_tflops), ("flops_per_token", flops_per_token)):
            if value is not None and value <= 0:
                raise ValueError(f"{name} of Throughput must be above 0, got {value}. Correct it, or leave it out.")
        self.peak_tflops, self.flops_per_token = peak_tflops, flops_per_token
        self._map = batch_map
        self._peak: float | None = None
        self._teacher: Teacher | None = None
        self._teacher_seconds = 0.0
        self._flops: tuple[float, float] | None = None
        self._step = self._samples = self._tokens = self._taught = 0
        self._seconds = 0.0
        self._since: float | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Find out what the device can do, and start the clock."""
        self._peak = None if self.peak_tflops is None else self.peak_tflops * 1e12
        device = trainer.strategy.root_device
        if self._peak is None and device.type in ("cuda", "xla"):
            self._peak = get_available_flops(device, _dtype(str(trainer.precision)))
        held = distilling(trainer, pl_module)
        self._teacher = None if held is None else held.teacher
        self._teacher_seconds = self._seconds_of_teacher()
        self._flops = None
        self._start(trainer.global_step)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop the clock."""
        self._pause(trainer)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Go on."""
        self._since = time.perf_counter()
        self._teacher_seconds = self._seconds_of_teacher()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count the batch; on logged steps, log."""
        samples, tokens, positions = self._size(batch)
        self._samples += samples
        self._tokens += tokens
        seconds = self._seconds_of_teacher()
        if seconds > self._teacher_seconds:  # it was asked: with a kd_weight of 0 it is not
            self._taught += tokens
        self._teacher_seconds = seconds
        if self._flops is None and tokens:
            self._flops = self._count(pl_module, positions)
        every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
        stepped, self._step = trainer.global_step > self._step, trainer.global_step
        if stepped and every and (trainer.fit_loop.epoch_loop._batches_that_stepped + 1) % every == 0:
            self._pause(trainer)
            pl_module.log_dict({f"throughput/{name}": value for name, value in self._figures(trainer).items()})
            self._start(trainer.global_step)

    def _start(self, step: int) -> None:
        self._step, self._samples, self._tokens, self._taught, self._seconds = step, 0, 0, 0, 0.0
        self._since = time.perf_counter()

    def _pause(self, trainer: pl.Trainer) -> None:
        """Stop the clock when the device has done what it was given."""
        if trainer.strategy.root_device.type == "cuda":
            torch.cuda.synchronize(trainer.strategy.root_device)
        if self._since is not None:
            self._seconds += time.perf_counter() - self._since
        self._since = None

    def _figures(self, trainer: pl.Trainer) -> dict[str, Tensor]:
        device = trainer.strategy.root_device
        own = [self._samples, self._tokens, self._taught, self._seconds, _peak_memory(device)]
        # MPS has no float64.
        dtype = torch.float32 if device.type == "mps" else torch.float64
        everywhere = trainer.strategy.all_gather(torch.tensor(own, dtype=dtype, device=device)).view(-1, len(own)).cpu()
        # Under tensor parallelism several ranks work at one batch.
        share = (trainer.distributed_sampler_kwargs or {}).get("num_replicas", trainer.world_size) / trainer.world_size
        samples, tokens, taught = everywhere[:, :3].sum(dim=0) * share
        seconds, memory = everywhere[:, 3].amax().clamp(min=1e-9), everywhere[:, 4].amax()
        figures = {"samples_per_second": samples / seconds}
        if memory:
            figures["peak_memory_gib"] = memory / _GIB
        if self._flops is not None:
            figures["tokens_per_second"] = tokens / seconds
            for side, number, flops in (("", tokens, self._flops[0]), ("teacher_", taught, self._flops[1])):
                if flops:
                    rate = number * flops / seconds / trainer.world_size
                    figures[f"{side}tflops_per_device"] = rate / 1e12
                    if self._peak is not None:
                        figures[f"{side}mfu"] = rate / self._peak
        # On the CPU: copying them to the device would wait for it once more.
        return {name: value.float() for name, value in figures.items()}

    def _count(self, pl_module: pl.LightningModule, positions: int) -> tuple[float, float]:
        """Operations on one token, of what is trained and of the teacher."""
        of_teacher = sum(count_flops(model, positions) for model in live_models(self._teacher))
        own = self.flops_per_token
        return count_flops(pl_module, positions) if own is None else own, of_teacher

    def _seconds_of_teacher(self) -> float:
        return 0.0 if self._teacher is None else self._teacher.forward_seconds

    def _size(self, batch: Any) -> tuple[int, int, int]:
        """Samples, tokens and positions of a batch."""
        found = batch if self._map is None else self._map(batch)
        ids = found.get("input_ids") if isinstance(found, Mapping) else found
        ids = ids[0] if isinstance(ids, (tuple, list)) and ids else ids
        if not isinstance(ids, Tensor) or not ids.dim():
            kind = f"a mapping of {', '.join(map(str, found))}" if isinstance(found, Mapping) else type(found).__name__
            raise ValueError(
                f"A batch must have a tensor to count, `input_ids` or the first of several, got {kind}. Set batch_map "
                "of Throughput to a function that gives a dictionary with input_ids."
            )
        if ids.dim() != 2 or ids.is_floating_point():
            return len(ids), 0, 0
        return len(ids), ids.numel(), ids.shape[1]


def _dtype(precision: str) -> torch.dtype:
    """The data type of matrix products."""
    names = {"bf16": torch.bfloat16, "16": torch.float16, "64": torch.float64}
    return next((dtype for name, dtype in names.items() if precision.startswith(name)), torch.float32)


def _peak_memory(device: torch.device) -> int:
    """Most memory that was in use so far, in bytes: the device's, or without one the process's; 0 if nothing tells."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:  # Windows
        return 0
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
