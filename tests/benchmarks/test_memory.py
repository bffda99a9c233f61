import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

SMALL = {
    **{"student": "16x1", "teacher": "16x1", "vocab_size": 256, "block_size": 8, "batch_size": 2, "blocks": 8},
    **{"times": 3, "steps": 10, "skip": 4, "short": 5, "threads": 1},
}


@pytest.fixture(scope="module")
def bench(benchmark: Callable[[str], ModuleType]) -> ModuleType:
    return benchmark("memory")


@pytest.mark.usefixtures("same_threads")
def test_it_trains_from_both_stores_and_writes(
    bench: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    commands: list[list[str]] = []

    def run_here(command: list[str], check: bool) -> None:
        """In place of a process of its own, which would spend its time on imports."""
        assert command[:2] == [sys.executable, bench.__file__]
        commands.append(command)
        bench.main(command[2:])

    monkeypatch.setattr(bench.subprocess, "run", run_here)
    settings = (f"--{name}={value}" for name, value in SMALL.items())
    bench.main([*settings, "--json", str(tmp_path / "memory.json")])
    assert len(commands) == 2
    figures = json.loads((tmp_path / "memory.json").read_text())
    steps, corpora = figures["steps"], figures["corpora"]
    assert (steps["steps"], steps["skipped"]) == (10, 4)
    assert all(math.isfinite(steps[f"{name}_kib_per_step"]) for name in ("resident", "anonymous", "mapped_files"))
    assert len(steps["resident_mib"]) == 10
    assert min(steps["resident_mib"]) > 1
    names = {"store_mib", "resident_peak_mib", "anonymous_peak_mib", "mapped_files_peak_mib"}
    assert corpora["small"].keys() == corpora["large"].keys() == figures["ratios"].keys() == names
    assert all(value > 0 for store in corpora.values() for value in store.values())
    assert figures["ratios"]["store_mib"] > 2
    assert "KiB a step" in capsys.readouterr().out


def test_the_slope_is_of_the_last_steps(bench: ModuleType) -> None:
    values = 1024 * np.array([900, 500, 10, 12, 14, 16])
    assert bench.slopes({"resident": values}, 2) == {"resident_kib_per_step": pytest.approx(2)}
