"""What recording costs beyond the teacher's forward pass, as a ratio of times.

    python benchmarks/record.py                                              teachers for a CPU
    python benchmarks/record.py --sizes 2048x16 4096x32 --device cuda --dtype bfloat16 --batches 64

Teachers are random Llamas, their logits scaled so that a position has about as much to keep as in a real model of the
same vocabulary. Both times are of the same batches, interleaved, the least of --rounds: the forward pass with all its
logits alone, and `record` from its first batch to its last written chunk. The ratio of processor times, of all threads,
is steadier on a busy machine; on a GPU it says nothing. Writes a table and the same figures as JSON.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import lightning.pytorch as pl
import torch
from rich.console import Console
from rich.table import Table
from torch import nn
from torch.utils.data import DataLoader

from pd_lightning.data import bpe
from pd_lightning.language_model import build_causal_lm
from pd_lightning.record import Recorder
from pd_lightning.store.manifest import read_manifest
from pd_lightning.teachers import FrozenTeacher
from pd_lightning.trainer import PDTrainer


class RandomTokens(pl.LightningDataModule):
    """Blocks of random ids, as somebody's own data would come."""

    def __init__(self, tokenizer_dir: Path, num_blocks: int, block_size: int, batch_size: int) -> None:
        super().__init__()
        self.tokenizer_dir = tokenizer_dir
        vocab_size = bpe.load(tokenizer_dir).vocab_size
        generator = torch.Generator().manual_seed(0)
        self.blocks = torch.randint(vocab_size, (num_blocks, block_size + 1), generator=generator)
        self.batch_size = batch_size

    def train_dataloader(self) -> DataLoader:
        return DataLoader([{"input_ids": block} for block in self.blocks], self.batch_size)


class Clock(pl.Callback):
    """Times the loop, from its first batch to what is written of its last."""

    start = end = (0.0, 0.0)

    def on_predict_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.start = now()

    def on_predict_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.end = now()


def now() -> tuple[float, float]:
    """Time, and processor time of all threads."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter(), time.process_time()


def between(start: tuple[float, float], end: tuple[float, float]) -> tuple[float, float]:
    return end[0] - start[0], end[1] - start[1]


def random_teacher(size: str, vocab_size: int, dtype: torch.dtype, device: torch.device) -> nn.Module:
    """A Llama of `hidden x layers` whose logits spread as widely as those of a trained one."""
    hidden, layers = (int(number) for number in size.split("x"))
    heads = max(1, hidden // 64)
    config = {"hidden_size": hidden, "intermediate_size": hidden * 8 // 3 // 16 * 16, "num_hidden_layers": layers}
    config |= {"num_attention_heads": heads, "num_key_value_heads": heads, "max_position_embeddings": 4096}
    torch.manual_seed(0)
    with device:
        model: Any = build_causal_lm({"model_type": "llama", "vocab_size": vocab_size, **config})
    model = model.to(dtype).eval()
    with torch.no_grad():
        spread = model(torch.arange(64, device=device)[None]).logits.float().std()
        # Where normal logits begin to put their mass on a few ids, whatever the vocabulary.
        model.get_output_embeddings().weight.mul_(math.sqrt(2 * math.log(vocab_size)) / spread)
    return model  # type: ignore[no-any-return]


@torch.no_grad()
def forward_seconds(model: nn.Module, data: RandomTokens, device: torch.device) -> tuple[float, float]:
    """Times of all forward passes, with all logits."""
    start = now()
    for batch in data.train_dataloader():
        model(batch["input_ids"][:, :-1].to(device), use_cache=False)
    return between(start, now())


def record_seconds(
    model: nn.Module, data: RandomTokens, store: Path, values: Any, device: torch.device
) -> tuple[float, float]:
    """Times of recording the same batches."""
    clock = Clock()
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = PDTrainer(accelerator=device.type, devices=1, callbacks=[clock], **quiet)
    trainer.record(Recorder(FrozenTeacher(model), str(store), values=values, splits=("train",)), data)
    return between(clock.start, clock.end)


def measure(size: str, args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    device = torch.device(args.device)
    model = random_teacher(size, args.vocab_size, getattr(torch, args.dtype), device)
    data = RandomTokens(folder / "tokenizer", args.batches * args.batch_size, args.block_size, args.batch_size)
    forward, recorded = [], []
    for number in range(args.rounds):
        forward.append(forward_seconds(model, data, device))
        recorded.append(record_seconds(model, data, folder / f"{size}-{number}", args.values, device))
    (alone, alone_cpu), (record, record_cpu) = (map(min, zip(*times, strict=True)) for times in (forward, recorded))
    statistics = read_manifest(folder / f"{size}-0").statistics
    return {
        "teacher": size,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "tokens": data.blocks[:, 1:].numel(),
        "kept_ids_per_token": statistics["kept_ids_per_token"],
        "forward_seconds": alone,
        "record_seconds": record,
        "ratio": record / alone,
        "processor_ratio": record_cpu / alone_cpu,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", default=["256x4", "512x8", "1024x16"], help="hidden size x layers")
    parser.add_argument("--vocab_size", type=int, default=32_768)
    parser.add_argument("--block_size", type=int, default=256)
    parser.add_argument("--batch_size", type=int, default=2)
    parser.add_argument("--batches", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--values", default="compact", choices=["exact", "half", "compact"])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--output", default="benchmarks/results/record.json", help="where to write the figures")
    args = parser.parse_args()
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        bpe.train(["Some text for a tokenizer. "], 300, bpe.EOS_TOKEN, 1000, args.block_size, folder / "tokenizer")
        rows = [measure(size, args, folder) for size in args.sizes]
    name = torch.cuda.get_device_name() if args.device == "cuda" else f"cpu, {torch.get_num_threads()} threads"
    figures = {"device": name, "settings": {**vars(args), "output": None}, "torch": torch.__version__, "teachers": rows}
    Path(args.output).write_text(json.dumps(figures, indent=1) + "\n")
    table = Table(title=f"Recording against the forward pass alone ({name}, {args.dtype}, {args.values})")
    for column in rows[0]:
        table.add_column(column.replace("_", " "), justify="right")
    for row in rows:
        table.add_row(
            *(
                f"{value:,.3f}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else value
                for value in row.values()
            )
        )
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
