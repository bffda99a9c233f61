"""The tables of a report on a terminal."""

from collections.abc import Iterable

from rich import table as rich_table
from rich.console import Console
from rich.text import Text

from pd_lightning.report.page import Table, cell_text


def print_tables(tables: Iterable[Table], console: Console) -> None:
    """Print tables as a report shows them.

    Args:
        tables: The tables.
        console: Where to.
    """
    for table in tables:
        shown = rich_table.Table(*table.columns, title=Text(table.title), title_justify="left")
        for row in table.rows:
            shown.add_row(*(Text(cell_text(cell), overflow="fold") for cell in row))
        console.print(shown)
