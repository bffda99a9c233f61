"""Token ids end to end in a file, as nanoGPT, llm.c and modded-nanogpt keep them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np

from pd_lightning.data.files import find_files
from pd_lightning.data.token_sources import Document, Ids, TokenSource, check_split_tokens, cut, parts

_HEADER_BYTES = 1024  # 256 numbers of 32 bits, the first three of which say something
# Magic number and version of a header, and the type of the ids behind it.
_HEADERS = {(20240520, 1): "<u2", (20240801, 7): "<u4"}


class NanoGPT(TokenSource):
    """Flat `.bin` files of nanoGPT, and those with a header of llm.c and modded-nanogpt; cut at each end-of-text.

    All files are one stream. nanoGPT's own validation file is a data set of its own: name `train.bin` here, and run
    once more for `val.bin` if you want its split.

    Args:
        paths: Files, folders (the `.bin` files in them) and globs.
        dtype: Of the ids in files without a header.
        split_tokens: A document that is longer comes in pieces of about so many ids, and each counts as a document
            where there is a validation split.
    """

    def __init__(
        self, paths: list[str], dtype: Literal["uint16", "uint32"] = "uint16", split_tokens: int = 1_000_000
    ) -> None:
        self.paths = paths
        self.dtype = dtype
        self.split_tokens = check_split_tokens(split_tokens)

    def documents(self, eos_token_id: int | None) -> Iterator[Document]:
        """Yields the documents, see TokenSource."""
        stream = (part for path in self._files() for part in parts(self._read(path), self.split_tokens))
        yield from cut(stream, eos_token_id, self.split_tokens)

    def num_tokens(self) -> int:
        """Ids of all files together."""
        return sum(len(self._read(path)) for path in self._files())

    def _files(self) -> list[Path]:
        key = "source.paths of NanoGPT"
        files = [path for path in find_files(self.paths, key) if path.suffix == ".bin"]
        if not files:
            raise FileNotFoundError(f"paths must name a .bin file, got {self.paths}. Mend {key}.")
        return files

    def _read(self, path: Path) -> Ids:
        size, dtype, offset = path.stat().st_size, np.dtype(self.dtype).newbyteorder("<"), 0
        if size >= _HEADER_BYTES:
            magic, version, count = (int(n) for n in np.fromfile(path, "<i4", 3))
            if (magic, version) in _HEADERS:
                dtype, offset = np.dtype(_HEADERS[magic, version]), _HEADER_BYTES
                if size != offset + count * dtype.itemsize:
                    raise ValueError(
                        f"{path} must hold the {count} ids that its header tells of, got {size - offset} bytes of "
                        "them. Get it again from where it came from."
                    )
        if (size - offset) % dtype.itemsize:
            raise ValueError(
                f"{path} must hold {dtype.name} numbers, got {size} bytes, which is no multiple of {dtype.itemsize}. "
                "Set source.dtype, or get the file again."
            )
        return np.memmap(path, dtype, "r", offset) if size > offset else np.empty(0, dtype)
