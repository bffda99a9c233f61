"""Writing one split: documents in, chunks of blocks out, one chunk in memory at a time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pd_lightning.data.pack import Packer
from pd_lightning.store.chunks import write_chunk
from pd_lightning.store.codec import encode_tokens
from pd_lightning.store.manifest import SplitInfo

CHUNK_BYTES = 32 * 2**20
CHUNK_BLOCKS = 8192  # more would cost memory in Python objects, not in tokens


class SplitWriter:
    """Packs documents into blocks and writes them chunk by chunk.

    Args:
        folder: The split's folder.
        packer: Cuts the token stream.
        vocab_size: V; all ids are below.
        blocks_per_chunk: None for about 32 MB.
    """

    def __init__(self, folder: Path, packer: Packer, vocab_size: int, blocks_per_chunk: int | None) -> None:
        self.folder = folder
        self.packer = packer
        self.vocab_size = vocab_size
        width = 2 if vocab_size <= 2**16 else 4
        by_size = CHUNK_BYTES // ((packer.block_size + 1) * width)
        self.blocks_per_chunk = blocks_per_chunk or max(1, min(CHUNK_BLOCKS, by_size))
        self.num_blocks = 0

    def add(self, ids: Sequence[int] | NDArray[np.integer[Any]], size: int, ends: bool = True) -> None:
        """Appends a document, or a piece of one, see Packer; writes the chunks that it fills."""
        self.packer.add(ids, size, ends)
        while self.packer.ready >= self.blocks_per_chunk:
            self._write(self.blocks_per_chunk)

    def close(self) -> SplitInfo:
        """Writes the last, short chunk; what is left after it is less than a block and is dropped."""
        if self.packer.ready:
            self._write(self.packer.ready)
        packer = self.packer
        extra = {
            "documents": packer.documents,
            "bytes": packer.bytes,
            "tokens": packer.tokens,
            "dropped_tokens": packer.dropped_tokens,
        }
        return SplitInfo(self.num_blocks, self.num_blocks * packer.block_size, self.blocks_per_chunk, extra)

    def _write(self, count: int) -> None:
        items = [encode_tokens(block, self.vocab_size) for block in self.packer.take(count)]
        write_chunk(self.folder, self.num_blocks // self.blocks_per_chunk, items)
        self.num_blocks += count
