import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from pd_lightning.report.page import Chart, Code, Section, Table, cell_text, write_report

NASTY = "<script>alert('x')</script> & \"co\""


class Page(HTMLParser):
    """The elements of a page, and its text."""

    VOID = ("meta", "br")

    def __init__(self, source: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(source)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def write(path: Path, **contents) -> tuple[str, Page]:
    write_report(path, **{"title": "Title", **contents})
    source = path.read_text(encoding="utf-8")
    return source, Page(source)


def full(path: Path, text: str = "text as long as the other one, for charts") -> tuple[str, Page]:
    return write(
        path,
        title=text,
        intro=f"{text}\n\nsecond",
        tables=[Table(text, [text, "loss"], [[text, 1.5]], text)],
        charts=[Chart(text, text, text, {text: [(0, 1), (1, 2)], "b": [(0, 2), (1, 1)]}, text)],
        samples={text: f"{text}\n  two"},
        prompt=text,
        footer=text,
        sections=[
            Section(
                text, [text, Table(text, [text, "loss"], [[f"{text}\n{text}", 1.5]], text), Code(text, text)], text
            ),
            Section(text, [Chart(text, text, text, {text: [(0, 1)]}, x_names=[text]), Code(text)]),
        ],
    )


def test_the_page_is_well_formed_and_says_how_to_show_it(tmp_path):
    source, page = full(tmp_path / "new" / "report.html")
    assert page.open == []
    assert source.startswith("<!DOCTYPE html>")
    assert page.all("html") == [{"lang": "en"}]
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in page.all("meta")
    assert "prefers-color-scheme: dark" in source


def test_the_page_needs_nothing_from_outside(tmp_path):
    source, page = full(tmp_path / "report.html")
    assert not {"script", "link", "img", "iframe", "object"} & {tag for tag, _ in page.elements}
    assert not re.search(r"https?:|url\(|@import|\bsrc=|\bhref=\"[^#]", source)


def test_text_is_never_taken_as_html(tmp_path):
    plain, _ = full(tmp_path / "plain.html")
    source, page = full(tmp_path / "nasty.html", NASTY)
    assert [tag for tag, _ in page.elements] == [tag for tag, _ in Page(plain).elements]
    assert NASTY in page.text
    assert "<script" not in source


def test_a_table_has_headers_for_its_columns_and_rows(tmp_path):
    rows = [["LM", 4.62, "4.1 ± 0.2", "a"], ["PD", float("nan"), None, "3b"]]
    _, page = write(tmp_path / "report.html", tables=[Table("Results", ["model", "loss", "mean", "note"], rows)])
    scopes = [(cell["scope"], cell.get("class")) for cell in page.all("th")]
    assert scopes == [("col", None), *[("col", "number")] * 2, ("col", None), *[("row", None)] * 2]
    assert [cell.get("class") for cell in page.all("td")] == ["number", "number", None] * 2


def test_a_second_line_of_a_cell_is_small_and_long_cells_are_broken(tmp_path):
    source, page = write(
        tmp_path / "report.html", tables=[Table("", ["a", "b"], [["k", "−1 ± 2\nbetter"], ["x" * 41, "3"]])]
    )
    assert '<td class="number">−1 ± 2<br><span class="second">better</span></td>' in source
    assert [cell.get("class") for cell in page.all("th")][2:] == ["long", "long"]
    assert page.all("h2") == []


def test_contents_lead_to_the_chapters_under_their_groups(tmp_path):
    names = [("One", ""), ("Two", "Axes"), ("Three", "Axes"), ("Four", "")]
    source, page = write(tmp_path / "report.html", sections=[Section(name, ["text"], group) for name, group in names])
    assert [link["href"] for link in page.all("a")] == [f"#{part['id']}" for part in page.all("section")]
    assert re.findall(r"<h3>(.*?)</h3><ul>(.*?)</ul>", source) == [
        ("Axes", '<li><a href="#part-1">Two</a></li><li><a href="#part-2">Three</a></li>')
    ]


def test_code_keeps_its_lines_and_folds_under_a_title(tmp_path):
    source, _ = write(tmp_path / "report.html", sections=[Section("A", [Code("a:\n  b"), Code("c", "All of it")])])
    assert "<pre>a:\n  b</pre>" in source
    assert "<details><summary>All of it</summary><pre>c</pre></details>" in source


def test_numbers_that_are_names_stand_to_the_left(tmp_path):
    table = Table("Options", ["axis", "helped"], [["k", "10"], ["loss", None]], names=True)
    _, page = write(tmp_path / "report.html", tables=[table])
    assert [cell.get("class") for cell in page.all("td")] == [None, None]


def test_a_table_without_rows_is_a_table(tmp_path):
    _, page = write(tmp_path / "report.html", tables=[Table("Results", ["model", "loss"], [])])
    assert len(page.all("th")) == 2
    assert page.all("td") == []


def test_ragged_tables_are_our_mistake():
    with pytest.raises(AssertionError, match="ragged table 'Results'"):
        Table("Results", ["model", "loss"], [["LM"]])


@pytest.mark.parametrize(
    ("cell", "text"),
    [
        ("as is", "as is"),
        (None, "–"),
        (float("nan"), "–"),
        (0.0, "0.000"),
        (0.41236, "0.412"),
        (-4.3071, "-4.307"),
        (41.0, "41.00"),
        (101.64, "101.6"),
        (1234567.8, "1,234,568"),
        (1228800, "1,228,800"),
        (float("inf"), "inf"),
    ],
)
def test_cells(cell, text):
    assert cell_text(cell) == text


def test_samples_keep_their_lines_after_the_prompt(tmp_path):
    source, page = write(tmp_path / "report.html", samples={"LM": "(x):\n    <b>", "PD": "y"}, prompt="def f")
    assert '<span class="prompt">def f</span>(x):\n    &lt;b&gt;</pre>' in source
    assert len(page.all("pre")) == 2


def test_what_there_is_none_of_leaves_no_trace(tmp_path):
    _, page = write(tmp_path / "report.html")
    assert not {"section", "footer", "figure", "table", "svg", "p"} & {tag for tag, _ in page.elements}
