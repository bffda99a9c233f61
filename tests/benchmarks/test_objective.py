import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch


@pytest.fixture(scope="module")
def bench(benchmark: Callable[[str], ModuleType]) -> ModuleType:
    return benchmark("objective")


@pytest.mark.parametrize("track", ["A", "B"])
def test_all_ways_of_a_track_do_the_same_work(bench: ModuleType, track: str) -> None:
    """Otherwise their times would say nothing of one another: one loss, and one gradient."""
    x = bench.inputs(32, 300, 8, 16, "cpu", torch.float32)
    (name,) = [name for name in bench.TRACKS if name.startswith(track)]
    found = {}
    for way, function in bench.TRACKS[name].items():
        if "LM alone" in way or "bare" in way:
            continue
        try:
            bench.step(function, x)
        except ImportError:
            continue
        found[way] = (x.hidden.grad, x.weight.grad)
    assert len(found) >= 3
    for way, gradients in found.items():
        for gradient, ours in zip(gradients, found["ours"], strict=True):
            torch.testing.assert_close(gradient, ours, rtol=1e-3, atol=1e-6, msg=lambda text, way=way: f"{way}: {text}")


def test_it_measures_and_writes(bench: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    threads = torch.get_num_threads()
    bench.main(
        ["--shapes", "32x300x8", "--rounds", "1", "--k", "8", "--threads", "1", "--json", str(tmp_path / "o.json")]
    )
    torch.set_num_threads(threads)
    runs = json.loads((tmp_path / "o.json").read_text())["runs"]
    assert [run["track"][0] for run in runs] == ["A", "B"]
    assert {"ours", "naive", "bare matrix products"} <= runs[1]["rows"].keys()
    assert all(row["seconds"] > 0 for run in runs for row in run["rows"].values())
    assert "linear + cross_entropy" in capsys.readouterr().out
