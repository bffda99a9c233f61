"""What a training step costs: plain PyTorch, Lightning, a recorded teacher, a live one.

    python benchmarks/step.py                                                a student of 5M parameters, on a CPU
    python benchmarks/step.py --device cuda --precision bf16-mixed --student 1024x16 --teacher 2048x16

The bare ways are loops in plain PyTorch over batches that are on the device already, with the optimizer, the groups of
parameters and the first weights that the Lightning ways have too; the Lightning ways are `Trainer.fit` of a
DistillationModule over TokenBlocks, data loading and a CSV logger included. No way clips gradients, and none has
validation, checkpoints or a progress bar. All ways take turns, in one process, forth and back; each turn starts anew
and is the mean over --steps steps after --warm_up others; figures are medians over the rounds, and so are ratios, of
turns in the same round. The device is waited for at both ends of a turn, never within it. Lightning writes its log each
--log_every steps: with fewer steps in a turn, that is not timed. Writes tables and the same figures as JSON.
"""

from __future__ import annotations

import argparse
import copy
import gc
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.loggers import CSVLogger
from made_up import QUIET, be_quiet, llama, record, teacher, write_blocks
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional as F

from pd_lightning.data import TokenBlocks
from pd_lightning.data.batch import BlockDataset, collate
from pd_lightning.language_model import LanguageModel
from pd_lightning.module import DistillationModule
from pd_lightning.module.optimization import default_optimizer, parameter_groups
from pd_lightning.objective import Objective
from pd_lightning.store.reader import BlockReader
from pd_lightning.targets import Targets
from pd_lightning.targets.heads import Head
from pd_lightning.teachers import FrozenTeacher, NoTeacher, OfflineTeacher, Teacher

MIB = 2**20
KD_WEIGHT = 0.9
Batch = dict[str, Tensor]

# Each is one way to the other in the same round.
RATIOS = {
    "our objective to the model's own logits, bare": ("bare: our objective", "bare: the model's own logits"),
    "Lightning to bare, LM alone": ("Lightning: LM alone", "bare: our objective"),
    "Lightning to bare, stored targets": ("Lightning: offline PD", "bare: our objective, stored targets"),
    "stored targets to LM alone, bare": ("bare: our objective, stored targets", "bare: our objective"),
    "offline PD to LM alone": ("Lightning: offline PD", "Lightning: LM alone"),
    "online PD to offline PD": ("Lightning: online PD", "Lightning: offline PD"),
}


class BareLoop:
    """Training steps of a model in plain PyTorch, without Lightning.

    Args:
        model: The model; it stays as it is, a copy is trained.
        loss: Mean loss of a batch.
        device: Where to train.
        precision: 32-true, bf16-mixed or bf16-true, as Lightning has them.
    """

    def __init__(
        self, model: nn.Module, loss: Callable[[LanguageModel, Batch], Tensor], device: str, precision: str
    ) -> None:
        dtype = torch.bfloat16 if precision == "bf16-true" else torch.float32
        self.model = LanguageModel(copy.deepcopy(model).to(device, dtype).train())
        self.loss = loss
        self.autocast = torch.autocast(device, torch.bfloat16, enabled=precision == "bf16-mixed")
        self.optimizer = default_optimizer(parameter_groups(self.model))

    def step(self, batch: Batch) -> None:
        with self.autocast:
            loss = self.loss(self.model, batch)
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()


def own_logits(model: LanguageModel, batch: Batch) -> Tensor:
    logits = model.model(batch["input_ids"], use_cache=False).logits
    return F.cross_entropy(logits.flatten(0, 1), batch["labels"].flatten())


def mean_loss(head: Head, hidden: Tensor, batch: Batch, targets: Targets | None = None) -> Tensor:
    """Our objective of hidden states; the LM loss alone without targets."""
    terms = Objective()(hidden, head, batch["labels"], targets, 0.0 if targets is None else KD_WEIGHT)
    return terms.loss / batch["labels"].numel()


def our_objective(model: LanguageModel, batch: Batch, targets: Targets | None = None) -> Tensor:
    return mean_loss(model.head, model.hidden(batch["input_ids"]), batch, targets)


def our_objective_with_targets(model: LanguageModel, batch: Batch) -> Tensor:
    return our_objective(model, batch, OfflineTeacher()(batch))


class Clock(pl.Callback):
    """Times the steps after the first ones, from the end of a step to the end of a later one."""

    def __init__(self, warm_up: int, steps: int) -> None:
        self.ends = (warm_up, warm_up + steps)
        self.times: list[float] = []

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.fit_loop.epoch_loop.total_batch_idx + 1 in self.ends:
            self.times.append(now(trainer.strategy.root_device.type))


def now(device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


@dataclass
class Ways:
    """Everything that the ways have in common; a way gives the seconds of one step."""

    settings: argparse.Namespace
    folder: Path
    student: nn.Module
    teacher: nn.Module
    batches: list[Batch]

    def bare(self, loss: Callable[[LanguageModel, Batch], Tensor]) -> float:
        loop = BareLoop(self.student, loss, self.settings.device, self.settings.precision)
        warm_up, steps = self.settings.warm_up, self.settings.steps
        for batch in self.batches[:warm_up]:
            loop.step(batch)
        start = now(self.settings.device)
        for batch in self.batches[warm_up : warm_up + steps]:
            loop.step(batch)
        return (now(self.settings.device) - start) / steps

    def lightning(self, path: str, by: Teacher) -> float:
        s = self.settings
        clock = Clock(s.warm_up, s.steps)
        logger = CSVLogger(self.folder, "logs", version="") if s.log_every else False
        data = TokenBlocks(str(self.folder / path), s.batch_size, num_workers=s.workers, shuffle=False)
        trainer = pl.Trainer(
            **{**QUIET, "logger": logger, "log_every_n_steps": s.log_every or 50},
            accelerator=s.device,
            devices=1,
            precision=s.precision,
            max_steps=s.warm_up + s.steps + 1,  # the last one is looked at more closely
            limit_val_batches=0,
            enable_checkpointing=False,
            use_distributed_sampler=False,
            callbacks=[clock],
            default_root_dir=self.folder,
        )
        kd_weight = None if isinstance(by, NoTeacher) else KD_WEIGHT
        trainer.fit(DistillationModule(copy.deepcopy(self.student), by, kd_weight=kd_weight), data)
        start, end = clock.times
        return (end - start) / s.steps

    def all(self) -> dict[str, Callable[[], float]]:
        return {
            "bare: the model's own logits": lambda: self.bare(own_logits),
            "bare: our objective": lambda: self.bare(our_objective),
            "bare: our objective, stored targets": lambda: self.bare(our_objective_with_targets),
            "Lightning: LM alone": lambda: self.lightning("blocks", NoTeacher()),
            "Lightning: offline PD": lambda: self.lightning("store", OfflineTeacher()),
            "Lightning: online PD": lambda: self.lightning("blocks", FrozenTeacher(copy.deepcopy(self.teacher))),
        }


def prepare(settings: argparse.Namespace, folder: Path) -> Ways:
    """Blocks, their store, the models, and the batches of the store on the device."""
    T, V = settings.block_size, settings.vocab_size
    # More than are trained on, as a loader fetches ahead.
    num_blocks = (settings.warm_up + settings.steps + 2) * settings.batch_size
    blocks = write_blocks(folder / "blocks", num_blocks, T, V)
    record(folder / "store", blocks, teacher(settings.store_teacher, V, T), settings.device, settings.p, settings.k)
    data, batches = BlockDataset(BlockReader(folder / "store", "train")), []
    for start in range(0, num_blocks, settings.batch_size):
        batch = collate(data[range(start, start + settings.batch_size)])
        batches.append({name: part.to(settings.device) for name, part in batch.items()})
    dtype = torch.float32 if settings.precision == "32-true" else torch.bfloat16
    return Ways(settings, folder, llama(settings.student, V, T), teacher(settings.teacher, V, T).to(dtype), batches)


def measure(ways: dict[str, Callable[[], float]], settings: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Seconds of a step in each round and, on a GPU, the peak of memory, by way."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    memory = {}
    for number in range(settings.rounds):
        # Forth and back, so that none has the same neighbour each time.
        for name, way in list(ways.items())[:: -1 if number % 2 else 1]:
            gc.collect()  # a Trainer and its module hold one another
            if settings.device == "cuda":
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats()
            seconds[name].append(way())
            if settings.device == "cuda":
                memory[name] = {"peak_mib": torch.cuda.max_memory_allocated() / MIB}
    tokens = settings.batch_size * settings.block_size
    return {
        name: {
            "ms_per_step": 1000 * statistics.median(times),
            "tokens_per_second": tokens / statistics.median(times),
            "rounds_ms_per_step": [1000 * t for t in times],
            **memory.get(name, {}),
        }
        for name, times in seconds.items()
    }


def ratios(rows: dict[str, dict[str, Any]]) -> dict[str, float]:
    rounds = {name: row["rounds_ms_per_step"] for name, row in rows.items()}
    return {
        name: statistics.median(a / b for a, b in zip(rounds[one], rounds[other], strict=True))
        for name, (one, other) in RATIOS.items()
        if one in rows and other in rows
    }


def show(figures: dict[str, Any]) -> None:
    console, settings, rows = Console(width=120), figures["settings"], figures["rows"]
    shape = f"{settings['batch_size']} x {settings['block_size']} tokens, V {settings['vocab_size']:,}"
    sizes = f"student {figures['student_parameters']:,}, teacher {figures['teacher_parameters']:,} parameters"
    table = Table(title=f"{sizes}\n{shape}; {figures['device']}, {settings['precision']}", title_justify="left")
    bare = rows.get("bare: our objective", next(iter(rows.values())))["ms_per_step"]
    for heading in ("", "ms/step", "tokens/s", "to bare", "peak MiB"):
        table.add_column(heading, justify="right" if heading else "left")
    for name, row in rows.items():
        cells = (f"{row['ms_per_step']:,.1f}", f"{row['tokens_per_second']:,.0f}", f"{row['ms_per_step'] / bare:.3f}")
        table.add_row(name, *cells, f"{row['peak_mib']:,.0f}" if "peak_mib" in row else "")
    console.print(table)
    for name, ratio in figures["ratios"].items():
        console.print(f"{name}: {ratio:.3f}")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--student", default="256x4", help="hidden size x layers")
    parser.add_argument("--teacher", default="512x4", help="the live teacher, about four times the student")
    parser.add_argument("--store_teacher", default="96x2", help="the teacher that is recorded")
    parser.add_argument("--vocab_size", type=int, default=8192)
    parser.add_argument("--block_size", type=int, default=256)
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--p", type=float, default=0.95, help="of the store's selection")
    parser.add_argument("--k", type=int, default=50, help="of the store's selection")
    parser.add_argument("--warm_up", type=int, default=3)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=0, help="processes that read and decode")
    parser.add_argument("--log_every", type=int, default=50, help="steps between lines of the log; 0 for no logger")
    parser.add_argument("--only", nargs="+", help="parts of the names of what to run")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--precision", default="32-true", choices=["32-true", "bf16-mixed", "bf16-true"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", default="step.json", help="file to write the figures to")
    settings = parser.parse_args(argv)
    torch.set_num_threads(settings.threads)
    gc.freeze()  # or a collection, which no step needs, would look through all that is imported
    be_quiet()
    with TemporaryDirectory() as folder:
        world = prepare(settings, Path(folder))
        only = settings.only or [""]
        ways = {name: way for name, way in world.all().items() if any(part in name for part in only)}
        rows = measure(ways, settings)
    figures = {
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name() if settings.device == "cuda" else f"cpu, {settings.threads} threads",
        "settings": {name: value for name, value in vars(settings).items() if name != "json"},
        "student_parameters": sum(p.numel() for p in world.student.parameters()),
        "teacher_parameters": sum(p.numel() for p in world.teacher.parameters()),
        "rows": rows,
        "ratios": ratios(rows),
    }
    show(figures)
    Path(settings.json).write_text(json.dumps(figures, indent=1) + "\n")
    gc.unfreeze()


if __name__ == "__main__":
    main()
