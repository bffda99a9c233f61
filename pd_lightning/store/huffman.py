"""Entropy coding of byte streams by zstd's Huffman coder alone.

The streams of a block hold hardly a match, and chance ones cost the symbols around them more than they save. So zstd
is asked for the longest minimum match, and each stream becomes a block of the frame with a Huffman table of its own.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import zstandard

from pd_lightning.store.damage import require

# Of an item, expanded. Numbers take eight bytes each while they are decoded, so that a crafted item, which can be tiny,
# asks for a few GB at most; 4,096 positions with 9,000 ids each stay below.
MOST_BYTES = 1 << 28
# A target_length above 0 would turn Huffman coding off with this strategy.
_HUFFMAN = zstandard.ZstdCompressionParameters(
    strategy=zstandard.STRATEGY_FAST, min_match=7, hash_log=6, window_log=17, write_content_size=True
)


def compress(streams: Iterable[bytes]) -> bytes:
    """Compress streams, one after another, into one zstd frame.

    Args:
        streams: Bytes whose values are distributed alike within a stream.

    Raises:
        ValueError: They are more than `decompress` expands.
    """
    streams = list(streams)
    size = sum(map(len, streams))
    if size > MOST_BYTES:
        raise ValueError(
            f"the targets of a block must take at most {MOST_BYTES:,} bytes before compression, got {size:,}. Keep "
            "fewer ids at each position, or tokenize with a smaller block_size."
        )
    compressor = zstandard.ZstdCompressor(compression_params=_HUFFMAN).compressobj(size=size)
    frame = []
    for stream in streams:
        frame += [compressor.compress(stream), compressor.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK)]
    return b"".join([*frame, compressor.flush()])


def decompress(frame: bytes, size: int) -> np.ndarray:
    """Decompress what `compress` gave.

    Args:
        frame: The zstd frame.
        size: What all streams have together, in bytes.

    Returns:
        The streams one after another, uint8 `[size]`, not to be written to.

    Raises:
        ValueError: The frame is damaged or of another size.
    """
    require(size <= MOST_BYTES, f"its payload expands to {size} bytes, more than the {MOST_BYTES} of any block")
    try:
        # The frame's own idea of its size is checked first, so that a damaged one can't ask for gigabytes.
        declared = zstandard.frame_content_size(frame)
        require(declared == size, f"its payload expands to {declared} bytes, not {size}")
        return np.frombuffer(zstandard.ZstdDecompressor().decompress(frame), dtype=np.uint8)
    except zstandard.ZstdError as error:
        raise ValueError(f"its payload does not decompress ({error})") from error
