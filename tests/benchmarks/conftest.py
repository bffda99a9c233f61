from collections.abc import Iterator

import pytest


@pytest.fixture
def same_threads() -> Iterator[None]:
    """Gives PyTorch back the threads that a benchmark set otherwise."""
    import torch

    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
