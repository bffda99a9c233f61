from collections.abc import Callable

import numpy as np
import pytest

from pd_lightning.schedules import WSD, OneMinus


def test_the_rest_to_one(values: Callable) -> None:
    # Peng et al.: WSD on the weight of the LM loss.
    found = values(OneMinus(WSD(0.9, warmup=2, decay=0.0)), 4)
    np.testing.assert_allclose(found, [0.55, 0.1, 0.1, 0.1], atol=1e-12)


def test_its_schedule_must_fit_into_the_run() -> None:
    with pytest.raises(ValueError, match="The parts of a WSD schedule must fit into the run, got 8 warm-up"):
        OneMinus(WSD(0.9, warmup=8, decay=8))(0, 10)


def test_of_a_number() -> None:
    assert OneMinus(0.25)(3, 10) == 0.75
