"""A report as one HTML file that needs nothing else: no script, no font, no picture from outside."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import groupby
from pathlib import Path

from pd_lightning.report.charts import STYLE as CHART_STYLE
from pd_lightning.report.charts import Chart, line_chart

LONGEST_LINE = 28  # letters of a cell, beyond which it is broken


@dataclass(frozen=True)
class Table:
    """A table; its first column names the rows.

    Args:
        title: What it shows.
        columns: Headings, with units.
        rows: Cells: text, whose second line is shown small, whole numbers, floats (shown with four digits) or None (a
            dash).
        caption: What to see in it.
        names: Whether numbers in it are names too, which stand to the left as all text.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str | int | float | None]]
    caption: str = ""
    names: bool = False

    def __post_init__(self) -> None:
        assert all(len(row) == len(self.columns) for row in self.rows), f"ragged table {self.title!r}"


@dataclass(frozen=True)
class Code:
    """Text whose lines stay as they are.

    Args:
        text: What is shown.
        title: Where there is one, the reader unfolds the text under it.
    """

    text: str
    title: str = ""


@dataclass(frozen=True)
class Section:
    """A chapter of a long report, which has a place in its contents.

    Args:
        title: Its heading.
        parts: Paragraphs, tables, charts and code, in their order.
        group: The heading that it stands under in the contents; the same for chapters in a row.
    """

    title: str
    parts: Sequence[str | Table | Chart | Code]
    group: str = ""


def write_report(
    path: str | Path,
    title: str,
    intro: str = "",
    tables: Sequence[Table] = (),
    charts: Sequence[Chart] = (),
    samples: Mapping[str, str] | None = None,
    prompt: str = "",
    footer: str = "",
    sections: Sequence[Section] = (),
) -> None:
    """Write a report. All text is taken as text, none as HTML.

    Args:
        path: The HTML file to write.
        title: Heading of the page.
        intro: What was done and what came out; an empty line starts a new paragraph.
        tables: Figures.
        charts: Curves.
        samples: What each model wrote, by its name, without the prompt.
        prompt: What the models went on from.
        footer: How the report was made.
        sections: Chapters; their contents stand at the top.
    """
    parts = [
        f"<header><h1>{escape(title)}</h1>{_paragraphs(intro)}</header>",
        _contents(sections) if sections else "",
        *map(_table, tables),
        *map(_chart, charts),
        *(_section(number, section) for number, section in enumerate(sections)),
        _samples(samples, prompt) if samples else "",
        f"<footer>{_paragraphs(footer)}</footer>" if footer else "",
    ]
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    body = "\n".join(part for part in parts if part)
    path.write_text(_page(title, body, "long" if sections else ""), encoding="utf-8")


def _page(title: str, body: str, kind: str) -> str:
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{escape(title)}</title>
<style>
{STYLE}
</style>
</head>
<body>
<main{f' class="{kind}"' if kind else ""}>
{body}
</main>
</body>
</html>
"""


def _paragraphs(text: str, kind: str = "") -> str:
    attribute = f' class="{kind}"' if kind else ""
    return "".join(f"<p{attribute}>{escape(part)}</p>" for part in re.split(r"\n\s*\n", text.strip()) if part)


def _contents(sections: Sequence[Section]) -> str:
    groups = [
        f"{f'<h3>{escape(name)}</h3>' if name else ''}<ul>{''.join(_entry(*each) for each in members)}</ul>"
        for name, members in groupby(enumerate(sections), key=lambda each: each[1].group)
    ]
    return f'<nav class="contents" aria-label="Contents">{"".join(groups)}</nav>'


def _entry(number: int, section: Section) -> str:
    return f'<li><a href="#part-{number}">{escape(section.title)}</a></li>'


def _section(number: int, section: Section) -> str:
    parts = "\n".join(map(_part, section.parts))
    return f'<section id="part-{number}">\n<h2>{escape(section.title)}</h2>\n{parts}\n</section>'


def _part(part: str | Table | Chart | Code) -> str:
    if isinstance(part, str):
        return _paragraphs(part)
    if isinstance(part, Code):
        text = f"<pre>{escape(part.text)}</pre>"
        return f"<details><summary>{escape(part.title)}</summary>{text}</details>" if part.title else text
    return _table(part, 3) if isinstance(part, Table) else _chart(part, 3)


def _headed(level: int, title: str, body: str, caption: str) -> str:
    heading = f"<h{level}>{escape(title)}</h{level}>\n" if title else ""
    kind = "section" if level == 2 else "div"
    return f"<{kind}>\n{heading}{body}\n{_paragraphs(caption, 'caption')}\n</{kind}>"


def _table(table: Table, level: int = 2) -> str:
    texts = [[cell_text(cell) for cell in row] for row in table.rows]
    classes = [_cell_class(column, table.names) for column in zip(*texts, strict=True)] or [""] * len(table.columns)
    classes[0] = classes[0].replace(' class="number"', "")  # names, even where they are numbers
    head = "".join(f'<th scope="col"{c}>{escape(name)}</th>' for name, c in zip(table.columns, classes, strict=True))
    body = "\n".join(f"<tr>{_row(row, classes)}</tr>" for row in texts)
    label = escape(table.title or " ".join(table.columns[:1]))
    scroll = f"""<div class="scroll" tabindex="0" role="region" aria-label="{label}"><table>
<thead><tr>{head}</tr></thead>
<tbody>
{body}
</tbody>
</table></div>"""
    return _headed(level, table.title, scroll, table.caption)


def _cell_class(texts: Sequence[str], names: bool) -> str:
    if not names and all(map(_looks_numeric, texts)):
        return ' class="number"'
    longest = max(len(line) for text in texts for line in text.splitlines() or [""])
    return ' class="long"' if longest > LONGEST_LINE else ""


def _row(texts: Sequence[str], classes: Sequence[str]) -> str:
    cells = [f"<td{c}>{_cell(text)}</td>" for text, c in zip(texts, classes, strict=True)]
    return "".join([f'<th scope="row"{classes[0]}>{_cell(texts[0])}</th>', *cells[1:]])


def _cell(text: str) -> str:
    first, newline, second = text.partition("\n")
    return f'{escape(first)}<br><span class="second">{escape(second)}</span>' if newline else escape(text)


def cell_text(cell: str | int | float | None) -> str:
    """Write a cell: thousands apart, floats with four digits but three decimals at most, a dash for what is not."""
    if cell is None or (isinstance(cell, float) and math.isnan(cell)):
        return "–"
    if isinstance(cell, float):
        decimals = next((n for n, size in enumerate((1000, 100, 10)) if abs(cell) >= size), 3)
        return f"{cell:,.{decimals}f}"
    return f"{cell:,}" if isinstance(cell, int) else cell


def _looks_numeric(text: str) -> bool:
    return re.match(r"[-+±−–<>~]?\d|–$|inf$", text) is not None


def _chart(chart: Chart, level: int = 2) -> str:
    return _headed(level, chart.title, line_chart(chart), chart.caption)


def _samples(samples: Mapping[str, str], prompt: str) -> str:
    figures = [
        f'<figure><figcaption>{escape(name)}</figcaption><pre><span class="prompt">{escape(prompt)}</span>'
        f"{escape(text)}</pre></figure>"
        for name, text in samples.items()
    ]
    return f"""<section>
<h2>What the models write</h2>
<p class="caption">All go on from the same prompt, shown in grey.</p>
<div class="samples">
{"".join(figures)}
</div>
</section>"""


STYLE = (
    """:root { color-scheme: light dark; }
:root { --page: #fff; --text: #1c2024; --faint: #5f6871; --rule: #dfe3e8; --card: #f5f7f9; }
@media (prefers-color-scheme: dark) {
  :root { --page: #14171a; --text: #e6e9ec; --faint: #9aa4ae; --rule: #30363c; --card: #1d2226; }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--text); font: 1rem/1.55 system-ui, sans-serif; }
main { max-width: 52rem; margin: 0 auto; padding: 2rem 1rem; overflow-wrap: break-word; }
h1 { font-size: 1.75rem; line-height: 1.2; margin: 0 0 1rem; }
h2 { font-size: 1.15rem; margin: 2.5rem 0 .75rem; }
h3 { font-size: 1rem; margin: 1.75rem 0 .5rem; }
p { margin: 0 0 .75rem; max-width: 42rem; }
a { color: inherit; }
.caption, footer { color: var(--faint); font-size: .9rem; }
.caption { margin-top: .5rem; }
footer { border-top: 1px solid var(--rule); margin-top: 3rem; padding-top: 1rem; }
.scroll { overflow-x: auto; background:
  linear-gradient(var(--page), var(--page)) right / 1rem 100% no-repeat local,
  linear-gradient(to left, var(--rule), transparent) right / 1rem 100% no-repeat scroll; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: .45rem .75rem; text-align: left; border-bottom: 1px solid var(--rule); white-space: nowrap; }
thead th { color: var(--faint); font-size: .85rem; line-height: 1.3; vertical-align: bottom; white-space: normal; }
tbody th { font-weight: 600; } tbody tr > * { vertical-align: top; }
th:first-child { padding-left: 0; position: sticky; left: 0; background: var(--page); }
@media (max-width: 560px) {
  th, td { padding-left: .5rem; padding-right: .5rem; }
  tbody th:first-child { white-space: normal; min-width: 6rem; overflow-wrap: break-word; }
}
.number { text-align: right; min-width: 6rem; }
.second { color: var(--faint); font-size: .85rem; font-weight: normal; }
main.long { max-width: 74rem; } main.long .wide { max-width: 52rem; }
main.long .wide, main.long .narrow { margin-top: 1rem; }
td.long, th.long { white-space: normal; min-width: 12rem; overflow-wrap: anywhere; }
.contents { columns: 15rem; padding: .75rem 1rem; background: var(--card); border-radius: .5rem; font-size: .9rem; }
.contents ul { list-style: none; margin: 0 0 .5rem; padding: 0; } .contents li { break-inside: avoid; }
.contents h3 { font-size: .85rem; color: var(--faint); margin: .25rem 0 0; break-after: avoid; }
summary { cursor: pointer; margin: .5rem 0; } section > pre, details > pre { background: var(--card); }
section > pre, details > pre { padding: .75rem 1rem; border-radius: .5rem; margin: 0 0 .75rem; }
.samples { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 20rem), 1fr)); gap: 1rem; }
figure { margin: 0; padding: .75rem 1rem; background: var(--card); border-radius: .5rem; }
figcaption { font-weight: 600; margin-bottom: .5rem; }
pre { margin: 0; font: .85rem/1.5 ui-monospace, monospace; white-space: pre-wrap; overflow-wrap: anywhere; }
.prompt { color: var(--faint); }
"""
    + CHART_STYLE
)
