"""What a model costs in use, measured in a process of its own: `python -m` this module, with SETTINGS.

A process apart makes its peak memory its own. The last line that it prints is the figures, as JSON.
"""

from __future__ import annotations

import json
import math
import os
import platform
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

MB = 1_000_000


@dataclass(frozen=True)
class Measurement:
    """What to measure of a model.

    Args:
        folder: Hugging Face folder of the model.
        prompt_tokens: Length of the prompts, whose tokens are random.
        new_tokens: Tokens to generate after them, greedily, whatever they are.
        batch_sizes: Prompts at once, one figure for each.
        repeats: Timed runs, of which the median counts, after one that doesn't.
        dtype: Data type to load the weights in; auto is that of the folder.
        device: cpu, cuda, or auto: a GPU where there is one.
        blocks: Data folder of whose validation split to give the perplexity, or None.
        num_blocks: Blocks of it, at most.
    """

    folder: str
    prompt_tokens: int
    new_tokens: int
    batch_sizes: tuple[int, ...]
    repeats: int
    dtype: str
    device: str
    blocks: str | None
    num_blocks: int

    def as_json(self) -> str:
        """The text that a process of its own is given."""
        return json.dumps(asdict(self))


def measure(what: Measurement) -> dict[str, Any]:
    """Load a model, count it, let it generate, and judge it.

    Args:
        what: The model, and what to measure.

    Returns:
        `parameters`, `non_embedding_parameters`, `disk_mb`, `dtype`, `generation` for each batch size,
        `perplexity` if asked for, and `machine`. MB are 10⁶ bytes; those of memory are beyond what the libraries
        take, but for `peak_process_memory_mb`, which is everything, in the batch size that comes last.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

    from pd_lightning.flops import count_parameters

    device = what.device if what.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    config = AutoConfig.from_pretrained(what.folder, trust_remote_code=False)
    MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]  # what it imports is none of the model's memory
    before = _memory(device)
    model: Any = AutoModelForCausalLM.from_pretrained(
        what.folder, dtype=what.dtype, use_safetensors=True, trust_remote_code=False
    )
    model = model.to(device).eval()
    parameters, inner = count_parameters(model)
    figures: dict[str, Any] = {
        "parameters": parameters,
        "non_embedding_parameters": inner,
        "disk_mb": weights_size(Path(what.folder)) / MB,
        "dtype": str(model.dtype).removeprefix("torch."),
        "generation": [_generation(model, what, batch_size, before) for batch_size in what.batch_sizes],
    }
    if device == "cpu":
        figures["peak_process_memory_mb"] = _memory(device, peak=True) / MB
    if what.blocks is not None:
        figures["perplexity"] = _perplexity(model, what.blocks, what.num_blocks)
    return {**figures, "machine": _machine(device)}


def weights_size(folder: Path) -> int:
    """Bytes of the files that hold weights."""
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


class _Clock:
    """Told by `generate` of the prompt, then of each token, when it is on the host."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def put(self, value: Any) -> None:
        self.times.append(time.perf_counter())

    def end(self) -> None:
        pass


def _generation(model: Any, what: Measurement, batch_size: int, before: int) -> dict[str, Any]:
    """Tokens a second of reading the prompt and of writing after it, and the peak memory of both."""
    _forget_peak(model.device.type)
    runs = [_generate(model, what, batch_size) for _ in range(1 + what.repeats)][1:]
    prompt, new = batch_size * what.prompt_tokens, batch_size * (what.new_tokens - 1)  # prefill gives the first
    peak = _memory(model.device.type, peak=True)
    return {
        "batch_size": batch_size,
        "prefill_tokens_per_second": median(prompt / prefill for prefill, _ in runs),
        "decode_tokens_per_second": median(new / decode for _, decode in runs),
        "peak_memory_mb": (peak - before) / MB,
    }


def _generate(model: Any, what: Measurement, batch_size: int) -> tuple[float, float]:
    """Seconds of the prompt, and of the tokens after the first."""
    import torch
    from transformers import GenerationConfig

    prompts = torch.randint(
        model.config.vocab_size, (batch_size, what.prompt_tokens), generator=torch.Generator().manual_seed(0)
    ).to(model.device)
    length = {"min_new_tokens": what.new_tokens, "max_new_tokens": what.new_tokens}
    config = GenerationConfig(**length, do_sample=False, pad_token_id=0, eos_token_id=None)
    clock = _Clock()
    mask = torch.ones_like(prompts)
    model.generate(prompts, attention_mask=mask, generation_config=config, streamer=clock)
    start, first, *_, last = clock.times
    return first - start, last - first


def _perplexity(model: Any, blocks: str, num_blocks: int) -> float:
    """Perplexity over the first blocks of the validation split."""
    import torch
    from torch.nn import functional as F

    from pd_lightning.data.batch import BlockDataset, collate
    from pd_lightning.store.reader import BlockReader

    data = BlockDataset(BlockReader(blocks, "val"))
    total = tokens = 0.0
    for index in range(min(num_blocks, len(data))):
        batch = {name: tensor.to(model.device) for name, tensor in collate(data[[index]]).items()}
        given = {name: batch[name] for name in ("input_ids", "position_ids") if name in batch}
        with torch.no_grad():
            logits = model(**given, use_cache=False).logits.float()
        labels = batch["labels"].flatten()
        total += float(F.cross_entropy(logits.flatten(0, 1), labels, ignore_index=-100, reduction="sum"))
        tokens += int((labels != -100).sum())
    return math.exp(total / tokens)


def _memory(device: str, *, peak: bool = False) -> int:
    """Bytes of this process, or of the GPU: now, or at most since `_forget_peak`."""
    if device == "cuda":
        import torch

        return torch.cuda.max_memory_allocated() if peak else torch.cuda.memory_allocated()
    status = Path("/proc/self/status")
    if status.is_file():
        field = "VmHWM:" if peak else "VmRSS:"
        (line,) = (line for line in status.read_text().splitlines() if line.startswith(field))
        return int(line.split()[1]) * 1024  # the kernel's kB
    import resource

    size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return size if sys.platform == "darwin" else size * 1024


def _forget_peak(device: str) -> None:
    """Begin anew with the peak: loading is no generating."""
    if device == "cuda":
        import torch

        torch.cuda.reset_peak_memory_stats()
    elif os.access("/proc/self/clear_refs", os.W_OK):
        Path("/proc/self/clear_refs").write_text("5")


def _machine(device: str) -> dict[str, Any]:
    import torch
    import transformers

    gpu = {"gpu": torch.cuda.get_device_name()} if device == "cuda" else {}
    return {
        **gpu,
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "system": platform.platform(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


if __name__ == "__main__":
    fields = json.loads(sys.argv[1])
    print(json.dumps(measure(Measurement(**{**fields, "batch_sizes": tuple(fields["batch_sizes"])}))))
