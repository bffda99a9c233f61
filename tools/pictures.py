"""The pictures of the documentation, from a run of the demo.

python tools/pictures.py --demo runs/demo    measures again: reads that run into docs/assets/measured.json
python tools/pictures.py                     draws again what stands there

An SVG file follows the reader's light or dark scheme; in a page of the site, `mkdocs_hooks.py` puts it into the HTML
and pictures.css has it follow the page's own.
"""

import argparse
import csv
import json
import math
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from pd_lightning.report.charts import DARK, DASHES, LIGHT, Chart, drawing
from pd_lightning.schedules import WSD, Cosine, Linear, Periodic, Schedule

ASSETS = Path(__file__).parents[1] / "docs" / "assets"
WIDTH = 420
STUDENTS = {"lm": "text alone", "offline": "recorded teacher", "online": "live teacher"}
POSITION = (18, 4)  # block of the validation split, and position in it, whose targets are shown


def main() -> None:
    """Draw all pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--demo", type=Path, help="folder of a finished demo to measure")
    demo = parser.parse_args().demo
    if demo is not None:
        (ASSETS / "measured.json").write_text(json.dumps(measure(demo), indent=1) + "\n", encoding="utf-8")
    for name, text in pictures(json.loads((ASSETS / "measured.json").read_text(encoding="utf-8"))).items():
        (ASSETS / name).write_text(text, encoding="utf-8")


def measure(demo: Path) -> dict[str, Any]:
    """Read what the pictures show out of a demo's folder."""
    from pd_lightning.inspection import describe

    splits = describe(demo / "store")["splits"]
    histograms = ("kept_ids_histogram", "label_rank_histogram")
    store = {name: {split: splits[split][name] for split in ("train", "val")} for name in histograms}
    return {
        "curves": {name: curve(demo / name) for name in STUDENTS},
        "store": store,
        "position": position(demo / "store"),
    }


def curve(run: Path) -> list[tuple[int, float]]:
    """Validation losses of a run by step."""
    (path,) = run.glob("logs/**/metrics.csv")
    rows = csv.DictReader(path.read_text(encoding="utf-8").splitlines())
    return [(int(row["step"]) + 1, float(row["val/lm_loss"])) for row in rows if row["val/lm_loss"]]


def position(store: Path) -> dict[str, Any]:
    """What the store keeps of one position: tokens with their probabilities, and that of all others."""
    from transformers import AutoTokenizer

    from pd_lightning.store.reader import BlockReader

    block, place = POSITION
    tokenizer: Any = AutoTokenizer.from_pretrained(store / "tokenizer")
    reader = BlockReader(store, "val")
    item = reader[block]
    counts = item["counts"]
    start = int(counts[:place].sum())
    kept = slice(start, start + int(counts[place]))
    probabilities = [math.exp(value) for value in item["logprobs"][kept].tolist()]
    return {
        "before": tokenizer.decode(item["block"][max(0, place - 4) : place + 1].tolist()),
        "tokens": [tokenizer.decode([token]) for token in item["ids"][kept].tolist()],
        "probabilities": probabilities,
        "vocab_size": reader.manifest.vocab_size,
    }


def pictures(measured: dict[str, Any]) -> dict[str, str]:
    """Draw all pictures.

    Args:
        measured: What `measure` gave.

    Returns:
        Files' contents by name.
    """
    curves = {label: measured["curves"][name] for name, label in STUDENTS.items()}
    chart = Chart("Validation loss", "optimizer steps", "LM loss, nats a token", curves)
    kept = {name: doubling(values) for name, values in measured["store"]["kept_ids_histogram"].items()}
    rank = {name: doubling(values) for name, values in measured["store"]["label_rank_histogram"].items()}
    return {
        "pictures.css": css(),
        "flow.svg": flow(),
        "curves.svg": as_file(chart_body(chart)),
        "schedules.svg": as_file(chart_body(schedules())),
        "store.svg": as_file(bars(kept, rank)),
        "tail.svg": as_file(tail(measured["position"])),
    }


def doubling(histogram: dict[str, float]) -> list[tuple[str, float]]:
    """The bins of a histogram that hold any positions, with their shares."""
    return [(name.replace("-", "–"), share) for name, share in histogram.items() if share]


def schedules() -> Chart:
    """α over a run of 1,000 steps, by several schedules."""
    total = 1000
    shown: dict[str, Schedule] = {
        "WSD": WSD(0.9, warmup=0.1, decay=0.1),
        "Linear 0.9 to 0": Linear(0.9, 0.0),
        "Cosine": Cosine(0.9, warmup=0.1),
        "Periodic": Periodic(0.0, 0.9, period=0.2),
    }
    series = {name: [(step, schedule(step, total)) for step in range(0, total, 5)] for name, schedule in shown.items()}
    return Chart("Schedules", "optimizer steps", "KD weight α", series)


def chart_body(chart: Chart) -> tuple[str, float]:
    """A line chart, with the names of its lines above it where they don't fit beside."""
    height = 280
    legend, _, rest = drawing(chart, WIDTH, height).partition("<svg role")
    body = rest.partition(">")[2].removesuffix("</svg>")
    if not legend:
        return body, height
    names = []
    for i, name in enumerate(chart.series):
        x, y = 40 + (i % 2) * 190, 10 + (i // 2) * 18
        names.append(f'<line class="line s{i}" x1="{x}" x2="{x + 30}" y1="{y}" y2="{y}"/>')
        names.append(words(x + 38, y, name))
    down = 18 * ((len(chart.series) + 1) // 2) + 6
    return f'{"".join(names)}<g transform="translate(0 {down})">{body}</g>', height + down


def bars(kept: dict[str, list[tuple[str, float]]], rank: dict[str, list[tuple[str, float]]]) -> tuple[str, float]:
    """Two histograms of the store's positions, as bars."""
    parts, y = [], 12.0
    for title, histogram in (("ids that a position keeps", kept), ("rank of the label among them", rank)):
        parts.append(words(0, y, title, "label"))
        y += 22
        for name, share in histogram["train"]:
            text = "not kept" if name == "0" and histogram is rank else name
            parts.append(words(70, y, text, "end"))
            parts.append(f'<rect class="bar s0" x="78" y="{y - 7}" width="{share * 270:.1f}" height="14"/>')
            parts.append(words(84 + share * 270, y, f"{share:.1%}"))
            y += 20
        y += 12
    return "".join(parts), y - 12


def tail(position: dict[str, Any]) -> tuple[str, float]:
    """A recorded position cut to its best ids, and what each tail makes of the rest."""
    count = 5
    p = position["probabilities"][:count]
    rest, others = 1 - sum(p), position["vocab_size"] - count
    rows = [json.dumps(token, ensure_ascii=False) for token in position["tokens"][:count]]
    ways = {
        "bucket": ([*p, rest], "together"),
        "renormalize": ([*(value / sum(p) for value in p), 0.0], "impossible"),
        "uniform": ([*p, rest], f"{rest / others:.1e} each"),
    }
    parts = [words(0, 12, f"after “…{position['before'].strip()}”, the {count} best ids kept", "label")]
    for column, (name, (values, said)) in enumerate(ways.items()):
        x = 92 + column * 112
        parts.append(words(x, 40, name, f"label s{column}"))
        for row, value in enumerate(values):
            y = 62 + row * 22
            kind = "rest" if row == count else "bar"
            parts.append(f'<rect class="{kind} s{column}" x="{x}" y="{y - 7}" width="{value * 66:.1f}" height="14"/>')
            parts.append(words(x + 5 + value * 66, y, f"{value:.0%}" if row < count or value else "0"))
        parts.append(words(x, 62 + count * 22 + 20, said, "small"))
    parts += [words(84, 62 + row * 22, text, "end") for row, text in enumerate([*rows, f"{others:,} others"])]
    return "".join(parts), 62 + count * 22 + 34


def flow() -> str:
    """How data flow: boxes are folders, arrows commands."""
    boxes = [
        ("text", "any source", 4, 14),
        ("token blocks", "and the tokenizer", 4, 104),
        ("logit store", "targets with their tokens", 4, 194),
        ("checkpoint", "of the student", 238, 149),
        ("Hugging Face folder", "generate, evaluate, deploy", 238, 239),
    ]
    parts = [box(*each) for each in boxes]
    ways = {
        "tokenize": (101, 79, [(92, 60), (92, 98)]),
        "record, once": (101, 169, [(92, 150), (92, 188)]),
        "fit": (213, 212, [(180, 217), (209, 217), (209, 184), (232, 184)]),
        "fit, with a live teacher": (188, 116, [(180, 127), (209, 127), (209, 160), (232, 160)]),
        "export": (335, 214, [(326, 195), (326, 233)]),
    }
    for name, (x, y, points) in ways.items():
        parts += [arrow(points), words(x, y, name, "command")]
    return as_file(("".join(parts), 294))


def box(title: str, note: str, x: float, y: float) -> str:
    """A folder on the disk."""
    shape = f'<rect class="box" x="{x}" y="{y}" width="176" height="46" rx="5"/>'
    return shape + words(x + 88, y + 17, title, "middle label") + words(x + 88, y + 33, note, "middle small")


def arrow(points: Sequence[tuple[float, float]]) -> str:
    """A line through points, with a head at the last."""
    (x0, y0), (x1, y1) = points[-2:]
    angle = math.degrees(math.atan2(y1 - y0, x1 - x0))
    path = " ".join(f"{x},{y}" for x, y in points)
    head = f'<path class="head" transform="translate({x1} {y1}) rotate({angle:.0f})" d="M6 0L-3 -4.5V4.5Z"/>'
    return f'<polyline class="way" points="{path}"/>{head}'


def words(x: float, y: float, text: str, classes: str = "") -> str:
    """A line of text, its middle at y."""
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{classes}">{escape(text)}</text>'


def as_file(drawn: tuple[str, float]) -> str:
    """An SVG file by itself, light or dark as its reader is."""
    body, height = drawn
    dark = f"@media (prefers-color-scheme: dark) {{ {variables('svg.pd', DARK, dark=True)} }}"
    style = f"{variables('svg.pd', LIGHT)}\n{dark}\n{RULES}"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="pd" role="img" viewBox="0 0 {WIDTH} {height:.0f}">\n'
        f"<style>\n{style}\n</style>\n{body.strip()}\n</svg>\n"
    )


def css() -> str:
    """The same for pages, by the page's palette."""
    light = variables("svg.pd", LIGHT)
    return f"{light}\n{variables('[data-md-color-scheme=slate] svg.pd', DARK, dark=True)}\n{RULES}\n"


def variables(selector: str, colours: Sequence[str], dark: bool = False) -> str:
    """The colours as variables."""
    ink = "--text: #e6e9ec; --faint: #a7b0b9; --rule: #3a4046; --card: #23282d;"
    if not dark:
        ink = "--text: #1c2024; --faint: #5a636c; --rule: #d9dee3; --card: #f5f7f9;"
    lines = " ".join(f"--s{i}: {colour};" for i, colour in enumerate(colours))
    return f"{selector} {{ {ink} {lines} }}"


RULES = "\n".join(
    [
        *(f"svg.pd .s{i} {{ --c: var(--s{i}); stroke-dasharray: {dash}; }}" for i, dash in enumerate(DASHES)),
        "svg.pd { display: block; width: 100%; max-width: 540px; height: auto; overflow: visible; }",
        "svg.pd text { font: 12px system-ui, sans-serif; fill: var(--c, var(--faint)); dominant-baseline: central; }",
        "svg.pd .end { text-anchor: end; } svg.pd .middle { text-anchor: middle; }",
        "svg.pd .label { fill: var(--c, var(--text)); font-weight: 600; } svg.pd .small { font-size: 11px; }",
        "svg.pd .command { font-family: ui-monospace, monospace; font-size: 11px; fill: var(--s0); }",
        "svg.pd .grid { stroke: var(--rule); } svg.pd .axis { stroke: var(--faint); }",
        "svg.pd .line { fill: none; stroke: var(--c); stroke-width: 2; stroke-linejoin: round; }",
        "svg.pd circle, svg.pd .bar { fill: var(--c); } svg.pd .rest { fill: var(--c); opacity: .45; }",
        "svg.pd .box { fill: var(--card); stroke: var(--faint); }",
        "svg.pd .way { fill: none; stroke: var(--faint); stroke-width: 1.5; } svg.pd .head { fill: var(--faint); }",
    ]
)

if __name__ == "__main__":
    main()
