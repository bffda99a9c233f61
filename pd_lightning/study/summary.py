"""The results of a study as a table on the terminal."""

from __future__ import annotations

from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pd_lightning.report import cell_text
from pd_lightning.study.compared import AGAINST_BASE, Compared
from pd_lightning.study.outline import EQUAL_FLOPS, LM, Point
from pd_lightning.study.texts import chance_text, direction_text, mean_text, places, seeds_text, short_text

_COLUMNS = {LM: "against\nLM only", EQUAL_FLOPS: "at equal\nFLOPs", AGAINST_BASE: "against\nthe base"}
_NARROWEST = 10  # letters of a name beside each other


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
    table = Table(title=Text(study.title), title_justify="left", box=SIMPLE_HEAD, padding=0, show_edge=False)
    rows = [_row(compared, point, decimals) for point in study.points]
    columns = ("point", f"{study.metric}\n± 95%", "seeds", *_COLUMNS.values())
    lines = [[*column.splitlines(), *(row[number] for row in rows)] for number, column in enumerate(columns)]
    widths = [max(map(len, column)) for column in lines]
    room = console.width - sum(width + 1 for width in widths[1:])
    table.add_column(columns[0], max_width=max(_NARROWEST, room), overflow="fold")
    for column, width in zip(columns[1:], widths[1:], strict=True):
        table.add_column(Text(column), min_width=width)
    for row in rows:
        table.add_row(*map(Text, row))
    console.print(table)
    best = compared.ranked(study.points)[:1]
    name = f"Best: {best[0].name}." if best else "No point has a result for every seed yet."
    console.print(Text(f"{name} {direction_text(study).capitalize()}. {chance_text(compared.verdicts())}"))


def _row(compared: Compared, point: Point, decimals: int) -> list[str]:
    result = compared.result(point)
    differences = [short_text(compared.against(point, kind), decimals) for kind in _COLUMNS]
    cells = (point.name, mean_text(result.mean, decimals), seeds_text(result).replace(" of ", "/"), *differences)
    return [cell_text(cell) for cell in cells]
