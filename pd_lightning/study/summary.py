"""The results of a study as a table on the terminal."""

from __future__ import annotations

from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pd_lightning.report import cell_text
from pd_lightning.study.compared import AGAINST_BASE, Compared
from pd_lightning.study.outline import EQUAL_FLOPS, LM
from pd_lightning.study.texts import chance_text, direction_text, mean_text, places, seeds_text, short_text

_COLUMNS = {LM: "against LM only", EQUAL_FLOPS: "at equal FLOPs", AGAINST_BASE: "against the base"}


def show(folder: Path, console: Console | None = None) -> None:
    """Print a line for each point: its mean, its differences, and what they say.

    Args:
        folder: The study's folder.
        console: Where to; the terminal by default.
    """
    console = console or Console()
    compared = Compared(folder)
    study = compared.study
    decimals = places(result.mean for result in compared.results())
    columns = ("point", f"{study.metric} ± 95%", "seeds", *_COLUMNS.values())
    table = Table(*columns, title=Text(study.title), title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for point in study.points:
        result = compared.result(point)
        differences = [short_text(compared.against(point, kind), decimals) for kind in _COLUMNS]
        cells = (point.name, mean_text(result.mean, decimals), seeds_text(result), *differences)
        table.add_row(*(Text(cell_text(cell)) for cell in cells))
    console.print(table)
    best = compared.ranked(study.points)[:1]
    name = f"Best: {best[0].name}." if best else "No point has a result for every seed yet."
    console.print(Text(f"{name} {direction_text(study).capitalize()}. {chance_text(compared.verdicts())}"))
