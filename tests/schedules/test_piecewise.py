from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest

from pd_lightning.schedules import WSD, Constant, Linear, Part, Piecewise, Schedule


class Spy(Schedule):
    """Keeps what it is asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, int]] = []

    def __call__(self, step: int, total_steps: int) -> float:
        self.asked.append((step, total_steps))
        return 0.0


def test_each_part_is_a_run_of_its_own(values: Callable) -> None:
    parts = {"up": Part(Linear(0.0, 1.0), 0.25), "stay": Part(Constant(1.0), 5), "down": Part(Linear(1.0, 0.5))}
    expected = np.concatenate([np.linspace(0, 1, 10), np.ones(5), np.linspace(1, 0.5, 25)])
    np.testing.assert_allclose(values(Piecewise(parts), 40), expected, atol=1e-12)
    assert Piecewise(parts)(40, 40) == 0.5


@pytest.mark.parametrize("total", [*range(10, 60), 997, 1000])
@pytest.mark.parametrize(
    "lengths",
    [[0.7, 0.2, 0.1], [0.1] * 10, [0.35, 3, 0.25, None], [2, 0.5, 0.125, None], [0.05, 0.15, 0.25, 0.35, 0.2]],
)
def test_parts_tile_the_run(values: Callable, lengths: list, total: int) -> None:
    spies = [Spy() for _ in lengths]
    parts = {str(i): Part(spy, length) for i, (spy, length) in enumerate(zip(spies, lengths, strict=True))}
    values(Piecewise(parts), total)
    assert sum(len(spy.asked) for spy in spies) == total
    for spy, length in zip(spies, lengths, strict=True):
        assert spy.asked == [(step, len(spy.asked)) for step in range(len(spy.asked))]
        if length is not None and length >= 1:
            assert len(spy.asked) == length
        elif length is not None:
            assert abs(len(spy.asked) - Fraction(str(length)) * total) <= 1


@pytest.mark.parametrize("total", [1, 2, 3])
def test_a_run_too_short_for_every_part_is_no_mistake(values: Callable, total: int) -> None:
    parts = {"most": Part(Constant(1.0), 0.9), "rest": Part(Constant(2.0))}
    assert values(Piecewise(parts), total).tolist() == [1.0] * total


def lengths(*given: float | None) -> dict[str, Part]:
    return {name: Part(Constant(1.0), length) for name, length in zip("abc", given, strict=False)}


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({}, "parts must name a part at least, got none. Set init_args.parts."),
        (lengths(0.5, None, 0.5), "parts.b.length must be set, got none: only the last part can take the rest"),
        (lengths(0.5, -0.5), "parts.b.length must be above 0, got -0.5. Set init_args.parts.b.length"),
        (lengths(0.0, None), "parts.a.length must be above 0, got 0.0"),
        (lengths(float("nan")), "parts.a.length must be above 0, got nan"),
        (lengths(0.5, 0.6), "must fill the run, got fractions that sum to 1.1. Change the lengths"),
        (lengths(0.9, 0.2, None), "must fill the run, got fractions that sum to 1.1"),
        (lengths(0.5, 0.4), "got fractions that sum to 0.9. .*without init_args.parts.b.length, the last part takes"),
    ],
)
def test_bad_parts_are_named(parts: dict[str, Part], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Piecewise(parts)


@pytest.mark.parametrize(
    ("given", "taken"),
    [([60, 50], 110), ([60, 30], 90), ([150, None], 150), ([100, None], 100), ([0.9, 10, None], 100), ([0.5, 40], 90)],
)
def test_parts_must_fill_the_run(given: list, taken: int) -> None:
    with pytest.raises(ValueError, match=f"must fill the run, got lengths of {taken} steps in a run of 100"):
        Piecewise(lengths(*given))(0, 100)


def test_an_error_names_the_part() -> None:
    parts = {"first": Part(WSD(1.0, warmup=60, decay=60), 100), "second": Part(Constant(1.0))}
    with pytest.raises(ValueError, match=r"^parts\.first: The parts of a WSD schedule must fit into the run, got 60"):
        Piecewise(parts)(0, 200)


def test_a_part_can_be_a_number() -> None:
    both = Piecewise({"one": Part(0.25, 0.5), "two": Part(0.75)})
    assert [both(step, 4) for step in range(4)] == [0.25, 0.25, 0.75, 0.75]
