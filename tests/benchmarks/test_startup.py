import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from pd_lightning.cli import main


def test_it_notes_the_first_step(
    benchmark: Callable[[str], ModuleType],
    tmp_path: Path,
    blocks: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bench = benchmark("startup")

    def run_here(command: list[str], **_: Any) -> None:
        """In place of a process of its own, which would spend its time on imports."""
        assert command[0] == sys.executable
        if command[1] == "-m":
            assert command[2] == "pd_lightning"
            assert main(command[3:]) == 0
        else:
            assert command[1:3] == ["-c", bench.IMPORTS]
            bench.mark(command[3])

    monkeypatch.setattr(bench, "subprocess", SimpleNamespace(run=run_here))  # git is asked for real
    monkeypatch.setattr(bench, "make_data", lambda folder, overlay: blocks)
    bench.main(["--rounds=1", "--json", str(tmp_path / "startup.json")])
    figures = json.loads((tmp_path / "startup.json").read_text())
    for row in ("fit", "imports"):
        assert figures[row].keys() == {f"{way}_{name}" for way in ("shortest", "median") for name in bench.NAMES}
    assert figures["fit"]["shortest_seconds"] > 0
    assert figures["beyond"].keys() == {"shortest_seconds", "shortest_cpu_seconds"}
    assert "beyond" in capsys.readouterr().out


def test_the_shortest_and_the_median(benchmark: Callable[[str], ModuleType]) -> None:
    starts = [{"seconds": seconds, "cpu_seconds": 1.0} for seconds in (3.0, 9.0, 2.0)]
    assert benchmark("startup").summary(starts) == {
        "shortest_seconds": 2.0,
        "median_seconds": 3.0,
        "shortest_cpu_seconds": 1.0,
        "median_cpu_seconds": 1.0,
    }
