"""The documentation builds without a warning, needs nothing from elsewhere, and says what there is."""

import json
import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
RESOURCE = re.compile(r"<(?:script|img|link|iframe|source)\b[^>]*?(?:src|href)=[\"']?((?:https?:)?//[^\"'> ]+)")
STYLE = re.compile(r"(?:url\(|@import)\s*[\"']?((?:https?:)?//[^\"') ]+)")


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built as `make docs` builds it."""
    from mkdocs.commands.build import build
    from mkdocs.config import load_config

    folder = tmp_path_factory.mktemp("site")
    config = load_config(str(ROOT / "mkdocs.yml"), site_dir=str(folder), strict=True)
    config.plugins.on_startup(command="build", dirty=False)
    build(config)
    return folder


def test_it_builds_without_a_warning(site: Path) -> None:
    for page in (ROOT / "docs").rglob("*.md"):
        assert (site / page.relative_to(ROOT / "docs").with_suffix(".html")).is_file()


def test_a_dead_link_ends_the_build(tmp_path: Path) -> None:
    from mkdocs.commands.build import build
    from mkdocs.config import load_config
    from mkdocs.exceptions import Abort

    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "index.md").write_text("[gone](gone.md)")
    settings = yaml.load((ROOT / "mkdocs.yml").read_text(), yaml.BaseLoader)
    kept = {name: settings[name] for name in ("site_name", "validation")}
    (tmp_path / "mkdocs.yml").write_text(yaml.safe_dump(kept | {"strict": settings["strict"] == "true"}))
    with pytest.raises(Abort):
        build(load_config(str(tmp_path / "mkdocs.yml")))


def test_nothing_is_fetched_from_elsewhere(site: Path) -> None:
    pages, styles = list(site.rglob("*.html")), list(site.rglob("*.css"))
    assert len(pages) > 30
    assert styles
    found = {match for page in pages for match in RESOURCE.findall(page.read_text(encoding="utf-8"))}
    assert found == set()
    assert {match for style in styles for match in STYLE.findall(style.read_text(encoding="utf-8"))} == set()


def test_what_would_be_fetched_is_found() -> None:
    assert RESOURCE.findall('<link rel="stylesheet" href="https://a.b/c.css"><script src=//d.e/f.js>') == [
        "https://a.b/c.css",
        "//d.e/f.js",
    ]
    assert STYLE.findall("a{background:url('https://a.b/c.png')}") == ["https://a.b/c.png"]


def test_every_class_of_our_configurations_is_in_the_reference(site: Path) -> None:
    text = "".join(page.read_text(encoding="utf-8") for page in (site / "reference").glob("*.html"))
    files = (ROOT / "configs").rglob("*.yaml")
    named = {name for file in files for name in re.findall(r"pd_lightning\.[\w.]*[A-Z]\w+", file.read_text())}
    assert len(named) > 20
    assert {name for name in named if f"class_path: {name}<" not in text} == set()


def test_the_reference_has_what_help_has() -> None:
    from reference import ROOMS, classes, entries, parameters, sections

    from pd_lightning import losses, teachers, transforms

    for name, room in (("losses", losses), ("teachers", teachers), ("transforms", transforms)):
        shown = {cls.__name__ for cls in classes(ROOMS[name])}
        assert shown == {one for one in room.__all__ if _concrete(getattr(room, one), ROOMS[name])}
    (top_pk,) = [cls for cls in classes(ROOMS["transforms"]) if cls.__name__ == "TopPK"]
    assert [parameter.name for parameter in parameters(top_pk)] == list(entries(sections(top_pk)["Args"]))


def _concrete(thing: object, room: object) -> bool:
    from inspect import isabstract, isclass

    from reference import load_target

    base = load_target(room.bases[0])  # type: ignore[attr-defined]
    return isclass(thing) and issubclass(thing, base) and not isabstract(thing)


def test_entries_are_read_with_their_further_lines() -> None:
    from reference import entries

    assert entries("    a: One\n        line more.\n    b: `x: y` two.\n") == {
        "a": "One line more.",
        "b": "`x: y` two.",
    }


def test_pictures_are_what_was_measured() -> None:
    from pictures import ASSETS, pictures

    measured = json.loads((ASSETS / "measured.json").read_text(encoding="utf-8"))
    for name, text in pictures(measured).items():
        assert (ASSETS / name).read_text(encoding="utf-8") == text, "run `python tools/pictures.py`"
    # The demo's figures, as README prints them too.
    assert str(measured["curves"]["offline"][-1][1]) in (ROOT / "README.md").read_text(encoding="utf-8")


def test_pictures_are_in_the_page(site: Path) -> None:
    text = (site / "index.html").read_text(encoding="utf-8")
    assert text.count('<figure class="picture"><svg') == 2
    assert "<img" not in text
    assert "fit, with a live teacher" in text
