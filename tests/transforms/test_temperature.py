from typing import Any

import numpy as np
import pytest
import torch
from transform_cases import PROBLEMS, ZEROS, context, dense, forward_kl, stored, tempered_kl

from pd_lightning.objective import Objective
from pd_lightning.schedules import Constant, Linear
from pd_lightning.targets import Form
from pd_lightning.transforms import NormKD, Standardize, Temperature, TopPK

ALL = PROBLEMS | ZEROS


@pytest.mark.parametrize("value", [0.5, 1.0, 2.0, 5.0])
@pytest.mark.parametrize("case", ALL)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", ["dense", "bucket", "renormalized"])
def test_the_loss_equals_the_formula(value: float, case: str, dtype: torch.dtype, kind: Any) -> None:
    p = ALL[case]
    v = p.teacher.shape[1]
    for k in (1, 4, v) if kind != "dense" else (v,):
        targets, kept = stored(p, min(k, v), kind, torch.float32)
        if kind == "dense":
            targets, kept = dense(p, torch.float32), np.ones((1, 1), bool)  # type: ignore[assignment]
        actual, rounded = forward_kl(Temperature(value), targets, p, dtype)
        expected = value**2 * tempered_kl(rounded, kind, kept, value, value)
        np.testing.assert_allclose(actual, expected, rtol=2e-6, atol=2e-6 * value**2)


def test_temperatures_multiply() -> None:
    p = PROBLEMS["plain"]
    targets = Temperature(3.0).teacher(Temperature(0.5).teacher(dense(p), context(p)), context(p))
    assert (targets.temperature, targets.student_temperature, targets.compensation) == (1.5, None, 2.25)


def test_a_schedule_gives_the_temperature_of_the_step() -> None:
    p = PROBLEMS["plain"]
    schedule = Linear(1.0, 4.0)
    transform = Temperature(schedule)
    for step in range(4):
        targets = transform.teacher(dense(p), context(p, step=step, total_steps=4))
        assert targets.temperature == pytest.approx(1.0 + step)
        assert targets.compensation == pytest.approx((1.0 + step) ** 2)
    assert transform.schedules() == {"value": schedule}
    assert Temperature(2.0).schedules() == {}
    assert Objective(transforms={"heat": transform}).schedules() == {"heat.value": schedule}


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_it_must_be_positive(value: float) -> None:
    with pytest.raises(
        ValueError, match=f"temperature must be positive, got {value}. Set init_args.value of Temperatur"
    ):
        Temperature(value)


def test_what_was_forgotten_cannot_be_tempered() -> None:
    forgetful = {"truncate": TopPK(0.9, tail="none")}
    Objective(transforms={**forgetful, "temperature": Temperature(1.0)})
    for value in (2.0, Constant(2.0)):
        with pytest.raises(
            ValueError, match=r"got tail none before it: .* Set init_args\.tail of the truncation to bucket"
        ):
            Objective(transforms={**forgetful, "temperature": Temperature(value)})


def test_several_temperatures_of_which_one_is_adaptive_can_be_combined() -> None:
    for adaptive in (NormKD(), Standardize()):
        form = Temperature(2.0).form(adaptive.form(Temperature(0.5).form(Form("dense"))))
        assert form.tempered
        assert form.divided_by == type(adaptive).__name__
