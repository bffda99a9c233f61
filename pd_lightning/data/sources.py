"""Where text comes from: one class each, iterated again and again, one document in memory at a time.

A class of your own works the same: subclass `Source`, yield strings, name it by `class_path`.
"""

from __future__ import annotations

import codecs
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

from pd_lightning.data.files import find_files, open_text, parquet_file, readable, total_size
from pd_lightning.redaction import redact

_GOOD_FILES = "Mend the file, set source.encoding, or name the good files alone with a glob in source.paths."
_OTHER_SOURCE = "Mend the file, or set source to pd_lightning.data.JSONLines or TextFiles."
EXTRA = "Install it with: pip install 'pd-lightning[data]'"


class Source(ABC):
    """An iterable of documents that can be iterated more than once and gives the same documents each time."""

    @abstractmethod
    def __iter__(self) -> Iterator[str]:
        """Yields the documents, one string each."""

    def size_hint(self) -> int | None:
        """Bytes of text to expect, for the progress bar; None where that is not known."""
        return None

    def __repr__(self) -> str:
        """Class and settings: what `tokenize` compares to tell whether a folder holds the same corpus."""
        shown = redact({name: value for name, value in vars(self).items() if name[0] != "_"})  # it goes into manifests
        settings = ", ".join(f"{name}={value!r}" for name, value in shown.items())
        return f"{type(self).__qualname__}({settings})"


class TextFiles(Source):
    """Plain text files, one document each.

    Args:
        paths: Files, folders (all files in them, hidden ones left out) and globs (`**` goes through folders).
        encoding: Of the files.
        split_bytes: A file longer than this is cut at the next line end, and each piece counts as a document:
            memory stays bounded, and one long file can still be split into training and validation.
    """

    def __init__(self, paths: list[str], encoding: str = "utf-8", split_bytes: int = 1_000_000) -> None:
        if split_bytes < 1:
            raise ValueError(f"split_bytes must be at least 1, got {split_bytes}. Raise source.split_bytes.")
        self.paths = paths
        self.encoding = _known_encoding(encoding)
        self.split_bytes = split_bytes

    def __iter__(self) -> Iterator[str]:
        for path in find_files(self.paths, "source.paths of TextFiles"):
            with path.open(encoding=self.encoding, newline="") as file, readable(path, self.encoding, _GOOD_FILES):
                while piece := file.read(self.split_bytes):
                    yield piece + file.readline(self.split_bytes)

    def size_hint(self) -> int | None:
        """Bytes of all files together."""
        return total_size(find_files(self.paths, "source.paths of TextFiles"))


class JSONLines(Source):
    """JSON Lines files with the text in one field; `.gz` and `.zst` are decompressed on the way.

    Args:
        paths: Files, folders and globs.
        field: Name of the field that holds the text. A null or empty text is left out.
    """

    def __init__(self, paths: list[str], field: str = "text") -> None:
        self.paths = paths
        self.field = field

    def __iter__(self) -> Iterator[str]:
        for path in find_files(self.paths, "source.paths of JSONLines"):
            with open_text(path) as file, readable(path, "utf-8", _GOOD_FILES):
                for number, line in enumerate(file, start=1):
                    if line.strip() and (text := self._text(line, f"{path}, line {number}")):
                        yield text

    def size_hint(self) -> int | None:
        """Bytes of all files together; None where some are compressed."""
        paths = find_files(self.paths, "source.paths of JSONLines")
        return None if any(path.suffix in {".gz", ".zst"} for path in paths) else total_size(paths)

    def _text(self, line: str, where: str) -> str:
        try:
            record = json.loads(line)
        except (json.JSONDecodeError, RecursionError) as error:
            raise ValueError(
                f"{where} must be one JSON object, got something else ({error}). Mend the line, or use "
                "pd_lightning.data.TextFiles for plain text."
            ) from None
        return _field(record, self.field, where)


class Parquet(Source):
    """Parquet files with the text in one column, read row group by row group.

    Args:
        paths: Files, folders and globs.
        column: Name of the column that holds the text. A null or empty text is left out.
    """

    def __init__(self, paths: list[str], column: str = "text") -> None:
        self.paths = paths
        self.column = column

    def __iter__(self) -> Iterator[str]:
        for file in self._files():
            for batch in file.iter_batches(batch_size=1024, columns=[self.column]):
                yield from (text for text in batch.column(0).to_pylist() if text)

    def size_hint(self) -> int | None:
        """Uncompressed bytes of the column over all files."""
        total = 0
        for file in self._files():
            groups = (file.metadata.row_group(i) for i in range(file.metadata.num_row_groups))
            columns = (group.column(i) for group in groups for i in range(group.num_columns))
            total += sum(c.total_uncompressed_size for c in columns if c.path_in_schema == self.column)
        return total

    def _files(self) -> Iterator[Any]:
        pq = optional_package("pyarrow.parquet", "pyarrow", "pd_lightning.data.Parquet")
        for path in find_files(self.paths, "source.paths of Parquet"):
            with parquet_file(pq, path, _OTHER_SOURCE) as file:
                names = file.schema_arrow.names
                if self.column not in names:
                    raise ValueError(
                        f"{path} must have the column {self.column!r}, got {', '.join(names)}. Set source.column."
                    )
                yield file


class HuggingFace(Source):
    """A Hugging Face data set, streamed.

    Args:
        name: Name on the hub, or a local folder (files that `datasets` can load, or what `save_to_disk` wrote).
        split: Name of the split.
        config: Name of the configuration, where the data set has several.
        field: Name of the field that holds the text. A null or empty text is left out.
    """

    def __init__(self, name: str, split: str = "train", config: str | None = None, field: str = "text") -> None:
        self.name = name
        self.split = split
        self.config = config
        self.field = field

    def __iter__(self) -> Iterator[str]:
        for number, record in enumerate(self.records()):
            if text := _field(record, self.field, f"{self.name}, record {number}"):
                yield text

    def records(self) -> Iterable[Any]:
        """Gives the records, each a dict."""
        datasets = optional_package("datasets", "datasets", "pd_lightning.data.HuggingFace")
        folder = Path(self.name)
        try:
            if (folder / "dataset_dict.json").is_file():
                return datasets.load_from_disk(str(folder))[self.split]
            if (folder / "state.json").is_file():
                return datasets.load_from_disk(str(folder))
            return datasets.load_dataset(self.name, self.config, split=self.split, streaming=True)
        except (ValueError, KeyError, OSError) as error:
            reason = str(error).strip().split("\n")[0]
            raise ValueError(
                f"name, config and split must name a data set on the hub or a local folder, got {self.name!r}, "
                f"{self.config!r} and {self.split!r} ({reason}). Mend source.name, source.config or source.split."
            ) from error


def _field(record: Any, field: str, where: str) -> str:
    if isinstance(record, dict) and field in record:
        text = record[field]
        if text is None or isinstance(text, str):
            return text or ""
        got = type(text).__name__
    else:
        got = f"the fields {', '.join(record)}" if isinstance(record, dict) else type(record).__name__
    raise ValueError(f"{where} must hold text in the field {field!r}, got {got}. Set source.field.")


def _known_encoding(name: str) -> str:
    try:
        codecs.lookup(name)
    except LookupError:
        raise ValueError(
            f"encoding must be one that Python knows, got {name!r}. Set source.encoding to utf-8, say."
        ) from None
    return name


def optional_package(module: str, package: str, user: str) -> Any:
    """Import a module of the extra `data`.

    Raises:
        ModuleNotFoundError: It is missing; names the extra.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError:
        raise ModuleNotFoundError(f"{user} needs the package {package!r}, which is missing. {EXTRA}") from None
