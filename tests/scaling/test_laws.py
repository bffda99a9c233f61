"""The laws against their formulas, written again in float64, and their gradients against numerical ones."""

import math

import numpy as np
import pytest

from pd_lightning.scaling.laws import LAWS, Law, Sizes
from pd_lightning.scaling.published import (
    DISTILLED,
    SUPERVISED,
    distillation_flops,
    distilled_loss,
    supervised_loss,
)

COEFFICIENTS = {
    "chinchilla": {"E": 1.8, "A": 480.0, "a": 0.35, "B": 2085.0, "b": 0.37},
    "generalized": SUPERVISED,
    "chinchilla_kd": {"E": 1.8, "t": 0.3, "A": 480.0, "a": 0.35, "B": 2085.0, "b": 0.37},
    "apple": DISTILLED,
}
SIZES = Sizes(
    np.array([1e8, 546e6, 2e9, 7e9]),
    np.array([5e9, 10.92e9, 3e10, 5e11]),
    np.array([2.6, 2.2508848, 2.0, 2.3]),
    np.array([2.9, 2.5149410, 2.3, 2.0]),
)


def by_hand(name: str, c: dict[str, float], N: float, D: float, L_T: float, Ls: float) -> float:
    plain = c["A"] / N ** c["a"] + c["B"] / D ** c["b"]
    if name == "chinchilla":
        return c["E"] + plain
    if name == "generalized":
        return c["E"] + plain ** c["g"]
    if name == "chinchilla_kd":
        return (1 - c["t"]) * c["E"] + c["t"] * L_T + plain
    gap = (1 + (L_T / (Ls * c["d1"])) ** (1 / c["f1"])) ** (-c["c1"] * c["f1"])
    return L_T + L_T ** -c["c0"] * gap * plain ** c["g"]


@pytest.mark.parametrize("law", LAWS.values(), ids=list(LAWS))
def test_a_law_is_its_formula(law: Law) -> None:
    columns = zip(SIZES.params, SIZES.tokens, SIZES.teacher_loss, SIZES.supervised_loss, strict=True)
    expected = [by_hand(law.name, COEFFICIENTS[law.name], *row) for row in columns]
    assert law.predict(COEFFICIENTS[law.name], SIZES) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("law", LAWS.values(), ids=list(LAWS))
def test_gradients_are_the_numerical_ones(law: Law) -> None:
    z = law.coordinates(COEFFICIENTS[law.name])
    _, gradient = law.evaluate(z, SIZES)
    for i in range(len(z)):
        step = np.zeros_like(z)
        step[i] = 1e-6
        numerical = (law.evaluate(z + step, SIZES)[0] - law.evaluate(z - step, SIZES)[0]) / 2e-6
        assert gradient[:, i] == pytest.approx(numerical, rel=1e-6, abs=1e-8)


@pytest.mark.parametrize("law", LAWS.values(), ids=list(LAWS))
def test_many_vectors_at_once_are_each_alone(law: Law) -> None:
    z = law.coordinates(COEFFICIENTS[law.name]) + 0.1 * np.random.default_rng(0).normal(size=(3, len(law.parameters)))
    losses, gradients = law.evaluate(z, SIZES)
    for one, loss, gradient in zip(z, losses, gradients, strict=True):
        assert np.array_equal(loss, law.evaluate(one, SIZES)[0])
        assert np.array_equal(gradient, law.evaluate(one, SIZES)[1])


@pytest.mark.parametrize("law", LAWS.values(), ids=list(LAWS))
def test_units_change_coefficients_and_no_loss(law: Law) -> None:
    coefficients = COEFFICIENTS[law.name]
    here = {**coefficients, "A": coefficients["A"] / 3e8 ** coefficients["a"]}
    here["B"] /= 2e10 ** coefficients["b"]
    z = law.coordinates(here)
    assert law.coefficients(z, 3e8, 2e10) == pytest.approx(coefficients, rel=1e-12)
    assert law.evaluate(z, SIZES.in_units(3e8, 2e10))[0] == pytest.approx(law.predict(coefficients, SIZES), rel=1e-12)


def test_the_kd_variant_lies_between_its_limits() -> None:
    plain = {k: v for k, v in COEFFICIENTS["chinchilla_kd"].items() if k != "t"}
    ignored = LAWS["chinchilla_kd"].predict({**plain, "t": 0.0}, SIZES)
    assert ignored == pytest.approx(LAWS["chinchilla"].predict(plain, SIZES), rel=1e-12)
    # Apple's law without its gap, where L_T^0 (1 + …)^0 = 1.
    gapless = {**plain, "c0": 1e-300, "c1": 1e-300, "d1": 1.0, "f1": 1.0, "g": 1.0}
    followed = LAWS["chinchilla_kd"].predict({**plain, "t": 1.0}, SIZES)
    assert followed == pytest.approx(LAWS["apple"].predict(gapless, SIZES), rel=1e-12)


def test_sharp_turns_stay_finite() -> None:
    losses, gradients = LAWS["apple"].evaluate(LAWS["apple"].coordinates({**DISTILLED, "f1": 1e-4}), SIZES)
    assert np.isfinite(losses).all()
    assert np.isfinite(gradients).all()


def test_published_coefficients_give_what_the_paper_measured() -> None:
    teacher = supervised_loss(1.82e9, 36.4e9)
    assert distilled_loss(546e6, 10.92e9, teacher) == pytest.approx(2.424, abs=0.005)
    assert distilled_loss(546e6, 10.92e9, teacher) == pytest.approx(2.42, abs=0.01)  # measured
    assert type(teacher) is float


def test_numbers_and_arrays_give_the_same() -> None:
    N, D, teacher = np.array([546e6, 2e9]), 10.92e9, np.array([2.25, 2.1])
    assert supervised_loss(N, D) == pytest.approx([supervised_loss(n, D) for n in N], rel=1e-14)
    expected = [distilled_loss(n, D, t) for n, t in zip(N, teacher, strict=True)]
    assert distilled_loss(N, D, teacher) == pytest.approx(expected, rel=1e-14)


def test_a_student_without_limits_ends_where_its_teacher_is() -> None:
    assert distilled_loss(1e30, 1e30, 2.2) == pytest.approx(2.2, abs=1e-6)
    assert supervised_loss(1e40, 1e40) == pytest.approx(1.220, abs=1e-5)


def test_a_teacher_that_is_too_good_costs() -> None:
    losses = distilled_loss(1e8, 2e9, np.array([3.2, 2.0, 1.5]))
    assert losses[1] < losses[0]
    assert losses[1] < losses[2]


@pytest.mark.parametrize(("logits", "pretraining"), [(0.0, 0.0), (1.0, 0.0), (1.0, 1.0)])
def test_operations_of_distilling(logits: float, pretraining: float) -> None:
    expected = 6 * 1e6 * 1e9 + 2 * 1e7 * (logits * 1e9 + pretraining * 3 * 2e9)
    assert math.isclose(distillation_flops(1e6, 1e9, 1e7, 2e9, logits, pretraining), expected, rel_tol=1e-14)
