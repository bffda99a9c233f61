"""Blocks gathered into chunks in a thread of its own: the teacher does not wait for codec, disk and network."""

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from pd_lightning.recording.targets import Encoded

# One batch at work and one that waits: more would cost memory and gain nothing.
_AHEAD = 2


class ChunkWriter:
    """Takes batches in order and writes each chunk when it is full, or its split has ended.

    What goes wrong in the thread is raised by a later `add`, or by `finish`; nothing is written after it.

    Args:
        blocks_per_chunk: Blocks of a chunk.
        write: Writes a chunk, given its split, its number and its blocks.
    """

    def __init__(self, blocks_per_chunk: int, write: Callable[[str, int, list[Encoded]], None]) -> None:
        self._blocks_per_chunk = blocks_per_chunk
        self._write = write
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="chunk-writer")
        self._pending: deque[Future[None]] = deque()
        self._chunk = ("", 0)
        self._blocks: list[Encoded] = []
        self._failed = False

    def add(self, split: str, start: int, encode: Callable[[], Sequence[Encoded]]) -> None:
        """Take a batch; waits where two are in hand already.

        Args:
            split: Name of the split.
            start: Number of the batch's first block in its split.
            encode: Encodes its blocks.
        """
        while len(self._pending) >= _AHEAD:
            self._pending.popleft().result()
        self._pending.append(self._thread.submit(self._guarded, split, start, encode))

    def finish(self) -> None:
        """Write the last chunk as it is; only when the data have ended."""
        while self._pending:
            self._pending.popleft().result()
        if not self._failed:
            self._flush()
        self._thread.shutdown()

    def _guarded(self, split: str, start: int, encode: Callable[[], Sequence[Encoded]]) -> None:
        if self._failed:  # the batches behind the one that failed, which were in hand before anybody heard of it
            return
        try:
            self._gather(split, start, encode)
        except BaseException:
            self._failed = True
            raise

    def _gather(self, split: str, start: int, encode: Callable[[], Sequence[Encoded]]) -> None:
        chunk = (split, start // self._blocks_per_chunk)
        if chunk != self._chunk:
            self._flush()
            self._chunk = chunk
        assert start == chunk[1] * self._blocks_per_chunk + len(self._blocks), "batches come in order"
        self._blocks.extend(encode())
        if len(self._blocks) == self._blocks_per_chunk:
            self._flush()

    def _flush(self) -> None:
        if self._blocks:
            self._write(*self._chunk, self._blocks)
            self._blocks = []
