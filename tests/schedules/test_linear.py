from collections.abc import Callable

import numpy as np
import pytest

from pd_lightning.schedules import Linear


@pytest.mark.parametrize("total", [2, 5, 1000])
@pytest.mark.parametrize(("start", "end"), [(0.0, 1.0), (1.0, 0.0), (4.0, 0.5)])
def test_a_straight_line_up_or_down(values: Callable, start: float, end: float, total: int) -> None:
    found = values(Linear(start, end), total)
    np.testing.assert_allclose(found, np.linspace(start, end, total), atol=1e-12)
    assert (found[0], found[-1]) == (start, end)


def test_a_run_of_one_step_is_its_start(values: Callable) -> None:
    assert values(Linear(0.3, 0.7), 1).tolist() == [0.3]
