"""How blocks are dealt to ranks."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pd_lightning.recording.data import Share


@given(
    num_blocks=st.integers(0, 200),
    chunk=st.integers(1, 7),
    batch_size=st.integers(1, 5),
    num_ranks=st.integers(1, 5),
    done=st.sets(st.integers(0, 30)),
)
def test_every_missing_block_is_dealt_once(
    num_blocks: int, chunk: int, batch_size: int, num_ranks: int, done: set[int]
) -> None:
    m = chunk * batch_size
    done = {c for c in done if c * m < num_blocks}
    shares = [Share(m, tuple(sorted(done)), rank, num_ranks) for rank in range(num_ranks)]
    dealt = Counter(block for share in shares for blocks in share.chunks(num_blocks) for block in blocks)
    assert dealt == Counter(block for block in range(num_blocks) if block // m not in done)
    assert all(
        share.wants(block) == any(block in blocks for blocks in share.chunks(num_blocks))
        for share in shares
        for block in range(num_blocks)
    )
    batches = [sum(-(-len(blocks) // batch_size) for blocks in share.chunks(num_blocks)) for share in shares]
    assert [share.steps(num_blocks, batch_size) for share in shares] == [(own, max(batches)) for own in batches]
    chunks = [len(share.chunks(num_blocks)) for share in shares]
    assert max(chunks) - min(chunks) <= 1


@pytest.mark.parametrize(("chunk", "owner"), [(0, 0), (1, None), (2, 1), (3, None), (4, 0), (5, 1)])
def test_missing_chunks_are_dealt_in_turn(chunk: int, owner: int | None) -> None:
    assert Share(8, (1, 3), rank=0, num_ranks=2).owner(chunk) == owner
