"""The tables of docs/results.md, from the folder of a study.

python tools/results.py runs/study/paper_mini/study    prints what the report says of axes and crosses, as Markdown
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

from pd_lightning.report import Section, Table, cell_text
from pd_lightning.study.compared import Compared
from pd_lightning.study.page_axes import axis_section
from pd_lightning.study.page_crosses import cross_sections
from pd_lightning.study.page_summary import introduction, summary_section
from pd_lightning.study.texts import places


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="of a study, finished or not")
    print("\n\n".join(results(parser.parse_args().folder)))


def results(folder: Path) -> Iterator[str]:
    """Give a study's results as Markdown.

    Args:
        folder: The study's folder.

    Yields:
        Headings, paragraphs and tables.
    """
    compared = Compared(folder)
    decimals = places(result.mean for result in compared.results())
    axes = {axis.name: axis for axis in compared.study.axes}
    yield introduction(compared, decimals)
    yield from _markdown(summary_section(compared, decimals))
    for axis in axes.values():
        yield from _markdown(axis_section(compared, axis, decimals))
    for section in cross_sections(compared, decimals):
        yield from _markdown(section)


def _markdown(section: Section) -> Iterator[str]:
    yield f"## {section.title}"
    for part in section.parts:
        if isinstance(part, str):
            yield part
        elif isinstance(part, Table):
            yield from filter(None, [part.title, _table(part), part.caption])


def _table(table: Table) -> str:
    rows = [table.columns, ["---"] * len(table.columns), *table.rows]
    return "\n".join(f"| {' | '.join(_cell(cell) for cell in row)} |" for row in rows)


def _cell(cell: str | int | float | None) -> str:
    return cell_text(cell).replace("|", "\\|").replace("\nbase", " (base)").replace("\n", ", ")


if __name__ == "__main__":
    main()
