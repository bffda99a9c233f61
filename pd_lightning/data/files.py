"""Finding and opening the files of a corpus."""

from __future__ import annotations

import glob
import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO


def find_files(paths: list[str], key: str) -> list[Path]:
    """The files that `paths` name, in the order given, sorted within a folder or glob.

    Args:
        paths: Files, folders (all files in them, hidden ones left out) and globs.
        key: The setting that they come from, for messages: `source.paths of TextFiles`.

    Raises:
        FileNotFoundError: An entry names no file.
        ValueError: There is no entry.
    """
    if not paths:
        raise ValueError(f"paths must name at least one file, got []. Set {key}.")
    return [file for entry in paths for file in _matches(entry, key)]


def _matches(entry: str, key: str) -> list[Path]:
    path = Path(entry).expanduser()
    if path.is_file():
        return [path]  # before globbing: a name with brackets in it may be a file
    if path.is_dir():
        inside = ((file, file.relative_to(path).parts) for file in path.rglob("*") if file.is_file())
        files = sorted(file for file, parts in inside if not any(part.startswith(".") for part in parts))
    else:
        found = map(Path, glob.glob(str(path), recursive=True))  # noqa: PTH207 - Path.glob takes no absolute pattern
        files = sorted(file for file in found if file.is_file())
    if not files:
        raise FileNotFoundError(
            "each entry of paths must name a file, a folder with files or a glob that matches some, got "
            f"{entry!r}. Mend {key}."
        )
    return files


def open_text(path: Path) -> TextIO:
    """Opens a UTF-8 file for reading, decompressing `.gz` and `.zst` on the way."""
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8")
    if path.suffix == ".zst":
        import zstandard

        return io.TextIOWrapper(zstandard.open(path, "rb"), encoding="utf-8")
    return path.open(encoding="utf-8")


def total_size(paths: list[Path]) -> int:
    """Bytes of all files together."""
    return sum(path.stat().st_size for path in paths)


@contextmanager
def readable(path: Path, encoding: str, remedy: str) -> Iterator[None]:
    """Says which file is no text where reading fails inside the block.

    Args:
        path: The file.
        encoding: That it must have.
        remedy: What to do.

    Raises:
        ValueError: In place of errors of decoding and decompressing.
    """
    from zstandard import ZstdError

    try:
        yield
    except (UnicodeDecodeError, zlib.error, EOFError, gzip.BadGzipFile, ZstdError) as error:
        raise ValueError(f"{path} must be text in {encoding}, got bytes that are not ({error}). {remedy}") from None


@contextmanager
def parquet_file(parquet: Any, path: Path, remedy: str) -> Iterator[Any]:
    """Opens a Parquet file.

    Args:
        parquet: `pyarrow.parquet`.
        path: The file.
        remedy: What to do about one that is none.

    Raises:
        ValueError: It is none.
    """
    try:
        file = parquet.ParquetFile(path)
    except ValueError as error:  # PyArrow's own are such
        reason = str(error).splitlines()[0].rstrip(".")
        raise ValueError(f"{path} must be a Parquet file, got something else ({reason}). {remedy}") from error
    with file:
        yield file
