import itertools
import json
import sys
from pathlib import Path

import pytest

from pd_lightning.data import StandardLibrary, StandardLibraryCode, StandardLibraryDocs

FILE = '''"""A module.

    Indented."""
import os  # é


class A:
    r"""A class with a \\d."""
    def one(self): "on the line of its def"

    async def two(self):
        """A method,
        of two lines."""
        return """no docstring"""


def nothing():
    f"""no docstring {os}"""
'''


def test_standard_library_is_real_and_repeatable():
    source = StandardLibrary()
    first = list(itertools.islice(source, 20))
    assert first == list(itertools.islice(source, 20))
    assert all(first[:3])
    files = source._files()
    assert len(files) > 300
    assert source.size_hint() > 5_000_000
    assert not {"test", "tests", "site-packages", "__pycache__"} & {
        part for file in files for part in file.parts[-3:-1]
    }
    assert Path(json.__file__) in files
    assert platform_version() in repr(source)


def platform_version() -> str:
    return ".".join(map(str, sys.version_info[:3]))


@pytest.fixture
def files(tmp_path, monkeypatch):
    """A library of a good file, one that this Python can't parse, and an empty one."""
    paths = []
    for name, text in {"a.py": FILE, "old.py": 'print "old"\n', "pydoc_data/topics.py": "topics = {}\n"}.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
        paths.append(path)
    monkeypatch.setattr(StandardLibrary, "_files", lambda self: paths)


def test_code_has_no_docstrings_and_docs_are_them(files):
    code, old = StandardLibraryCode()
    assert old == 'print "old"\n'
    docs, *_ = StandardLibraryDocs()
    assert docs == "A module.\n\nIndented.\n\nA class with a \\d.\n\nA method,\nof two lines."
    lines = enumerate(FILE.splitlines(keepends=True), start=1)
    assert code == "".join(line for number, line in lines if number not in {1, 2, 3, 8, 12, 13})


def test_topics_are_prose_and_not_code(files):
    from pydoc_data.topics import topics

    documents = list(StandardLibraryDocs())
    assert documents[3:] == [topics[name] for name in sorted(topics)]
    assert "topics = {}" not in "".join(StandardLibraryCode())
