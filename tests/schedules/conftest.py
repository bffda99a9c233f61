from collections.abc import Callable

import numpy as np
import pytest

from pd_lightning.schedules import Schedule


@pytest.fixture
def values() -> Callable[[Schedule, int], np.ndarray]:
    """The values of a schedule at every step of a run."""
    return lambda schedule, total: np.array([schedule(step, total) for step in range(total)])
