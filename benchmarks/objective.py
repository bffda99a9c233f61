"""The objective with its projection onto the vocabulary, forward and backward, beside what others do.

    python benchmarks/objective.py                                          one shape, on a CPU
    python benchmarks/objective.py --shapes 1024x131072x512 4096x32768x512  N x V x D
    python benchmarks/objective.py --device cuda --dtype bfloat16 --shapes 8192x131072x2048

Two tracks that are never mixed: A, a dense teacher whose hidden states (twice as wide) are projected too; B, stored
top-k targets with a bucket, beside the LM loss. All are run in turn, in one process; times are medians, memory is the
peak above what the inputs take, and includes the gradient of the head. Rivals that are not installed are left out:
`pip install --no-deps liger-kernel==0.8.5 trl==1.16.0 accelerate cut-cross-entropy`; the last, and Liger's Triton
kernels, run on a GPU alone. DistillKit's and torchtune's formulas are written out in rivals.py after their definitions.
Writes tables and the same figures as JSON.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from rivals import (
    KD_WEIGHT,
    cut_cross_entropy_lm,
    distillkit_sparse,
    liger,
    liger_jsd_triton,
    liger_lm_triton,
    lm,
    naive_dense,
    naive_sparse,
    torchtune_dense,
    trl,
)
from torch import Tensor

from pd_lightning.objective import Objective
from pd_lightning.objective.chunking import rows_per_chunk
from pd_lightning.targets import HiddenTargets, SparseTargets
from pd_lightning.targets.heads import Head, LinearHead

MIB = 2**20


@dataclass
class Inputs:
    """Hidden states of student and teacher `[N, D]` and `[N, 2 D]`, their heads, labels, and stored targets."""

    hidden: Tensor
    weight: Tensor
    teacher_hidden: Tensor
    teacher_weight: Tensor
    labels: Tensor
    stored: SparseTargets
    buffer: Tensor

    @property
    def head(self) -> Head:
        weight = self.weight
        return Head(lambda hidden: hidden @ weight.T, (weight,), len(weight), LinearHead(weight))

    @property
    def dense(self) -> HiddenTargets:
        weight = self.teacher_weight
        return HiddenTargets(self.teacher_hidden, Head(lambda hidden: hidden @ weight.T, linear=LinearHead(weight)))


def inputs(N: int, V: int, D: int, K: int, device: str, dtype: torch.dtype) -> Inputs:
    torch.manual_seed(0)
    like: Any = {"device": device, "dtype": dtype}
    hidden, weight = torch.randn(N, D, **like), torch.randn(V, D, **like).mul_(D**-0.5)
    teacher_hidden, teacher_weight = torch.randn(N, 2 * D, **like), torch.randn(V, 2 * D, **like).mul_(D**-0.5)
    stored = []
    for rows in torch.arange(N).split(64):  # the teacher's own top k, a few rows at a time
        logprobs = (teacher_hidden[rows] @ teacher_weight.T).float().log_softmax(-1)
        values, ids = logprobs.topk(K)
        stored.append((ids, values, logprobs.scatter(-1, ids, -torch.inf).logsumexp(-1)))
    targets = SparseTargets(*(torch.cat(part) for part in zip(*stored, strict=True)))
    labels = torch.randint(V, (N,), device=device)
    rows = min(N, rows_per_chunk(V, hidden))
    # Laid as ours are.
    buffer = torch.empty(V, rows, device=device).t() if device == "cpu" else torch.empty(rows, V, device=device)
    grown = (hidden.requires_grad_(), weight.requires_grad_())
    return Inputs(*grown, teacher_hidden, teacher_weight, labels, targets, buffer)


def ours(x: Inputs, targets: Any, kd_weight: float) -> Tensor:
    return Objective()(x.hidden[None], x.head, x.labels[None], targets, kd_weight).loss / len(x.labels)


def bare(x: Inputs, teacher: bool) -> None:
    """The matrix products that no chunked loss can do without, in the same chunks, with buffers that are there."""
    with torch.no_grad():
        weight_grad, size = torch.zeros_like(x.weight, dtype=torch.float32), len(x.buffer)
        for rows in torch.arange(len(x.labels)).split(size):
            part = slice(int(rows[0]), int(rows[-1]) + 1)
            hidden, logits = x.hidden[part], x.buffer[: len(rows)]
            if teacher:
                product(x.teacher_hidden[part], x.teacher_weight.T, logits)
            product(hidden, x.weight.T, logits)
            narrow = logits.to(hidden.dtype)
            narrow @ x.weight
            if weight_grad.dtype == narrow.dtype:
                weight_grad.addmm_(narrow.T, hidden)
            else:
                weight_grad.add_(narrow.T @ hidden)


def product(a: Tensor, b: Tensor, out: Tensor) -> None:
    if a.dtype == out.dtype:
        torch.mm(a, b, out=out)
    else:
        out.copy_(a @ b)


TRACKS: dict[str, dict[str, Callable[[Inputs], Tensor | None]]] = {
    "A: dense online, KD alone": {
        "ours": lambda x: ours(x, x.dense, 1.0),
        "Liger, chunk 128": liger,
        "TRL chunked": trl,
        "torchtune's formula, 8 chunks": torchtune_dense,
        "naive": naive_dense,
        "bare matrix products": lambda x: bare(x, True),
    },
    "B: stored top-k, LM + KD": {
        "ours": lambda x: ours(x, x.stored, KD_WEIGHT),
        "ours, LM alone": lambda x: ours(x, None, 0.0),
        "linear + cross_entropy, LM alone": lm,
        "DistillKit's formula": distillkit_sparse,
        "naive": naive_sparse,
        "bare matrix products": lambda x: bare(x, False),
    },
}

# Kernels that need a GPU.
TRITON: dict[str, dict[str, Callable[[Inputs], Tensor | None]]] = {
    "A: dense online, KD alone": {"Liger's Triton kernel": liger_jsd_triton},
    "B: stored top-k, LM + KD": {
        "Liger's Triton kernel, LM alone": liger_lm_triton,
        "cut cross-entropy, LM alone": cut_cross_entropy_lm,
    },
}


def step(function: Callable[[Inputs], Tensor | None], x: Inputs) -> None:
    x.hidden.grad = x.weight.grad = None
    loss = function(x)
    if loss is not None:
        loss.backward()
    if x.hidden.is_cuda:
        torch.cuda.synchronize()


def seconds(function: Callable[[Inputs], Tensor | None], x: Inputs) -> float:
    started = time.perf_counter()
    step(function, x)
    return time.perf_counter() - started


def extra_bytes(function: Callable[[Inputs], Tensor | None], x: Inputs) -> int:
    """Peak memory of a step above what was there before it."""
    x.hidden.grad = x.weight.grad = None
    return peak_bytes(lambda: step(function, x), x.hidden.device.type)


def peak_bytes(action: Callable[[], object], device: str) -> int:
    """Peak memory of an action above what was there before it."""
    release()
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        action()
        return torch.cuda.max_memory_allocated() - before
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = resident("VmRSS")
    action()
    return resident("VmHWM") - before


def release() -> None:
    """Give freed memory back to the system: what is still there would hide a peak."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def resident(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(field))


def measure(track: str, x: Inputs, rounds: int, only: list[str] | None) -> dict[str, dict[str, float]]:
    """Time and memory of every way, one after another, several times."""
    all_ways = TRACKS[track] | (TRITON[track] if x.hidden.is_cuda else {})
    ways = {name: way for name, way in all_ways.items() if only is None or any(part in name for part in only)}
    memory = {}
    for name, way in list(ways.items()):
        try:
            step(way, x)  # what is made once is no part of it
        except ImportError:
            ways.pop(name)
            continue
        memory[name] = extra_bytes(way, x)
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            times[name].append(seconds(way, x))
    head = x.weight.numel() * x.weight.element_size()
    return {
        name: {
            "seconds": statistics.median(times[name]),
            "extra_mib": memory[name] / MIB,
            "extra_mib_beyond_head_gradient": (memory[name] - head) / MIB,
        }
        for name in ways
    }


def show(title: str, rows: dict[str, dict[str, float]], console: Console) -> None:
    table = Table(title=title, title_justify="left")
    for heading in ("", "seconds", "time to ours", "extra MiB", "less the head's gradient"):
        table.add_column(heading, justify="right" if heading else "left")
    first = rows.get("ours", next(iter(rows.values())))["seconds"]
    for name, row in rows.items():
        figures = (row["extra_mib"], row["extra_mib_beyond_head_gradient"])
        table.add_row(name, f"{row['seconds']:.3f}", f"{row['seconds'] / first:.2f}", *(f"{f:,.0f}" for f in figures))
    console.print(table)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", default=["1024x131072x512"], help="N x V x D")
    parser.add_argument("--k", type=int, default=64)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tracks", default="AB")
    parser.add_argument("--only", nargs="+", help="parts of the names of what to run")
    parser.add_argument("--json", default="objective.json", help="file to write the figures to")
    settings = parser.parse_args(argv)
    torch.set_num_threads(settings.threads)
    console, found = Console(width=120), []
    for shape in settings.shapes:
        N, V, D = (int(size) for size in shape.split("x"))
        x = inputs(N, V, D, settings.k, settings.device, getattr(torch, settings.dtype))
        for track in TRACKS:
            if track[0] in settings.tracks:
                rows = measure(track, x, settings.rounds, settings.only)
                show(f"{track}; N {N:,}, V {V:,}, D {D}, K {settings.k}, {settings.dtype}", rows, console)
                found.append({"track": track, "N": N, "V": V, "D": D, "K": settings.k, "rows": rows})
        del x
    about = {
        "torch": torch.__version__,
        "device": settings.device,
        "threads": settings.threads,
        "dtype": settings.dtype,
    }
    Path(settings.json).write_text(json.dumps({**about, "rounds": settings.rounds, "runs": found}, indent=1))


if __name__ == "__main__":
    main()
