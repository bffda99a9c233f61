import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pd_lightning.scaling.laws import LAWS, Sizes
from pd_lightning.scaling.runs import Runs

TRUE = {"E": 1.8, "A": 480.0, "a": 0.35, "B": 2085.0, "b": 0.37}


@pytest.fixture
def true() -> dict[str, float]:
    """Coefficients of Chinchilla's law that data are made from."""
    return TRUE


@pytest.fixture
def make_runs() -> Callable[..., Runs]:
    """Runs on a grid of sizes and teachers, with losses from known coefficients and noise of 1%."""

    def make(
        law: str = "chinchilla",
        coefficients: dict[str, float] = TRUE,
        grid: int = 6,
        seeds: int = 2,
        teachers: tuple[float, ...] = (),
        noise: float = 0.01,
        seed: int = 0,
    ) -> Runs:
        axes = [np.geomspace(1e7, 1e9, grid), np.geomspace(1e8, 1e11, grid), np.array(teachers or (np.nan,))]
        N, D, teacher = (np.repeat(axis.ravel(), seeds) for axis in np.meshgrid(*axes))
        sizes = Sizes(N, D, teacher if teachers else None)
        if LAWS[law].needs_supervised:
            sizes = Sizes(N, D, teacher, LAWS["chinchilla"].predict(TRUE, sizes))
        scatter = np.exp(noise * np.random.default_rng(seed).normal(size=len(N)))
        return Runs(sizes, LAWS[law].predict(coefficients, sizes) * scatter, 6 * N * D)

    return make


@pytest.fixture
def write_results(tmp_path: Path) -> Callable[..., Path]:
    """A study's results.csv."""

    def write(rows: list[dict[str, Any]], name: str = "results.csv") -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        return path

    return write


@pytest.fixture
def rows_of() -> Callable[..., list[dict[str, Any]]]:
    """Rows of results.csv for runs."""

    def rows(runs: Runs, role: str) -> list[dict[str, Any]]:
        teacher = runs.sizes.teacher_loss
        return [
            {
                "point": f"{role} {point}",
                "role": role,
                "seed": i,
                "state": "complete",
                "value": loss,
                "error": "",
                "axis.student": f"{params:g}",
                "axis.k": "50",
                "student_tokens": tokens,
                "student_params": 1.1 * params,
                "student_params_non_embedding": params,
                "teacher_params": "" if teacher is None else 1e9,
                "teacher_loss": "" if teacher is None else teacher[i],
                "student_flops": flops,
                "run": f"runs/{role}-{i}",
                "val/lm_loss": loss,
            }
            for i, (point, params, tokens, loss, flops) in enumerate(
                zip(runs.points, runs.sizes.params, runs.sizes.tokens, runs.losses, runs.flops, strict=True)
            )
        ]

    return rows
