"""A run on paper: memory, throughput, storage, bandwidth, checkpoints and starts at 64 and 1,024 GPUs.

    python benchmarks/scale.py                                     the tables of docs/scale.md
    python benchmarks/scale.py --training_mfu 0.3 --micro_batch 1  with assumptions of your own
    python benchmarks/scale.py --measure                           measure results/scale.json anew

Arithmetic alone, but for what results/store.json and results/scale.json hold: bytes a token, and what a processor takes
to encode, decode, check and shuffle.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pd_lightning.objective.chunking import _DEVICE_BYTES

RESULTS = Path(__file__).parent / "results"
TOKENS = {"100B": 100e9, "500B": 500e9}
GPUS = (64, 1024)


@dataclass(frozen=True)
class Assumptions:
    """What is not known, each an option of the command line."""

    peak_flops: float = 989e12  # of an H100, dense bf16
    training_mfu: float = 0.40  # of the student, forward and backward
    forward_mfu: float = 0.50  # of the teacher
    gpu_bytes: float = 80e9
    gpus_a_node: int = 8
    vocab_size: int = 151_552
    block_size: int = 4096
    batch_blocks: int = 2048  # of an optimizer step, all GPUs together
    micro_batch: int = 2  # blocks
    network: float = 50e9  # bytes a second and GPU, 400 Gb/s
    disk: float = 2e9  # bytes a second and node, to and from the shared file system
    opens: float = 20_000  # files a second that the shared file system opens, for all nodes together
    gpu_hours_a_failure: float = 16_384 * 24 * 54 / 419  # Llama 3: 419 in 54 days on 16,384 H100
    restart_seconds: float = 600  # from a failure to the first step after it, lost work not counted


@dataclass(frozen=True)
class Shape:
    """A Llama-like model with untied embeddings."""

    layers: int
    hidden: int
    ffn: int
    heads: int
    groups: int

    @property
    def kv(self) -> int:
        """Width of keys, and of values."""
        return self.hidden // self.heads * self.groups

    @property
    def layer(self) -> int:
        """Parameters of a layer, norms left out."""
        return self.hidden * (2 * self.hidden + 2 * self.kv + 3 * self.ffn)

    @property
    def body(self) -> int:
        """Parameters of all layers."""
        return self.layers * self.layer

    def parameters(self, a: Assumptions) -> int:
        """All parameters."""
        return self.body + 2 * a.vocab_size * self.hidden

    def forward(self, a: Assumptions) -> float:
        """FLOPs of a token's forward pass: matrices, the head, and attention to half of a block on average."""
        return 2.0 * (self.body + a.vocab_size * self.hidden) + 2.0 * self.layers * a.block_size * self.hidden


STUDENT = Shape(layers=24, hidden=2048, ffn=6912, heads=16, groups=2)  # configs/paper/student/1.9b.yaml
TEACHER = Shape(layers=40, hidden=4096, ffn=13_696, heads=32, groups=2)  # GLM-4-9B


@dataclass(frozen=True)
class Table:
    """A table in Markdown."""

    title: str
    columns: tuple[str, ...]
    rows: list[tuple[str, ...]]

    def lines(self) -> Iterator[str]:
        """Its lines, without the title."""
        yield f"| {' | '.join(self.columns)} |"
        yield f"|{'---|' * len(self.columns)}"
        yield from (f"| {' | '.join(row)} |" for row in self.rows)


def train_rate(a: Assumptions) -> float:
    """Tokens a second and GPU that a student learns from stored targets, or from none."""
    return a.training_mfu * a.peak_flops / (3 * STUDENT.forward(a))


def teacher_rate(a: Assumptions) -> float:
    """Tokens a second and GPU that the teacher reads."""
    return a.forward_mfu * a.peak_flops / TEACHER.forward(a)


def online_rate(a: Assumptions) -> float:
    """Tokens a second and GPU where the teacher computes before each step of the student."""
    return 1 / (1 / train_rate(a) + 1 / teacher_rate(a))


RATES = {"offline, or LM alone": train_rate, "online": online_rate, "recording": teacher_rate}


def activations(a: Assumptions, *, again: bool) -> float:
    """Bytes of a micro-batch's activations, bf16 in float32 residuals; `again`: computed again in the backward pass."""
    s = STUDENT
    token = 2 * (6 * s.hidden + 2 * s.kv + 3 * s.ffn) + 4 * 4 * s.hidden
    kept = s.layers * 4 * s.hidden + token if again else s.layers * token
    return float(a.micro_batch * a.block_size * kept)


def memory(a: Assumptions) -> Table:
    """Bytes of a GPU."""
    ways = {"whole on each": 1, "sharded over 8": 8, "over 64": 64, "over 1,024": 1024}
    n, teacher = STUDENT.parameters(a), TEACHER.parameters(a)
    head, chunk = 4.0 * a.vocab_size * STUDENT.hidden, float(_DEVICE_BYTES)
    gathered = 2.0 * (2 * STUDENT.layer + 2 * a.vocab_size * STUDENT.hidden)
    kept, again = activations(a, again=False), activations(a, again=True)
    parts = {
        "weights, float32": {w: 4.0 * n / w for w in ways.values()},
        "gradients, float32": {w: 4.0 * n / w for w in ways.values()},
        "Adam, two of float32": {w: 8.0 * n / w for w in ways.values()},
        "weights in bf16: all, or two gathered layers, embeddings and head": {
            w: 2.0 * n if w == 1 else gathered for w in ways.values()
        },
        "the head's gradient in float32, logits of a chunk": dict.fromkeys(ways.values(), head + chunk),
        "activations": dict.fromkeys(ways.values(), kept),
    }
    offline = {w: sum(part[w] for part in parts.values()) for w in ways.values()}
    added = {
        w: 2.0 * teacher / w + (0 if w == 1 else 2.0 * (2 * TEACHER.layer + a.vocab_size * TEACHER.hidden))
        for w in ways.values()
    }
    online = {w: offline[w] + added[w] + 2 * chunk for w in ways.values()}
    parts |= {
        "**offline, together**": offline,
        "the teacher in bf16, and what is gathered of it": added,
        "**online, together**, with the teacher's logits of a chunk": online,
        "online, activations computed again": {w: online[w] - kept + again for w in ways.values()},
    }
    rows = [(name, *(f"{part[w] / 1e9:.1f}" for w in ways.values())) for name, part in parts.items()]
    return Table(f"GB of a GPU, of {a.gpu_bytes / 1e9:.0f}", ("", *ways), rows)


def models(a: Assumptions) -> Table:
    """Sizes and work."""
    rows = [
        (
            name,
            f"{shape.parameters(a) / 1e9:.2f}B",
            f"{shape.body / 1e9:.2f}B",
            f"{shape.forward(a) / 1e9:.2f}",
            f"{3 * shape.forward(a) / 1e9:.2f}" if shape is STUDENT else "–",
        )
        for name, shape in (("student", STUDENT), ("teacher", TEACHER))
    ]
    return Table("Models", ("", "parameters", "in layers", "GFLOPs a token, forward", "and backward"), rows)


def throughput(a: Assumptions) -> Table:
    """Time of a run."""
    rows = []
    for name, rate in RATES.items():
        for gpus in GPUS:
            together = rate(a) * gpus
            hours = {key: tokens / together / 3600 for key, tokens in TOKENS.items()}
            rows.append(
                (
                    name,
                    f"{gpus:,}",
                    f"{rate(a):,.0f}",
                    "–" if rate is teacher_rate else f"{a.batch_blocks * a.block_size / together:.2f}",
                    *(f"{hours[key]:,.1f}" for key in TOKENS),
                    *(f"{hours[key] * gpus:,.0f}" for key in TOKENS),
                )
            )
    columns = (
        "",
        "GPUs",
        "tokens/s and GPU",
        "s a step",
        "100B, hours",
        "500B, hours",
        "100B, GPU-hours",
        "500B, GPU-hours",
    )
    return Table("Throughput", columns, rows)


def network(a: Assumptions) -> Table:
    """Time that gradients take over the network, beside the backward pass that can hide it."""
    n = STUDENT.parameters(a)
    rows = []
    for gpus in GPUS:
        step = a.batch_blocks * a.block_size / (train_rate(a) * gpus)
        micro = min(a.micro_batch * a.block_size, a.batch_blocks * a.block_size / gpus)
        backward = 2 / 3 * micro / train_rate(a)
        moved = {"float32": 8.0 * n, "bf16": 4.0 * n, "float32, a node reduced first": 8.0 * n / a.gpus_a_node}
        moved["sharded"] = (2 * 2.0 + 4.0) * n  # bf16 weights gathered twice, float32 gradients scattered
        seconds = [volume * (1 - 1 / gpus) / a.network for volume in moved.values()]
        rows.append(
            (
                f"{gpus:,}",
                f"{step:.2f}",
                f"{micro / train_rate(a):.2f}",
                f"{backward:.2f}",
                *(f"{value:.2f}" for value in seconds),
            )
        )
    columns = (
        "GPUs",
        "s a step",
        "s a micro-batch",
        "s of its backward pass",
        "all-reduce in float32",
        "in bf16",
        "float32, a node reduced first",
        "sharded over all, a micro-batch",
    )
    return Table("The network", columns, rows)


def stores() -> dict[str, dict[str, float]]:
    """Measured rows of the store, by what is kept and how."""
    rows = json.loads((RESULTS / "store.json").read_text(encoding="utf-8"))["rows"]
    names = {
        ("top-p 0.95, k 100", "compact 0.0001"): "top-p 0.95, k 100, `compact`",
        ("top-p 0.95, k 100", "half"): "top-p 0.95, k 100, `half`",
        ("top-p 0.95, k 50", "compact 0.0001"): "top-p 0.95, k 50, `compact`",
        ("50 draws", "counts"): "50 draws",
    }
    found = {(row["selection"], row["values"]): row for row in rows}
    return {
        name: {
            **found[key],
            "bytes": found[key]["targets_bytes_per_token"] + found[key]["tokens_and_columns_bytes_per_token"],
        }
        for key, name in names.items()
    }


COMPACT = "top-p 0.95, k 100, `compact`"
PAPER = 150.0  # bytes a token, 15 TB for 100B


def storage(a: Assumptions) -> Table:
    """Bytes and files of stores."""
    sizes = {name: row["bytes"] for name, row in stores().items()}
    sizes |= {"the paper's store": PAPER, "token blocks alone": 4.0 * (1 + 1 / a.block_size)}
    rows = []
    for name, size in sizes.items():
        total = [size * tokens for tokens in TOKENS.values()]
        chunks = [f"{value / chunk:,.0f}" for chunk in (2**26, 2**30) for value in total]
        rows.append((name, f"{size:.1f}", *(f"{value / 1e12:.1f}" for value in total), *chunks))
    columns = (
        "",
        "bytes a token",
        "100B, TB",
        "500B, TB",
        "100B, chunks of 64 MiB",
        "500B",
        "100B, chunks of 1 GiB",
        "500B",
    )
    return Table("Storage", columns, rows)


def bandwidth(a: Assumptions) -> Table:
    """Bytes a second that recording writes and training reads."""
    rows = []
    for name, row in stores().items():
        for way, rate, speed in (
            ("record", teacher_rate(a), row["encode_tokens_per_second"]),
            ("read", train_rate(a), row["decode_tokens_per_second"]),
        ):
            one = rate * row["bytes"]
            rows.append(
                (
                    f"{way}, {name}",
                    f"{one / 1e6:.1f}",
                    f"{one * a.gpus_a_node / 1e6:.0f}",
                    *(f"{one * gpus / 1e9:.2f}" for gpus in GPUS),
                    f"{rate / speed:.2f}",
                )
            )
    columns = ("", "MB/s a GPU", "MB/s a node", "64 GPUs, GB/s", "1,024 GPUs, GB/s", "cores a GPU")
    return Table("Bandwidth", columns, rows)


def reads(a: Assumptions) -> Table:
    """Blocks read at random from all over a store, and the files opened for them."""
    size, rows = stores()[COMPACT]["bytes"], []
    for name, chunk in (("64 MiB", 2**26), ("1 GiB", 2**30)):
        for gpus in GPUS:
            blocks = train_rate(a) / a.block_size
            # A chunk is opened to be mapped, unless it is among the last 64, and once more to see its header first.
            first = min(1.0, size * TOKENS["100B"] / chunk / (TOKENS["100B"] / a.block_size / gpus))
            rows.append(
                (
                    f"{name}, {gpus:,} GPUs",
                    f"{blocks:.1f}",
                    f"{size * a.block_size / 1e3:,.0f}",
                    f"{blocks * gpus:,.0f}",
                    f"{blocks * gpus * (1 + first):,.0f}",
                    f"{100 * blocks * gpus * (1 + first) / a.opens:.0f} %",
                )
            )
    columns = ("chunks", "blocks/s a GPU", "kB a block", "blocks/s together", "opens/s at most", "of what is assumed")
    return Table("Reading at random, 100B tokens", columns, rows)


def chunks_at_hand(a: Assumptions) -> Table:
    """What a crash costs while recording: the chunk that a GPU is filling."""
    one = teacher_rate(a) * stores()[COMPACT]["bytes"]
    rows = [(name, f"{chunk / one:.0f}") for name, chunk in (("64 MiB", 2**26), ("1 GiB", 2**30))]
    return Table("A chunk at hand", ("chunks", "s of recording that a crash costs a GPU"), rows)


def one_process(a: Assumptions) -> Table:
    """Commands that decode whole stores in one process."""
    speed = stores()[COMPACT]["decode_tokens_per_second"]
    rows = [
        (name, *(f"{count * tokens / speed / 86_400:,.1f}" for tokens in TOKENS.values()))
        for name, count in (("`inspect --verify`", 1), ("`select`, which reads two", 2))
    ]
    return Table("Days in one process", ("decoding alone, days", *TOKENS), rows)


def checkpoints(a: Assumptions) -> Table:
    """Checkpoints against failures: Young's interval, and the share of time that is lost."""
    size = 12.0 * STUDENT.parameters(a)
    rows = []
    for gpus in GPUS:
        apart = a.gpu_hours_a_failure * 3600 / gpus
        for way, seconds in (
            ("one file, by one node", size / a.disk),
            ("a shard a GPU", size / (a.disk * gpus / a.gpus_a_node)),
        ):
            best = math.sqrt(2 * seconds * apart)
            intervals = (best, 600.0, 3600.0)
            lost = [seconds / every + every / (2 * apart) + a.restart_seconds / apart for every in intervals]
            rows.append(
                (
                    f"{gpus:,}, {way}",
                    f"{size / 1e9:.1f}",
                    f"{seconds:.1f}",
                    f"{apart / 3600:,.0f}",
                    f"{best / 60:.0f}",
                    *(f"{100 * value:.2f} %" for value in lost),
                )
            )
    columns = (
        "GPUs",
        "GB",
        "s to write",
        "hours between failures",
        "best interval, minutes",
        "lost then",
        "every 10 minutes",
        "every 60",
    )
    return Table("Checkpoints and failures", columns, rows)


def failures(a: Assumptions) -> Table:
    """Failures to expect in a run."""
    rows = [
        (f"{way}, {key}", f"{tokens / rate(a) / 3600 / a.gpu_hours_a_failure:.2f}")
        for way, rate in RATES.items()
        for key, tokens in TOKENS.items()
    ]
    return Table("Failures in a run, whatever the number of GPUs", ("", "failures to expect"), rows)


def measured() -> dict[str, float]:
    """What `--measure` has found."""
    found: dict[str, float] = json.loads((RESULTS / "scale.json").read_text(encoding="utf-8"))["figures"]
    return found


def starts(a: Assumptions) -> Table:
    """What every process does with a store before its first step."""
    found, size = measured(), stores()[COMPACT]["bytes"]
    rows = []
    for key, tokens in TOKENS.items():
        for name, chunk in (("64 MiB", 2**26), ("1 GiB", 2**30)):
            chunks = size * tokens / chunk
            rows.append(
                (
                    f"{key}, chunks of {name}",
                    f"{chunks:,.0f}",
                    f"{chunks * found['json_bytes_a_chunk'] / 1e6:,.1f}",
                    f"{chunks * found['check_bytes_a_chunk'] / 1e9:.2f}",
                    f"{chunks * found['check_seconds_a_chunk']:,.1f}",
                    f"{chunks / a.opens:,.1f}",
                    f"{chunks * GPUS[-1] / a.opens / 60:,.1f}",
                )
            )
    columns = (
        "store",
        "chunks",
        "MB of JSON",
        "GB of memory",
        "s of a processor",
        "s of opening, a share each",
        "minutes, were it all by each of 1,024",
    )
    return Table("Opening a store", columns, rows)


def orders(a: Assumptions) -> Table:
    """The order of an epoch, which every process computes."""
    found = measured()
    rows = []
    for key, tokens in TOKENS.items():
        blocks = tokens / a.block_size
        for name, way in (("all blocks", "full"), ("in windows of 4,096", "window")):
            peak = blocks * found[f"{way}_order_bytes_a_block"]
            rows.append(
                (
                    f"{key}, {name}",
                    f"{blocks / 1e6:.1f}M",
                    f"{blocks * 8 / 1e9:.2f}",
                    f"{peak / 1e9:.2f}",
                    f"{peak * a.gpus_a_node / 1e9:.1f}",
                    f"{blocks * found[f'{way}_order_seconds_a_block']:.0f}",
                )
            )
    return Table(
        "The order", ("shuffled", "blocks", "GB held", "GB at most", "GB at most, a node", "s of a processor"), rows
    )


def tables(a: Assumptions) -> list[Table]:
    """All tables, in the order of the page."""
    return [
        f(a)
        for f in (
            models,
            memory,
            throughput,
            network,
            storage,
            bandwidth,
            chunks_at_hand,
            reads,
            starts,
            orders,
            one_process,
            checkpoints,
            failures,
        )
    ]


def measure() -> dict[str, Any]:
    """Measure what opening a store and shuffling takes, in time of one processor, small enough for any machine."""
    import resource
    import tempfile
    import time
    import tracemalloc

    import numpy as np

    from pd_lightning.data.order import epoch_order
    from pd_lightning.store import chunks
    from pd_lightning.store.checksums import CHECKSUMS_FILE
    from pd_lightning.store.codec import encode_tokens
    from pd_lightning.store.manifest import Manifest, SplitInfo, TokenizerInfo, tokenizer_digest
    from pd_lightning.store.safety import verify_layout

    def cost(action: Any) -> tuple[float, int]:
        """The least time of three, and the most memory."""
        times = []
        for _ in range(3):
            start = time.process_time()
            action()
            times.append(time.process_time() - start)
        tracemalloc.start()
        action()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return min(times), peak

    figures: dict[str, float] = {}
    # The largest of the tables as it is, first of all: the peak of the process is then its own.
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    epoch_order(int(TOKENS["500B"] / Assumptions.block_size), 0, 0)
    figures["largest_order_seconds"] = time.process_time() - start
    figures["largest_order_bytes"] = 1024.0 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    blocks, count = 1 << 23, 2000
    for name, window in (("full", 0), ("window", 4096)):
        seconds, peak = cost(lambda window=window: epoch_order(blocks, 0, 0, True, window))
        figures[f"{name}_order_seconds_a_block"] = seconds / blocks
        figures[f"{name}_order_bytes_a_block"] = peak / blocks
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "store"
        (folder / "tokenizer").mkdir(parents=True)
        (folder / "tokenizer" / "tokenizer.json").write_text("{}")
        item = encode_tokens(np.arange(9), 1000)
        for index in range(count):
            chunks.write_chunk(folder / "train", index, [item])
        splits = {"train": SplitInfo(count, 8 * count, 1)}
        chunks.finish(folder, Manifest("blocks", 8, 1000, TokenizerInfo(tokenizer_digest(folder), 0), splits))
        json_bytes = sum((folder / name).stat().st_size for name in (CHECKSUMS_FILE, f"train/{chunks.INDEX_FILE}"))
        seconds, peak = cost(lambda: verify_layout(folder, share=(0, count)))  # one chunk's file, and all names
    figures |= {
        "json_bytes_a_chunk": json_bytes / count,
        "check_seconds_a_chunk": seconds / count,
        "check_bytes_a_chunk": peak / count,
    }
    return {"blocks": blocks, "chunks": count, "figures": figures}


def main() -> None:
    """Print the tables, or measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measure", action="store_true", help="measure results/scale.json anew")
    for field in dataclasses.fields(Assumptions):
        parser.add_argument(f"--{field.name}", type=type(field.default), default=field.default)
    options = vars(parser.parse_args())
    if options.pop("measure"):
        (RESULTS / "scale.json").write_text(json.dumps(measure(), indent=1) + "\n", encoding="utf-8")
    for table in tables(Assumptions(**options)):
        print(f"\n{table.title}\n", *table.lines(), sep="\n")


if __name__ == "__main__":
    main()
