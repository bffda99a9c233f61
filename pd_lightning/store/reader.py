"""Random access to the decoded blocks of one split."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from pd_lightning.store.chunks import blocks_in_chunk, chunk_name, num_chunks
from pd_lightning.store.codec import decode
from pd_lightning.store.damage import require
from pd_lightning.store.manifest import Manifest
from pd_lightning.store.safety import header_problem, remedy, verify_layout

# Memory-mapped chunks at a time; random reads over more of them remap, which costs a few system calls. Where chunks are
# fetched into a cache, one that is removed from it takes disk as long as it is mapped.
_OPEN_CHUNKS = 64
_OPEN_FETCHED = 4
# A fetched chunk can be gone before it is opened, when another process makes room in the same cache.
_ATTEMPTS = 5


class BlockReader:
    """The blocks of one split, by index.

    Safe to pickle and to fork: every process opens the files by itself, at its first read.

    Args:
        folder: The data folder; `safety.verify_layout` checks it here.
        split: Name of the split.
        fetch: Puts a chunk in its place, given its path in the folder: asked before each read where chunks may be
            missing. None where all are there.
        manifest: What `safety.verify_layout` gave, where the folder is checked already.

    Raises:
        FileNotFoundError: No such folder, or an unfinished one.
        ValueError: No such split, or a damaged folder.
    """

    def __init__(
        self,
        folder: str | Path,
        split: str,
        fetch: Callable[[str], None] | None = None,
        manifest: Manifest | None = None,
    ) -> None:
        self.folder = Path(folder)
        self.split = split
        self.manifest = manifest or verify_layout(folder, chunks=fetch is None)
        self._fetch = fetch
        self._sound: set[int] = set()  # chunks whose header is
        if split not in self.manifest.splits:
            raise ValueError(f"the split must be one of {sorted(self.manifest.splits)}, got {split!r} in {folder}.")
        self._info = self.manifest.splits[split]
        self._litdata: Any = None
        self._process = 0

    def __len__(self) -> int:
        return self._info.num_blocks

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        """Decode one block.

        Returns:
            `block` int64 `[T+1]`; for kind `logits` also what `codec.decode` gives: `counts` int64 `[T]`, `ids` int64
            `[S]`, `logprobs` float32 `[S]` or `draws` int64 `[S]`, each declared column float32 `[T]`, and
            `teacher_step` int64 `[1]` where the teacher was in training; S is the sum of the counts.

        Raises:
            IndexError: No such block.
            ValueError: The block is damaged; names its file.
        """
        index = int(index)
        if not 0 <= index < len(self):
            raise IndexError(f"block {index} of {len(self)}")
        encoded = self.encoded(index)
        try:
            return decode(encoded, self.manifest)
        except (ValueError, MemoryError, struct.error) as error:
            raise self._damaged(index, error) from error

    def encoded(self, index: int) -> dict[str, np.ndarray]:
        """Give one block as it is stored.

        Raises:
            ValueError: The block can't be read; names its file.
            FileNotFoundError: The folder has vanished.
            OSError: Its chunk can't be fetched.
        """
        if self._process != os.getpid():
            self._litdata, self._process = self._open(), os.getpid()
        chunk = index // self._info.blocks_per_chunk
        attempts = 1 if self._fetch is None else _ATTEMPTS
        for attempt in range(1, attempts + 1):
            if self._fetch is not None:
                self._fetch(f"{self.split}/{chunk_name(chunk)}")
            try:
                return self._read(index, chunk)
            except FileNotFoundError as error:
                if attempt == attempts:
                    raise self._damaged(index, error) from error
            except (ValueError, RuntimeError, OSError, struct.error) as error:
                raise self._damaged(index, error) from error
        raise AssertionError("the last attempt returns or raises")

    def _read(self, index: int, chunk: int) -> dict[str, np.ndarray]:
        from litdata.streaming.sampler import ChunkedIndex

        # `verify_layout` saw its share of the headers, and only of chunks that were there.
        if chunk not in self._sound:
            path = self.folder / self.split / chunk_name(chunk)
            problem = header_problem(path, blocks_in_chunk(chunk, self._info))
            require(problem is None, f"its chunk {problem}")
            self._sound.add(chunk)
        # litdata would look for the chunk by going through the list of all of them.
        item: dict[str, np.ndarray] = self._litdata.read(ChunkedIndex(index, chunk))
        return item

    def _damaged(self, index: int, error: Exception) -> ValueError | FileNotFoundError:
        if not self._place.is_dir():
            return self._gone()
        chunk, item = divmod(index, self._info.blocks_per_chunk)
        path = self._place / chunk_name(chunk)
        return ValueError(f"item {item} of {path} is damaged: {error}. {remedy(self.folder)}")

    @property
    def _place(self) -> Path:
        return self.folder / self.split

    def _gone(self) -> FileNotFoundError:
        return FileNotFoundError(
            f"{self._place} must stay where it is while it is read, got no such folder any more. Put it back, then run "
            "the same command again, fit with --ckpt_path auto."
        )

    def _open(self) -> Any:
        # Not StreamingDataset: it first asks the package index for a newer litdata, waiting up to 30 s where
        # there is no network, and its length and iteration depend on the rank.
        from litdata.streaming.item_loader import PyTreeLoader
        from litdata.streaming.reader import BinaryReader

        if not self._place.is_dir():
            raise self._gone()
        # Neighbours are of no use to shuffled reads: decode the one block that is asked for, out of a memory map
        # (litdata's other way reads the whole chunk for it), and don't ask the system to fetch the chunk ahead.
        loader = PyTreeLoader(batch_decode=0)
        loader.set_posix_fast(True, keep=_OPEN_CHUNKS if self._fetch is None else _OPEN_FETCHED, willneed=False)
        loader.set_mmap_allowed_chunks(set(range(num_chunks(len(self), self._info.blocks_per_chunk))))
        return BinaryReader(str(self._place), item_loader=loader)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_litdata": None, "_process": 0}
