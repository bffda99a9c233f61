"""How long `pd-lightning fit` takes from its start to its first optimizer step, beside the imports alone.

    python benchmarks/startup.py                       5 starts of each, taken in turn
    python benchmarks/startup.py --overlay offline     the student that learns from a store

Each start is a process of its own: the demo's YAML on made-up blocks of the demo's size, and a process that only
imports torch, lightning and transformers. Time runs from before the process is made; CPU time is the process's own.
Other work on the machine can only lengthen a start, so the shortest of several counts. Writes a table and the same
figures as JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import lightning.pytorch as pl

NAMES = ("seconds", "cpu_seconds")
ROOT = Path(__file__).resolve().parents[1]
IMPORTS = "import sys, torch, lightning, transformers; import startup; startup.mark(sys.argv[1])"


def mark(path: str | Path) -> None:
    """Write down the time, and the CPU time of this process."""
    Path(path).write_text(json.dumps({"seconds": time.time(), "cpu_seconds": time.process_time()}))


class FirstStep(pl.Callback):
    """Writes down when the first optimizer step is done.

    Args:
        path: The file to write to.
    """

    def __init__(self, path: str) -> None:
        self.path = path

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step == 1:
            mark(self.path)


def fit_command(folder: Path, data: Path, overlay: str | None) -> list[str]:
    """`pd-lightning fit` on the demo's YAML, for one step."""
    configs = ["student"] + ([overlay] if overlay else [])
    files = [part for name in configs for part in ("--config", str(ROOT / "configs" / "demo" / f"{name}.yaml"))]
    callback = json.dumps({"class_path": "startup.FirstStep", "init_args": {"path": str(folder / "mark")}})
    changes = {"data.path": data, "trainer.default_root_dir": folder / "run", "trainer.max_steps": 1}
    changes |= {"trainer.limit_val_batches": 0}  # the made-up data are all for training
    overrides = [f"--{name}={value}" for name, value in changes.items()]
    return ["-m", "pd_lightning", "fit", *files, *overrides, f"--trainer.callbacks+={callback}"]


def start(command: list[str], marked: Path) -> dict[str, float]:
    """Seconds from the start of a Python process to what it writes down."""
    path = os.pathsep.join(filter(None, [str(Path(__file__).parent), os.environ.get("PYTHONPATH")]))
    began = time.time()
    subprocess.run([sys.executable, *command], check=True, capture_output=True, env={**os.environ, "PYTHONPATH": path})
    found = json.loads(marked.read_text())
    return {**found, "seconds": found["seconds"] - began}


def measure(rounds: int, data: Path, overlay: str | None) -> dict[str, list[dict[str, float]]]:
    """Each start's seconds, fit and imports in turn."""
    found: dict[str, list[dict[str, float]]] = {"fit": [], "imports": []}
    for _ in range(rounds):
        with TemporaryDirectory() as temporary:
            folder = Path(temporary)
            found["fit"].append(start(fit_command(folder, data, overlay), folder / "mark"))
            found["imports"].append(start(["-c", IMPORTS, str(folder / "mark")], folder / "mark"))
    return found


def summary(starts: list[dict[str, float]]) -> dict[str, float]:
    """The shortest and the median, of time and of CPU time."""
    found = {}
    for name in NAMES:
        values = sorted(start[name] for start in starts)
        found |= {f"shortest_{name}": values[0], f"median_{name}": values[len(values) // 2]}
    return found


def make_data(folder: Path, overlay: str | None) -> Path:
    """Blocks of the demo's shape, or a store of some of them."""
    from made_up import be_quiet, record, teacher, write_blocks

    be_quiet()
    if overlay != "offline":
        return write_blocks(folder / "blocks", 4800, 128, 4096)
    blocks = write_blocks(folder / "blocks", 256, 128, 4096)
    return record(folder / "store", blocks, teacher("64x1", 4096, 128), "cpu")


def show(figures: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    names = list(figures["fit"])
    table = Table("", *(name.replace("_", " ") for name in names))
    for row in ("fit", "imports", "beyond"):
        table.add_row(row, *(f"{figures[row][name]:.2f}" if name in figures[row] else "" for name in names))
    Console(width=120).print(table)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--overlay", choices=["offline"], help="of configs/demo, over its student")
    parser.add_argument("--json", default="startup.json", help="file to write the figures to")
    settings = parser.parse_args(argv)
    with TemporaryDirectory() as temporary:
        data = make_data(Path(temporary), settings.overlay)
        found = measure(settings.rounds, data, settings.overlay)
    fit, imports = (summary(found[name]) for name in ("fit", "imports"))
    shortest = [name for name in fit if name.startswith("shortest")]
    figures = {
        "settings": {"rounds": settings.rounds, "overlay": settings.overlay},
        "cores": os.cpu_count(),
        "fit": fit,
        "imports": imports,
        "beyond": {name: fit[name] - imports[name] for name in shortest},
    }
    show(figures)
    Path(settings.json).write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
