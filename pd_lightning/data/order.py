"""The order of blocks, and where training stands in it.

litdata is the storage; the order is ours. It is a pure function of (seed, epoch, number of blocks), so that two
students see the same data whatever store it comes from, and the position in it is a number of blocks, so that a run
goes on exactly where it stopped whatever its ranks, workers and batch size are then.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

PADDING = -1
"""The index of a padding block: every rank makes the same number of steps, and nothing is counted twice."""
_INTERLEAVING = 2**32 - 1  # in place of a source's number, where random numbers are drawn for all of them


def epoch_order(
    num_blocks: int, seed: int, epoch: int, shuffle: bool = True, window: int = 0, source: int = 0
) -> NDArray[np.int64]:
    """The order in which one epoch visits the blocks.

    Args:
        num_blocks: Number of blocks of the split.
        seed: The seed of the whole run.
        epoch: Counted from 0; each has an order of its own.
        shuffle: False gives 0, 1, 2, … in every epoch.
        window: 0 permutes all blocks. Otherwise runs of `window // 8` neighbouring blocks are permuted, then blocks
            within successive windows of this length: reading stays local, which is what remote storage wants.
        source: Which of the folders of a mixture: each has orders of its own.

    Returns:
        A permutation of `range(num_blocks)`, int64 `[num_blocks]`.
    """
    if not shuffle:
        return np.arange(num_blocks, dtype=np.int64)
    bits = _random_bits(seed, epoch, source)
    if window <= 0:
        return np.argsort(bits.random_raw(num_blocks), kind="stable").astype(np.int64, copy=False)
    length = max(1, window // 8)
    runs = np.argsort(bits.random_raw(-(-num_blocks // length)), kind="stable")
    order = (runs[:, None] * length + np.arange(length)).ravel()
    order = order[order < num_blocks]
    within = np.lexsort((bits.random_raw(num_blocks), np.arange(num_blocks) // window))
    return order[within].astype(np.int64, copy=False)


def _random_bits(seed: int, epoch: int, source: int = 0) -> np.random.PCG64:
    # Sorting raw random bits instead of Generator.permutation: NumPy promises the bits across its versions, and not
    # what permutation makes of them; a resumed run must find the same order after an upgrade.
    return np.random.PCG64(np.random.SeedSequence([seed, epoch, source] if source else [seed, epoch]))


@dataclass(frozen=True)
class Position:
    """Where training stands in the data.

    Args:
        epoch: The pass over the data, counted from 0.
        block: Entries of this epoch's order that have been consumed.
        batches: Batches consumed since the very start of the run; only a reference point for counting.
    """

    epoch: int = 0
    block: int = 0
    batches: int = 0


def advance(position: Position, batches: int, num_blocks: int, global_batch: int) -> Position:
    """The position some batches later, by arithmetic alone.

    Args:
        position: Where to start from.
        batches: How many batches were consumed since.
        num_blocks: Number of blocks of an epoch.
        global_batch: Blocks of one batch over all ranks. An epoch's last batch takes what is left.

    Returns:
        The new position; at an epoch's end it is block 0 of the next.
    """
    left = batches
    rest = batches_left(position.block, num_blocks, global_batch)
    epoch, block = position.epoch, position.block
    if left >= rest:
        epochs, left = divmod(left - rest, batches_left(0, num_blocks, global_batch))
        epoch, block = epoch + 1 + epochs, 0
    return Position(epoch, block + left * global_batch, position.batches + batches)


def batches_left(block: int, num_blocks: int, global_batch: int) -> int:
    """Batches from `block` to the end of its epoch, the last one perhaps short."""
    return -(-(num_blocks - block) // global_batch)


class Order(NamedTuple):
    """All that decides in which order the blocks of a split come.

    Args:
        num_blocks: Blocks of the first source; an epoch is one pass over them.
        seed: The seed of the whole run.
        shuffle: Whether each epoch has another order.
        window: As in `epoch_order`.
        mix: For each further source its number of blocks, and how many of them an epoch takes. The next epoch goes on
            where it stopped, so that each source is read evenly.
    """

    num_blocks: int
    seed: int = 0
    shuffle: bool = False
    window: int = 0
    mix: tuple[tuple[int, int], ...] = ()

    @property
    def length(self) -> int:
        """Blocks of an epoch, those of all sources together."""
        return self.num_blocks + sum(count for _, count in self.mix)

    def epoch(self, epoch: int) -> NDArray[np.int64]:
        """The order in which one epoch visits the blocks of all sources.

        Args:
            epoch: Counted from 0.

        Returns:
            int64 `[length]`; the blocks of a source are numbered on from those of the source before.
        """
        parts = [epoch_order(self.num_blocks, self.seed, epoch, self.shuffle, self.window)]
        first = self.num_blocks
        for source, (available, count) in enumerate(self.mix, 1):
            parts.append(first + self._stretch(source, available, epoch * count, count))
            first += available
        return parts[0] if len(parts) == 1 else self._interleave(parts, epoch)

    def _stretch(self, source: int, available: int, start: int, count: int) -> NDArray[np.int64]:
        """A stretch of the passes over one source, laid end to end."""
        numbers = range(start // available, -(-(start + count) // available))
        passes = [epoch_order(available, self.seed, n, self.shuffle, self.window, source) for n in numbers]
        return np.concatenate(passes)[start % available :][:count]

    def _interleave(self, parts: list[NDArray[np.int64]], epoch: int) -> NDArray[np.int64]:
        """Mix the sources, each in its own order: at random, or spread evenly where nothing is shuffled."""
        if self.shuffle:
            keys = _random_bits(self.seed, epoch, _INTERLEAVING).random_raw(self.length)
        else:
            keys = np.concatenate([(np.arange(len(part)) + 0.5) / len(part) for part in parts])
        sources = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
        turns = sources[np.argsort(keys, kind="stable")]
        order = np.empty(self.length, dtype=np.int64)
        for source, part in enumerate(parts):
            order[turns == source] = part
        return order


class BlockSampler:
    """Deals each global batch to the ranks: yields this rank's block indices, batch by batch.

    One iteration gives `len(self)` batches from wherever training stands, going on into the next epoch's order if
    need be; Lightning takes as many of them as it counts to the end of its own epoch.

    Args:
        order: The order of blocks.
        batch_size: Blocks a rank sees at a time.
        rank: This process.
        world_size: Number of processes that share the data.
        position: Asked at each `iter()` where training stands. It counts batches that were trained on, so that
            what workers had prefetched when a run stopped is not lost.
    """

    def __init__(
        self,
        order: Order,
        batch_size: int,
        rank: int = 0,
        world_size: int = 1,
        position: Callable[[], Position] = Position,
    ) -> None:
        self.order = order
        self.batch_size = batch_size
        self.rank = rank
        self.world_size = world_size
        self.position = position

    @property
    def global_batch(self) -> int:
        """Blocks of one batch over all ranks."""
        return self.batch_size * self.world_size

    def __len__(self) -> int:
        return batches_left(0, self.order.length, self.global_batch)

    def __iter__(self) -> Iterator[list[int]]:
        return self._batches(self.position())

    def _batches(self, position: Position) -> Iterator[list[int]]:
        left = len(self)
        while left > 0:
            blocks = self.order.epoch(position.epoch)
            for start in range(position.block, len(blocks), self.global_batch):
                if left == 0:
                    return
                left -= 1
                yield self._mine(blocks[start : start + self.global_batch])
            position = replace(position, epoch=position.epoch + 1, block=0)

    def _mine(self, batch: NDArray[np.int64]) -> list[int]:
        """This rank's share of a global batch, as even as can be, padded to the length of the largest share."""
        share, extra = divmod(len(batch), self.world_size)
        start = self.rank * share + min(self.rank, extra)
        mine = batch[start : start + share + (self.rank < extra)].tolist()
        return mine + [PADDING] * (share + (extra > 0) - len(mine))
