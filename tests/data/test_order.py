from __future__ import annotations

from itertools import chain

import numpy as np
import pytest

from pd_lightning.data.order import PADDING, BlockSampler, Order, Position, advance, batches_left, epoch_order


def flat(batches) -> list[int]:
    return list(chain.from_iterable(batches))


@pytest.mark.parametrize("window", [0, 1, 7, 8, 64, 5000])
@pytest.mark.parametrize("num_blocks", [1, 2, 63, 64, 1000])
def test_each_epoch_is_a_permutation(num_blocks, window):
    first, second = (epoch_order(num_blocks, 3, epoch, window=window) for epoch in (0, 1))
    assert first.dtype == np.int64
    assert sorted(first) == sorted(second) == list(range(num_blocks))
    assert num_blocks < 63 or (first != second).any()


def test_order_depends_on_seed_and_epoch_alone():
    assert (epoch_order(100, 1, 2) == epoch_order(100, 1, 2)).all()
    assert (epoch_order(100, 1, 2) != epoch_order(100, 2, 1)).any()
    assert (epoch_order(100, 1, 2, shuffle=False) == np.arange(100)).all()


def test_order_holds_across_numpy_versions():
    # From the definition: the stable argsort of the first raw outputs of PCG64, which NumPy promises to keep.
    raw = np.random.Generator(np.random.PCG64(np.random.SeedSequence([7, 0]))).bit_generator.random_raw(6)
    assert epoch_order(6, 7, 0).tolist() == sorted(range(6), key=raw.tolist().__getitem__)


def test_shuffling_is_uniform():
    counts = np.zeros((4, 4))
    for epoch in range(4000):
        counts[np.arange(4), epoch_order(4, 0, epoch)] += 1
    assert abs(counts - 1000).max() < 5 * np.sqrt(4000 * 0.25 * 0.75)


def test_a_window_reads_few_runs_at_a_time():
    order = epoch_order(4096, 0, 0, window=256)
    for start in range(0, 4096, 256):
        runs = np.unique(order[start : start + 256] // 32)
        assert len(runs) == 8
    assert (np.diff(order[:256]) != 1).mean() > 0.9


def walk(position: Position, num_blocks: int, global_batch: int) -> Position:
    """One batch, step by step."""
    block = position.block + global_batch
    if block >= num_blocks:
        return Position(position.epoch + 1, 0, position.batches + 1)
    return Position(position.epoch, block, position.batches + 1)


@pytest.mark.parametrize("start", [Position(), Position(2, 4, 17), Position(0, 9, 3)])
@pytest.mark.parametrize("global_batch", [1, 2, 3, 5, 10, 11])
def test_advance_equals_walking(start, global_batch):
    position = start
    for batches in range(25):
        assert advance(start, batches, 10, global_batch) == position
        position = walk(position, 10, global_batch)


def test_advance_is_additive():
    there = advance(Position(), 5, 10, 4)
    assert advance(there, 6, 10, 4) == advance(Position(), 11, 10, 4)
    assert batches_left(there.block, 10, 4) == 1


@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
@pytest.mark.parametrize("num_blocks", [1, 5, 10, 24])
def test_ranks_share_each_batch_without_gap_or_copy(num_blocks, world_size):
    order = Order(num_blocks, 1, True)
    ranks = [list(BlockSampler(order, 3, rank, world_size)) for rank in range(world_size)]
    whole = list(BlockSampler(order, 3 * world_size))
    assert len(whole) == len(BlockSampler(order, 3, 0, world_size))
    for number, batch in enumerate(whole):
        shares = [rank[number] for rank in ranks]
        assert len({len(share) for share in shares}) == 1, "every rank must do the same work"
        real = [[index for index in share if index != PADDING] for share in shares]
        assert flat(real) == batch
        assert max(map(len, real)) - min(map(len, real)) <= 1
    assert world_size > 1 or all(PADDING not in batch for batch in whole)


def test_iteration_goes_on_from_the_position():
    order = Order(10, 4, True)
    epochs = [epoch_order(10, 4, epoch).tolist() for epoch in range(4)]
    position = Position(1, 6)
    sampler = BlockSampler(order, 3, position=lambda: position)
    assert len(sampler) == len(list(sampler)) == 4
    assert list(sampler) == [epochs[1][6:9], epochs[1][9:], epochs[2][:3], epochs[2][3:6]]
    position = Position(3, 0)
    assert flat(sampler) == epochs[3]


MIX = Order(10, 3, True, 0, ((6, 4), (3, 7)))


def test_a_mixed_epoch_passes_over_the_first_source_and_on_through_the_others():
    counts = np.zeros((3, 19), dtype=int)
    for epoch in range(6):
        order = MIX.epoch(epoch)
        assert len(order) == MIX.length == 21
        counts[:, :] += np.bincount(order, minlength=19)
        assert sorted(order[order < 10]) == list(range(10))
        assert (((order >= 10) & (order < 16)).sum(), (order >= 16).sum()) == (4, 7)
    # 24 of 6 blocks and 42 of 3 in six epochs: as many passes over each, none lost or doubled.
    assert counts[0].tolist() == [6] * 10 + [4] * 6 + [14] * 3


def test_a_source_of_a_mixture_is_read_pass_by_pass():
    stream = np.concatenate([MIX.epoch(epoch) for epoch in range(6)])
    second = stream[(stream >= 10) & (stream < 16)].reshape(-1, 6)
    assert all(sorted(one) == list(range(10, 16)) for one in second)
    assert len({tuple(one) for one in second}) == 4, "each pass has an order of its own"


def test_sources_of_the_same_blocks_come_in_different_orders():
    order = Order(1000, 3, True, 0, ((1000, 1000),)).epoch(0)
    first, second = order[order < 1000], order[order >= 1000] - 1000
    assert (first == second).mean() < 0.01
    assert first.tolist() == epoch_order(1000, 3, 0).tolist(), "the first comes as it does alone"
    early = (order[:1000] < 1000).sum()
    assert abs(early - 500) < 80, "they are mixed all through"


def test_sources_are_spread_evenly_where_nothing_is_shuffled():
    assert Order(4, mix=((2, 2), (9, 1))).epoch(0).tolist() == [0, 4, 1, 6, 2, 5, 3]
    assert Order(4, mix=((2, 2), (9, 1))).epoch(3).tolist() == [0, 4, 1, 9, 2, 5, 3]


@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("batch_size", [4, 8])
def test_a_mixture_is_the_same_blocks_whatever_the_batches(world_size, batch_size):
    ranks = [list(BlockSampler(MIX, batch_size, rank, world_size)) for rank in range(world_size)]
    assert sorted(index for rank in ranks for index in flat(rank) if index != PADDING) == sorted(MIX.epoch(0))
