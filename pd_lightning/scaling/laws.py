"""Scaling laws: each says how a student's loss follows from sizes, and how it changes with its own coefficients.

A law works on a vector of free coordinates in which fits are well behaved: logarithms of what is positive, a share as
it is. `Law.coefficients` and `Law.coordinates` translate.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

Array = Any  # of float64; numpy's own generic says no more, and mypy is run without its plugin


@dataclass(frozen=True)
class Sizes:
    """What laws predict from; one entry a run.

    Args:
        params: Non-embedding parameters of the student.
        tokens: Tokens it is trained on.
        teacher_loss: Loss of its teacher on the validation split, in nats per token.
        supervised_loss: Loss that the same student would have without a teacher, in nats per token.
    """

    params: Array
    tokens: Array
    teacher_loss: Array | None = None
    supervised_loss: Array | None = None

    def take(self, rows: Array) -> Sizes:
        """Give some of the runs, by number, by mask or by slice."""
        columns = (self.params, self.tokens, self.teacher_loss, self.supervised_loss)
        return Sizes(*(None if column is None else column[rows] for column in columns))

    def in_units(self, params: float, tokens: float) -> Sizes:
        """Give the same runs with sizes measured in other units."""
        return replace(self, params=self.params / params, tokens=self.tokens / tokens)


@dataclass(frozen=True)
class Parameter:
    """A coefficient of a law.

    Args:
        name: As in the law's formula.
        start: Range in which fits start, where N and D are in units of their geometric means.
        bounds: Range that fits don't leave, in the same units.
        positive: Whether its coordinate is its logarithm; else the coefficient itself.
    """

    name: str
    start: tuple[float, float]
    bounds: tuple[float, float]
    positive: bool = True


_E = Parameter("E", (0.1, 3.0), (1e-3, 20.0))
_A = Parameter("A", (0.03, 3.0), (1e-5, 1e3))
_B = Parameter("B", (0.03, 3.0), (1e-5, 1e3))
_SMALL_A = Parameter("a", (0.1, 1.0), (0.01, 5.0))
_SMALL_B = Parameter("b", (0.1, 1.0), (0.01, 5.0))
_G = Parameter("g", (0.3, 2.0), (0.05, 20.0))


class Law(ABC):
    """A scaling law with its coefficients left open."""

    name: ClassVar[str]
    formula: ClassVar[str]
    parameters: ClassVar[tuple[Parameter, ...]]
    needs_teacher: ClassVar[bool] = False
    needs_supervised: ClassVar[bool] = False

    @abstractmethod
    def evaluate(self, z: Array, sizes: Sizes) -> tuple[Array, Array]:
        """Predict losses, and how they change with the coordinates.

        Args:
            z: Coordinates `[..., P]`: several vectors are evaluated at once.
            sizes: R runs.

        Returns:
            Losses `[..., R]` in nats per token, and their derivatives `[..., R, P]`.
        """

    def predict(self, coefficients: Mapping[str, float], sizes: Sizes) -> Array:
        """Predict losses.

        Args:
            coefficients: By name.
            sizes: R runs.

        Returns:
            Losses `[R]` in nats per token.
        """
        return self.evaluate(self.coordinates(coefficients), sizes)[0]

    @property
    def names(self) -> list[str]:
        """Names of the coefficients, in the order of the coordinates."""
        return [parameter.name for parameter in self.parameters]

    def coordinates(self, coefficients: Mapping[str, float]) -> Array:
        """Translate coefficients into coordinates `[P]`."""
        values = [(coefficients[p.name], p.positive) for p in self.parameters]
        return np.array([math.log(value) if positive else value for value, positive in values])

    def coefficients(self, z: Array, params: float = 1.0, tokens: float = 1.0) -> dict[str, float]:
        """Translate coordinates into coefficients for sizes in units of 1.

        Args:
            z: Coordinates `[P]`.
            params: Unit of N in which they hold.
            tokens: Unit of D in which they hold.
        """
        values = {
            p.name: float(np.exp(value) if p.positive else value) for p, value in zip(self.parameters, z, strict=True)
        }
        values["A"] *= params ** values["a"]
        values["B"] *= tokens ** values["b"]
        return values


class Chinchilla(Law):
    """The law of a student trained on text: `L = E + A / N^a + B / D^b`.

    Source: Hoffmann et al., arXiv 2203.15556, equation 2.
    """

    name = "chinchilla"
    formula = "L = E + A / N^a + B / D^b"
    parameters = (_E, _A, _SMALL_A, _B, _SMALL_B)

    def evaluate(self, z: Array, sizes: Sizes) -> tuple[Array, Array]:
        """See `Law.evaluate`."""
        E = np.exp(z[..., 0:1]) + 0.0 * sizes.params
        excess, slopes = _excess(z[..., 1:5], sizes)
        return E + excess, np.stack([E, *slopes], axis=-1)


class Generalized(Law):
    """The same with one exponent more: `L = E + (A / N^a + B / D^b)^g`.

    Source: Busbridge et al., Distillation Scaling Laws, arXiv 2502.08606, for students without a teacher.
    """

    name = "generalized"
    formula = "L = E + (A / N^a + B / D^b)^g"
    parameters = (_E, _A, _SMALL_A, _B, _SMALL_B, _G)

    def evaluate(self, z: Array, sizes: Sizes) -> tuple[Array, Array]:
        """See `Law.evaluate`."""
        E = np.exp(z[..., 0:1]) + 0.0 * sizes.params
        excess, slopes = _excess(z[..., 1:6], sizes)
        return E + excess, np.stack([E, *slopes], axis=-1)


class ChinchillaKD(Law):
    """Chinchilla's law with a floor that the teacher moves: `L = (1 - t) E + t L_T + A / N^a + B / D^b`.

    t = 0 is Chinchilla's law, with a teacher whose loss doesn't matter. t = 1 is the distillation law of Busbridge et
    al. (arXiv 2502.08606) without its capacity gap (c0 = c1 = 0, g = 1): the student ends where its teacher is. A
    student without limits that minimises (1-α) LM + α KD predicts the mixture of data and teacher, whose loss is at
    most (1-α) E + α L_T, since -log is convex: t should be at most α. That argument and this form are ours, not
    published; it has no gap between teacher and student, for which there is `Apple`.
    """

    name = "chinchilla_kd"
    formula = "L = (1 - t) E + t L_T + A / N^a + B / D^b"
    parameters = (_E, Parameter("t", (0.0, 1.0), (0.0, 1.0), positive=False), _A, _SMALL_A, _B, _SMALL_B)
    needs_teacher = True

    def evaluate(self, z: Array, sizes: Sizes) -> tuple[Array, Array]:
        """See `Law.evaluate`."""
        E, t = np.exp(z[..., 0:1]), z[..., 1:2]
        excess, slopes = _excess(z[..., 2:6], sizes)
        loss = (1 - t) * E + t * sizes.teacher_loss + excess
        return loss, np.stack([(1 - t) * E + 0.0 * excess, sizes.teacher_loss - E, *slopes], axis=-1)


class Apple(Law):
    """The distillation law, with Ls the loss of the same student without a teacher.

    `L = L_T + L_T^(-c0) · (1 + (L_T / (d1 · Ls))^(1 / f1))^(-c1 · f1) · (A / N^a + B / D^b)^g`: the student nears its
    teacher, and falls behind one that is too good for it (the capacity gap).

    Source: Busbridge et al., Distillation Scaling Laws, arXiv 2502.08606.
    """

    name = "apple"
    formula = "L = L_T + L_T^(-c0) (1 + (L_T / (d1 Ls))^(1/f1))^(-c1 f1) (A / N^a + B / D^b)^g"
    parameters = (
        Parameter("c0", (0.3, 5.0), (1e-3, 20.0)),
        Parameter("c1", (3.0, 1000.0), (1e-2, 1e5)),
        Parameter("d1", (0.7, 2.0), (0.2, 10.0)),
        Parameter("f1", (0.03, 0.3), (0.01, 3.0)),
        _A,
        _SMALL_A,
        _B,
        _SMALL_B,
        _G,
    )
    needs_teacher = True
    needs_supervised = True

    def evaluate(self, z: Array, sizes: Sizes) -> tuple[Array, Array]:
        """See `Law.evaluate`."""
        assert sizes.teacher_loss is not None
        assert sizes.supervised_loss is not None
        c0, c1, d1, f1 = (np.exp(z[..., i : i + 1]) for i in range(4))
        log_teacher = np.log(sizes.teacher_loss)
        turn = (log_teacher - np.log(d1) - np.log(sizes.supervised_loss)) / f1
        softplus = np.logaddexp(0.0, turn)  # of a number that f1 = 0.01 makes too large for exp
        past = np.exp(turn - softplus)
        excess, slopes = _excess(z[..., 4:9], sizes)
        factor = np.exp(-c0 * log_teacher - c1 * f1 * softplus)
        gap = factor * excess
        by_gap = [-c0 * log_teacher * gap, -c1 * f1 * softplus * gap, c1 * past * gap]
        by_f1 = c1 * f1 * (past * turn - softplus) * gap
        return sizes.teacher_loss + gap, np.stack([*by_gap, by_f1, *(factor * slope for slope in slopes)], axis=-1)


def _excess(z: Array, sizes: Sizes) -> tuple[Array, list[Array]]:
    """(A / N^a + B / D^b)^g and its derivatives by the logarithms of A, a, B, b and, where there is one, g."""
    x, y = np.log(sizes.params), np.log(sizes.tokens)
    a, b = np.exp(z[..., 1:2]), np.exp(z[..., 3:4])
    g = np.exp(z[..., 4:5]) if z.shape[-1] == 5 else 1.0
    of_params, of_tokens = z[..., 0:1] - a * x, z[..., 2:3] - b * y
    total = np.logaddexp(of_params, of_tokens)
    share = np.exp(of_params - total)
    excess = np.exp(g * total)
    by_A, by_B = g * excess * share, g * excess * (1 - share)
    slopes = [by_A, -a * x * by_A, by_B, -b * y * by_B]
    return excess, [*slopes, g * total * excess] if z.shape[-1] == 5 else slopes


LAWS: dict[str, Law] = {law.name: law for law in (Chinchilla(), Generalized(), ChinchillaKD(), Apple())}
