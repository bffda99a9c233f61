"""How the cost of the objective grows with V, N, K and D, and that of a training step with the size of the model.

    python benchmarks/scaling.py                                    one axis at a time around a base, on a CPU
    python benchmarks/scaling.py --device cuda --dtype bfloat16 --base 4096x32768x1024x64 --students 512x8 1024x16

The objective is measured as in objective.py, whose inputs and ways these are: LM loss and forward KL of stored top-k
targets, with the projection onto the vocabulary, forward and backward. Memory is the peak above what the inputs take.
An exponent is the slope of a straight line through the logarithms: 1 where twice as much costs twice as much. Steps are
those of a plain PyTorch loop on one batch; their memory is the peak above weights and optimizer state. All that a table
holds takes turns, in one process; times and their ratios are medians over the rounds. Writes tables and the same
figures as JSON.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from made_up import llama
from objective import MIB, Inputs, extra_bytes, inputs, ours, peak_bytes, release, seconds
from objective import step as objective_step
from rich.console import Console
from rich.table import Table
from rivals import KD_WEIGHT, naive_sparse
from step import BareLoop, Batch, mean_loss, now, our_objective
from torch import Tensor, nn

from pd_lightning.targets import Targets

AXES = ("N", "V", "D", "K")
PARTS = ("lm_step", "lm_objective", "offline_step", "offline_objective")
WAYS: dict[str, Callable[[Inputs], Tensor]] = {
    "ours": lambda x: ours(x, x.stored, KD_WEIGHT),
    "ours, LM alone": lambda x: ours(x, None, 0.0),
    "naive": naive_sparse,
}


def exponent(sizes: list[float], costs: list[float]) -> float | None:
    """Slope of log cost over log size; None where there is nothing to take it of."""
    if len(sizes) < 2 or min(costs) <= 0:
        return None
    return float(np.polyfit(np.log(sizes), np.log(costs), 1)[0])


def axis(name: str, values: list[int], base: dict[str, int], settings: argparse.Namespace) -> dict[str, Any]:
    """Time and memory of every way at all values of one size, the others as in the base."""
    dtype = getattr(torch, settings.dtype)
    shapes = {value: base | {name: value} for value in sorted({*values, base[name]})}
    given = {value: inputs(**shape, device=settings.device, dtype=dtype) for value, shape in shapes.items()}
    cells = [(value, way) for value in given for way in WAYS]
    memory: dict[tuple[int, str], float] = {}
    for value, way in cells:
        objective_step(WAYS[way], given[value])  # what is made once is no part of it
        memory[value, way] = extra_bytes(WAYS[way], given[value]) / MIB
    times: dict[tuple[int, str], list[float]] = {cell: [] for cell in cells}
    for number in range(settings.rounds):
        for value, way in cells[:: -1 if number % 2 else 1]:
            times[value, way].append(seconds(WAYS[way], given[value]))
    rows = []
    for value, way in cells:
        weight = given[value].weight
        rows.append(
            {
                name: value,
                "way": way,
                "seconds": statistics.median(times[value, way]),
                "extra_mib": memory[value, way],
                "extra_mib_beyond_head_gradient": memory[value, way] - weight.numel() * weight.element_size() / MIB,
            }
        )
    exponents = {way: {key: of_rows(rows, name, way, key) for key in ("seconds", "extra_mib")} for way in WAYS}
    return {"axis": name, "base": base, "rows": rows, "exponents": exponents}


def of_rows(rows: list[dict[str, Any]], name: str, way: str, key: str) -> float | None:
    mine = [row for row in rows if row["way"] == way]
    return exponent([row[name] for row in mine], [row[key] for row in mine])


def clocked(action: Callable[[], object], device: str) -> float:
    started = now(device)
    action()
    return now(device) - started


class Steps:
    """Training steps of a student on one batch, and the objective of such a step by itself."""

    def __init__(self, model: nn.Module, batch: Batch, targets: Targets | None, device: str, precision: str) -> None:
        self.loop = BareLoop(model, partial(our_objective, targets=targets), device, precision)
        self.batch, self.targets = batch, targets
        self.step()  # makes the optimizer's state
        with torch.no_grad():
            self.hidden = self.loop.model.hidden(batch["input_ids"])

    def step(self) -> None:
        self.loop.step(self.batch)

    def objective(self) -> None:
        """Loss and gradients of the step's hidden states and head."""
        hidden = self.hidden.clone().requires_grad_()
        mean_loss(self.loop.model.head, hidden, self.batch, self.targets).backward()
        self.loop.optimizer.zero_grad()


def models(settings: argparse.Namespace) -> dict[str, Any]:
    """Time and memory of a step of each student, without and with stored targets, and of its objective."""
    V, T, B, device = settings.vocab_size, settings.block_size, settings.batch_size, settings.device
    precision = "bf16-true" if settings.dtype == "bfloat16" else "32-true"
    made = inputs(B * T, V, 16, settings.k, device, torch.float32)
    batch = {"input_ids": torch.randint(V, (B, T), device=device), "labels": made.labels.view(B, T)}
    rows: list[dict[str, Any]] = []
    cells: list[tuple[dict[str, Any], str, Callable[[], None]]] = []
    for size in settings.students:
        model = llama(size, V, T)
        rows.append({"student": size, "parameters": sum(p.numel() for p in model.parameters())})
        for name, targets in (("lm", None), ("offline", made.stored)):
            steps = Steps(model, batch, targets, device, precision)
            rows[-1][f"{name}_step_mib"] = peak_bytes(steps.step, device) / MIB
            cells += [(rows[-1], f"{name}_step", steps.step), (rows[-1], f"{name}_objective", steps.objective)]
    times: list[list[float]] = [[] for _ in cells]
    for number in range(settings.rounds):
        for index in range(len(cells))[:: -1 if number % 2 else 1]:
            times[index].append(clocked(cells[index][2], device))
    rounds = {(row["student"], name): took for (row, name, _), took in zip(cells, times, strict=True)}
    for row in rows:
        took = {name: rounds[row["student"], name] for name in PARTS}
        row |= {f"{name}_seconds": statistics.median(of) for name, of in took.items()}
        row["offline_to_lm"] = ratio(took["offline_step"], took["lm_step"])
        row["lm_objective_share"] = ratio(took["lm_objective"], took["lm_step"])
        row["offline_objective_share"] = ratio(took["offline_objective"], took["offline_step"])
    sizes = [row["parameters"] for row in rows]
    costs = ("lm_step_seconds", "offline_step_seconds", "lm_step_mib", "offline_step_mib")
    exponents = {cost: exponent(sizes, [row[cost] for row in rows]) for cost in costs}
    return {"shape": f"{B} x {T} tokens, V {V:,}, K {settings.k}", "rows": rows, "exponents": exponents}


def ratio(ones: list[float], others: list[float]) -> float:
    """Median over the rounds."""
    return statistics.median(one / other for one, other in zip(ones, others, strict=True))


def show_axis(found: dict[str, Any], console: Console) -> None:
    name, base = found["axis"], found["base"]
    others = ", ".join(f"{other} {size:,}" for other, size in base.items() if other != name)
    table = Table(title=f"{name}, with {others}", title_justify="left")
    for heading in (name, "", "seconds", "to base", "extra MiB", "to base", "less the head's gradient"):
        table.add_column(heading, justify="right" if heading else "left")
    bases = {row["way"]: row for row in found["rows"] if row[name] == base[name]}
    for row in found["rows"]:
        first = bases[row["way"]]
        memory = f"{row['extra_mib'] / first['extra_mib']:.2f}" if first["extra_mib"] else ""
        cells = (
            f"{row['seconds']:.4f}",
            f"{row['seconds'] / first['seconds']:.2f}",
            f"{row['extra_mib']:,.1f}",
            memory,
        )
        table.add_row(f"{row[name]:,}", row["way"], *cells, f"{row['extra_mib_beyond_head_gradient']:,.1f}")
    console.print(table)
    for way, of in found["exponents"].items():
        console.print(f"{way}: time ~ {name}^{written(of['seconds'])}, memory ~ {name}^{written(of['extra_mib'])}")


def show_models(found: dict[str, Any], console: Console) -> None:
    table = Table(title=f"A training step; {found['shape']}", title_justify="left")
    headings = (
        "parameters",
        "LM, s",
        "offline, s",
        "ratio",
        "objective of LM",
        "of offline",
        "LM, MiB",
        "offline, MiB",
    )
    for heading in ("student", *headings):
        table.add_column(heading, justify="right")
    for row in found["rows"]:
        cells = [row["student"], f"{row['parameters']:,}"]
        cells += [f"{row[name]:.3f}" for name in ("lm_step_seconds", "offline_step_seconds", "offline_to_lm")]
        cells += [f"{row[name]:.1%}" for name in ("lm_objective_share", "offline_objective_share")]
        table.add_row(*cells, *(f"{row[name]:,.0f}" for name in ("lm_step_mib", "offline_step_mib")))
    console.print(table)
    for cost, value in found["exponents"].items():
        console.print(f"{cost} ~ parameters^{written(value)}")


def written(value: float | None) -> str:
    return "?" if value is None else f"{value:.2f}"


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", default="1024x32768x256x64", help="N x V x D x K")
    parser.add_argument("--N", type=int, nargs="*", default=[256, 1024, 4096], help="none leaves the axis out")
    parser.add_argument("--V", type=int, nargs="*", default=[8192, 32768, 131072])
    parser.add_argument("--D", type=int, nargs="*", default=[])
    parser.add_argument("--K", type=int, nargs="*", default=[1, 16, 64, 256])
    parser.add_argument("--students", nargs="*", default=["96x2", "256x4", "512x5"], help="hidden size x layers")
    parser.add_argument("--vocab_size", type=int, default=8192, help="of the students")
    parser.add_argument("--block_size", type=int, default=256, help="of the students' batch")
    parser.add_argument("--batch_size", type=int, default=4, help="of the students' batch")
    parser.add_argument("--k", type=int, default=50, help="of the students' targets")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", default="scaling.json", help="file to write the figures to")
    settings = parser.parse_args(argv)
    torch.set_num_threads(settings.threads)
    gc.freeze()  # or each collection would look through all that is imported
    base = dict(zip(("N", "V", "D", "K"), (int(size) for size in settings.base.split("x")), strict=True))
    console, axes = Console(width=120), []
    for name in AXES:
        if values := getattr(settings, name):
            axes.append(axis(name, values, base, settings))
            show_axis(axes[-1], console)
            release()
    found = models(settings) if settings.students else None
    if found:
        show_models(found, console)
    figures = {
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name() if settings.device == "cuda" else f"cpu, {settings.threads} threads",
        "settings": {name: value for name, value in vars(settings).items() if name != "json"},
        "axes": axes,
        "models": found,
    }
    Path(settings.json).write_text(json.dumps(figures, indent=1) + "\n")
    gc.unfreeze()


if __name__ == "__main__":
    main()
