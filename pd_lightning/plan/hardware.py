"""What a GPU can do at most, and what it holds."""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches


@dataclass(frozen=True)
class GPU:
    """A GPU.

    Args:
        name: Its name.
        tflops: Peak of matrix products in dense bfloat16 with sums in float32, in 1e12 operations a second.
        memory_gb: Its memory, in GB.
    """

    name: str
    tflops: float
    memory_gb: float


# Of the makers' data sheets, without sparsity: NVIDIA's often print twice as much, with it.
GPUS = {
    gpu.name: gpu
    for gpu in (
        GPU("A10", 125, 24),
        GPU("A100", 312, 80),
        GPU("A100-40GB", 312, 40),
        GPU("B200", 2250, 180),
        GPU("H100", 989, 80),
        GPU("H100-NVL", 835, 94),
        GPU("H100-PCIe", 756, 80),
        GPU("H200", 989, 141),
        GPU("L4", 121, 24),
        GPU("L40S", 362, 48),
        GPU("MI300X", 1307, 192),
        GPU("RTX-3090", 71, 24),
        GPU("RTX-4090", 165, 24),
        GPU("RTX-5090", 209.5, 32),
    )
}


def gpu_named(name: str, tflops: float | None = None, memory_gb: float | None = None) -> GPU:
    """Look a GPU up.

    Args:
        name: Its name, however it is written: `h100`, `RTX 4090`.
        tflops: Its peak, where that is another.
        memory_gb: Its memory, where that is another.

    Raises:
        ValueError: If it is not in the table, and not both figures are given.
    """
    known = {_plain(key): gpu for key, gpu in GPUS.items()}
    gpu = known.get(_plain(name))
    if gpu is None and tflops is not None and memory_gb is not None:
        return GPU(name, tflops, memory_gb)
    if gpu is None:
        close = [known[key].name for key in get_close_matches(_plain(name), known, n=3, cutoff=0.4)]
        hint = f"Did you mean {' or '.join(close)}?" if close else f"Known are {', '.join(GPUS)}."
        raise ValueError(
            f"gpu must be one of the table, got {name}. {hint} For another, set --assume.peak_tflops and "
            "--assume.gpu_memory_gb."
        )
    return GPU(gpu.name, tflops or gpu.tflops, memory_gb or gpu.memory_gb)


def _plain(name: str) -> str:
    return "".join(letter for letter in name.lower() if letter.isalnum()).removeprefix("nvidia")
