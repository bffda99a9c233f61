"""The running Python's own standard library as a corpus: nothing to download.

Its code and its docs are sources of their own too, two domains that have no text in common.
"""

from __future__ import annotations

import ast
import inspect
import os
import platform
import sysconfig
import tokenize as python_source
from collections.abc import Iterator
from pathlib import Path

from pd_lightning.data.sources import Source

_TOPICS = "pydoc_data/topics.py"
_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


class StandardLibrary(Source):
    """The running Python's own standard library source: about 600 files, 11 MB, nothing to download."""

    SKIPPED = frozenset({"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__"})

    def __init__(self) -> None:
        self.python = platform.python_version()

    def __iter__(self) -> Iterator[str]:
        for path in self._files():
            with python_source.open(str(path)) as file:  # minds the coding line of old files
                yield file.read()

    def size_hint(self) -> int | None:
        """Bytes of all files together."""
        return sum(path.stat().st_size for path in self._files())

    def _files(self) -> list[Path]:
        root = Path(sysconfig.get_path("stdlib"))
        kept: list[str] = []
        for folder, folders, files in os.walk(root):
            folders[:] = [name for name in folders if name not in self.SKIPPED]
            relative = Path(folder).relative_to(root)
            kept += [(relative / name).as_posix() for name in files if name.endswith(".py")]
        if not kept:
            raise FileNotFoundError(
                f"pd_lightning.data.StandardLibrary must find Python source files, got none in {root}. Name another "
                "corpus, say --source pd_lightning.data.TextFiles --source.paths '[my_texts/]'."
            )
        return [root / path for path in sorted(kept)]


class StandardLibraryCode(StandardLibrary):
    """The code of the standard library, one document a file: its source without the lines of docstrings."""

    def __iter__(self) -> Iterator[str]:
        for text in super().__iter__():
            lines = text.splitlines(keepends=True)
            for docstring in _docstrings(text):
                for number in range(docstring.lineno - 1, docstring.end_lineno or docstring.lineno):
                    lines[number] = ""
            yield "".join(lines)

    def _files(self) -> list[Path]:
        return [path for path in super()._files() if not path.as_posix().endswith(_TOPICS)]  # prose in a Python file


class StandardLibraryDocs(Source):
    """The prose of the standard library, 2 MB: docstrings, one document a file, and the topics that `help()` knows."""

    def __init__(self) -> None:
        self.python = platform.python_version()

    def __iter__(self) -> Iterator[str]:
        from pydoc_data.topics import topics

        for text in StandardLibrary():
            yield "\n\n".join(inspect.cleandoc(str(docstring.value)) for docstring in _docstrings(text))
        yield from (topics[name] for name in sorted(topics))


def _docstrings(text: str) -> list[ast.Constant]:
    """The docstrings of a file that begin on lines of their own; none of a file in the Python of another time."""
    try:
        nodes = [node for node in ast.walk(ast.parse(text)) if isinstance(node, _DOCUMENTED)]
    except SyntaxError:
        return []
    found = []
    for node in nodes:
        match node.body:
            case [ast.Expr(ast.Constant(str()) as docstring), *_] if docstring.lineno > getattr(node, "lineno", 0):
                found.append(docstring)
    return sorted(found, key=lambda docstring: docstring.lineno)
