"""Whether memory stays flat: in the steps of a training, and in the size of its corpus.

    python benchmarks/memory.py                        2,000 steps from a store, then a store ten times as large
    python benchmarks/memory.py --device cuda

Each training is `Trainer.fit` of a small student from a logit store, in a process of its own, which notes its memory
after each step. In the steps: the slope of a least-squares line through the last steps, in KiB a step. In the corpus:
the peaks within the first --short steps on either store. Resident memory counts pages of the store that are mapped,
which the system takes back when it needs them; `anonymous` is what it can't. Writes tables and the same figures as
JSON.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.loggers import CSVLogger
from made_up import QUIET, be_quiet, llama, record, teacher, write_blocks
from rich.console import Console
from rich.table import Table

from pd_lightning.data import TokenBlocks
from pd_lightning.module import DistillationModule
from pd_lightning.teachers import OfflineTeacher

MIB = 2**20
FIELDS = {"resident": "VmRSS", "anonymous": "RssAnon", "mapped_files": "RssFile", "peak_resident": "VmHWM"}


def memory(device: str) -> dict[str, int]:
    """Memory of this process, in bytes: see `FIELDS`; on a GPU, what tensors take there too."""
    lines = Path("/proc/self/status").read_text().splitlines()
    status = {name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in lines) if "kB" in rest}
    found = {name: 1024 * status[field] for name, field in FIELDS.items()}
    if device == "cuda":
        found |= {"gpu": torch.cuda.memory_allocated(), "peak_gpu": torch.cuda.max_memory_allocated()}
    return found


class Memory(pl.Callback):
    """Notes the memory after each step."""

    def __init__(self, steps: int, device: str) -> None:
        self.device = device
        # Made before the first step: a list would grow with them. A page is touched when it is written.
        self.samples = {name: np.ones(steps, dtype=np.int64) for name in memory(device)}

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        for name, value in memory(self.device).items():
            self.samples[name][trainer.global_step - 1] = value


def train(settings: argparse.Namespace, store: Path, steps: int) -> dict[str, list[int]]:
    """Train a student from a store, in this process; give the memory after each step."""
    torch.set_num_threads(settings.threads)
    be_quiet()
    notes = Memory(steps, settings.device)
    trainer = pl.Trainer(
        **{**QUIET, "logger": CSVLogger(store.parent, "logs")},
        accelerator=settings.device,
        devices=1,
        precision=settings.precision,
        max_steps=steps,
        max_epochs=-1,
        limit_val_batches=0,
        enable_checkpointing=False,
        use_distributed_sampler=False,
        callbacks=[notes],
        default_root_dir=store.parent,
    )
    student = llama(settings.student, settings.vocab_size, settings.block_size)
    data = TokenBlocks(str(store), settings.batch_size, num_workers=settings.workers)
    trainer.fit(DistillationModule(student, OfflineTeacher()), data)
    return {name: values.tolist() for name, values in notes.samples.items()}


def apart(argv: list[str], store: Path, steps: int, folder: Path) -> dict[str, np.ndarray]:
    """The same in a new process."""
    target = folder / "samples.json"
    command = [sys.executable, __file__, *argv, f"--child={store}", f"--steps={steps}", f"--json={target}"]
    subprocess.run(command, check=True)
    return {name: np.array(values) for name, values in json.loads(target.read_text()).items()}


def slopes(samples: dict[str, np.ndarray], skip: int) -> dict[str, float]:
    """KiB a step of each kind of memory, by a least-squares line through all but the first steps."""
    return {
        f"{name}_kib_per_step": float(np.polyfit(np.arange(len(values) - skip), values[skip:] / 1024, 1)[0])
        for name, values in samples.items()
        if "peak" not in name
    }


def of_steps(samples: dict[str, np.ndarray], skip: int) -> dict[str, Any]:
    every = max(1, len(samples["resident"]) // 100)
    return {
        "steps": len(samples["resident"]),
        "skipped": skip,
        **slopes(samples, skip),
        "resident_mib": [round(value / MIB, 3) for value in samples["resident"][::every].tolist()],
    }


def of_corpus(samples: dict[str, np.ndarray], store: Path) -> dict[str, Any]:
    peaks = {name: values.max() / MIB for name, values in samples.items() if name != "resident"}
    size = sum(path.stat().st_size for path in store.rglob("chunk-*.bin"))
    return {"store_mib": size / MIB, **{f"{name.removeprefix('peak_')}_peak_mib": peak for name, peak in peaks.items()}}


def make_stores(settings: argparse.Namespace, folder: Path) -> list[Path]:
    """Two stores, one of them `--times` as large."""
    T, V = settings.block_size, settings.vocab_size
    stores = []
    for name, number in (("small", settings.blocks), ("large", settings.blocks * settings.times)):
        blocks = write_blocks(folder / f"{name}-blocks", number, T, V)
        stores.append(record(folder / name, blocks, teacher(settings.teacher, V, T), settings.device))
    return stores


def show(figures: dict[str, Any]) -> None:
    console, steps, corpora = Console(width=120), figures["steps"], figures["corpora"]
    console.print(f"{steps['steps']:,} steps, the first {steps['skipped']:,} left out; {figures['device']}")
    table = Table("memory")
    table.add_column("KiB a step", justify="right")
    for name, value in steps.items():
        if name.endswith("_kib_per_step"):
            table.add_row(name.removesuffix("_kib_per_step").replace("_", " "), f"{value:.3f}")
    console.print(table)
    console.print(f"the first {figures['settings']['short']:,} steps from a store and from a larger one")
    table = Table("MiB")
    for heading in ("small", "large", "ratio"):
        table.add_column(heading, justify="right")
    for name, value in corpora["small"].items():
        cells = (f"{value:,.1f}", f"{corpora['large'][name]:,.1f}", f"{figures['ratios'][name]:.3f}")
        table.add_row(name.removesuffix("_mib").replace("_", " "), *cells)
    console.print(table)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=2000, help="of the training that slopes are taken of")
    parser.add_argument("--skip", type=int, default=500, help="first steps that the slope leaves out")
    parser.add_argument("--short", type=int, default=300, help="first steps, which peaks are taken of")
    parser.add_argument("--blocks", type=int, default=1024, help="of the smaller store")
    parser.add_argument("--times", type=int, default=10, help="how much larger the larger store is")
    parser.add_argument("--student", default="32x1", help="hidden size x layers")
    parser.add_argument("--teacher", default="32x1", help="of the store")
    parser.add_argument("--vocab_size", type=int, default=1024)
    parser.add_argument("--block_size", type=int, default=64)
    parser.add_argument("--batch_size", type=int, default=4)
    parser.add_argument("--workers", type=int, default=0, help="processes that read and decode")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--precision", default="32-true", choices=["32-true", "bf16-mixed", "bf16-true"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", default="memory.json", help="file to write the figures to")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    settings = parser.parse_args(argv)
    if settings.child:
        Path(settings.json).write_text(json.dumps(train(settings, settings.child, settings.steps)))
        return
    torch.set_num_threads(settings.threads)
    be_quiet()
    given = list(sys.argv[1:] if argv is None else argv)
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        small, large = make_stores(settings, folder)
        samples = apart(given, small, settings.steps, folder)
        steps = of_steps(samples, settings.skip)
        first = {name: values[: settings.short] for name, values in samples.items()}
        others = apart(given, large, settings.short, folder)
        corpora = {"small": of_corpus(first, small), "large": of_corpus(others, large)}
    figures = {
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name() if settings.device == "cuda" else f"cpu, {settings.threads} threads",
        "settings": {name: value for name, value in vars(settings).items() if name not in ("json", "child")},
        "steps": steps,
        "corpora": corpora,
        "ratios": {name: corpora["large"][name] / value for name, value in corpora["small"].items()},
    }
    show(figures)
    Path(settings.json).write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
