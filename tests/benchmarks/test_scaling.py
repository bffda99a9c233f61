import json
import math
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

AXES = {"N": (32, 64), "V": (128, 256), "D": (8, 16), "K": (1, 4)}
STUDENTS = ("16x1", "32x1")
SMALL = ["--base=32x256x8x4", "--vocab_size=256", "--block_size=16", "--k=4", "--rounds=2", "--threads=1"]


@pytest.fixture(scope="module")
def bench(benchmark: Callable[[str], ModuleType]) -> ModuleType:
    return benchmark("scaling")


@pytest.mark.usefixtures("same_threads")
def test_it_measures_each_axis_and_each_student_and_writes(
    bench: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = [part for name, values in AXES.items() for part in (f"--{name}", *map(str, values))]
    bench.main([*SMALL, *sizes, "--students", *STUDENTS, "--json", str(tmp_path / "scaling.json")])
    figures = json.loads((tmp_path / "scaling.json").read_text())
    assert [found["axis"] for found in figures["axes"]] == list(AXES)
    for found in figures["axes"]:
        cells = [(value, way) for value in AXES[found["axis"]] for way in bench.WAYS]
        assert [(row[found["axis"]], row["way"]) for row in found["rows"]] == cells
        assert all(row["seconds"] > 0 and row["extra_mib"] >= 0 for row in found["rows"])
        assert all(math.isfinite(of["seconds"]) for of in found["exponents"].values())
    rows = figures["models"]["rows"]
    assert [row["student"] for row in rows] == list(STUDENTS)
    for row in rows:
        assert all(row[f"{part}_seconds"] > 0 for part in bench.PARTS)
        assert min(row["offline_to_lm"], row["lm_objective_share"], row["offline_objective_share"]) > 0
        assert min(row["lm_step_mib"], row["offline_step_mib"]) >= 0
    printed = capsys.readouterr().out
    assert "ours: time ~ V^" in printed
    assert "offline_step_seconds ~ parameters^" in printed


def test_an_exponent_is_that_of_a_power(bench: ModuleType) -> None:
    assert bench.exponent([1, 2, 8], [3.0, 12.0, 192.0]) == pytest.approx(2)
    assert bench.exponent([1, 2], [0.0, 1.0]) is None
    assert bench.exponent([1], [1.0]) is None
