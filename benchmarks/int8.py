"""What a smaller data type saves on a CPU: size, speed of generation, and what becomes of the predictions.

    python benchmarks/int8.py                          a Llama of 69M parameters with random weights
    python benchmarks/int8.py --size 128x2 --vocab_size 512 --rounds 1

Each way in turn, round by round, so that other work on the machine meets all of them. Writes a table and the same
figures as JSON. Ways whose package is missing are left out.
"""

from __future__ import annotations

import argparse
import copy
import importlib.util
import json
import os
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from made_up import be_quiet, llama
from rich.console import Console
from rich.table import Table
from torch import nn

PROMPT, NEW = 64, 24


def ways() -> dict[str, Callable[[Any], Any]]:
    """What makes a smaller model of a float32 one, by name."""
    found: dict[str, Callable[[Any], Any]] = {
        "float32": lambda model: model,
        "bfloat16": lambda model: model.bfloat16(),
    }
    found["torch dynamic int8"] = lambda model: torch.ao.quantization.quantize_dynamic(
        model, {nn.Linear}, dtype=torch.qint8
    )
    if importlib.util.find_spec("torchao") is not None:
        from torchao import quantization

        for name in ("Int8WeightOnlyConfig", "Int8DynamicActivationInt8WeightConfig"):
            config = getattr(quantization, name)()
            found[f"torchao {name}"] = lambda model, config=config: (quantization.quantize_(model, config), model)[1]
    return found


def megabytes(model: nn.Module) -> float:
    """Size of the weights on disk, in 10⁶ bytes."""
    with TemporaryDirectory() as folder:
        torch.save(model.state_dict(), Path(folder) / "weights")
        return (Path(folder) / "weights").stat().st_size / 1e6


def tokens_per_second(model: Any, prompt: torch.Tensor) -> float:
    """Of greedy generation, the prompt's time included."""
    start = time.perf_counter()
    length = {"min_new_tokens": NEW, "max_new_tokens": NEW}
    model.generate(prompt, attention_mask=torch.ones_like(prompt), do_sample=False, pad_token_id=0, **length)
    return NEW / (time.perf_counter() - start)


def measure(settings: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Each way's figures."""
    model: Any = llama(settings.size, settings.vocab_size, PROMPT + NEW, tied=False).eval()
    prompt = torch.randint(settings.vocab_size, (1, PROMPT), generator=torch.Generator().manual_seed(0))
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # of deprecation
        models = {name: make(copy.deepcopy(model)) for name, make in ways().items()}
        log_p = model(prompt).logits.log_softmax(-1)
        rows = {}
        for name, smaller in models.items():
            log_q = smaller(prompt).logits.float().log_softmax(-1)
            divergence = float((log_p.exp() * (log_p - log_q)).sum(-1).mean())
            rows[name] = {"mb": megabytes(smaller), "kl_nats": divergence, "tokens_per_second": 0.0}
            tokens_per_second(smaller, prompt)
        for _ in range(settings.rounds):
            for name, smaller in models.items():
                best = max(rows[name]["tokens_per_second"], tokens_per_second(smaller, prompt))
                rows[name]["tokens_per_second"] = best
    return rows


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="768x8", help="hidden size x layers")
    parser.add_argument("--vocab_size", type=int, default=8192)
    parser.add_argument("--rounds", type=int, default=5, help="of which the fastest counts")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", default="int8.json", help="file to write the figures to")
    settings = parser.parse_args(argv)
    be_quiet()
    torch.set_num_threads(settings.threads)
    rows = measure(settings)
    table = Table("weights")
    for heading in ("MB", "tokens a second", "KL to float32, nats"):
        table.add_column(heading, justify="right")
    for name, row in rows.items():
        table.add_row(name, f"{row['mb']:.1f}", f"{row['tokens_per_second']:.1f}", f"{row['kl_nats']:.1e}")
    Console(width=120).print(table)
    given = {name: value for name, value in vars(settings).items() if name != "json"}
    figures = {"torch": torch.__version__, "cores": os.cpu_count(), "settings": given, "rows": rows}
    Path(settings.json).write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
