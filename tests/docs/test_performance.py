"""`docs/performance.md` says what the benchmarks measured."""

import json
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "performance.md").read_text(encoding="utf-8")


def results(name: str) -> Any:
    return json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text(encoding="utf-8"))


OBJECTIVE = results("objective")["runs"]


def beyond(row: dict[str, float]) -> float:
    return max(0.0, row["extra_mib_beyond_head_gradient"])


@pytest.mark.parametrize("run", OBJECTIVE, ids=lambda run: run["track"][0])
def test_the_objective_beside_others(run: dict[str, Any]) -> None:
    ours = run["rows"]["ours"]["seconds"]
    for name, row in run["rows"].items():
        cells = (f"{row['seconds']:.2f}", f"{row['seconds'] / ours:.2f}", f"{row['extra_mib']:,.0f}")
        assert f"| {name} | {' | '.join(cells)} | {beyond(row):,.0f} |" in PAGE


@pytest.mark.parametrize("run", OBJECTIVE + results("objective_shapes")["runs"], ids=lambda run: str(run["N"]))
def test_other_shapes(run: dict[str, Any]) -> None:
    lines = [line for line in PAGE.splitlines() if line.startswith(f"| {run['N']:,} × {run['V']:,} |")]
    ours = run["rows"]["ours"]
    assert any(f"| {ours['seconds']:.2f}, {beyond(ours):,.0f} |" in line for line in lines)


def test_what_the_page_claims_of_the_objective() -> None:
    dense, stored = (run["rows"] for run in OBJECTIVE)
    rivals = [row for name, row in dense.items() if name not in ("ours", "bare matrix products")]
    assert len(rivals) == 4
    assert dense["ours"]["seconds"] < min(row["seconds"] for row in rivals)
    assert beyond(dense["ours"]) < min(beyond(row) for row in rivals)
    assert beyond(stored["ours"]) <= 72
    lm = stored["linear + cross_entropy, LM alone"]["seconds"]
    bare = stored["bare matrix products"]["seconds"]
    assert stored["ours"]["seconds"] <= 1.10 * bare
    assert stored["ours"]["seconds"] <= 1.03 * stored["ours, LM alone"]["seconds"]
    assert f"they alone take {bare / lm:.2f} of" in PAGE
    assert f"ours takes {stored['ours']['seconds'] / lm:.2f}." in PAGE


def test_the_step() -> None:
    step = results("step")
    for name, row in step["rows"].items():
        assert f"| {name} | {row['ms_per_step']:,.0f} | {row['tokens_per_second']:,.0f} |" in PAGE
    for name, ratio in step["ratios"].items():
        assert f"| {name} | {ratio:.3f} |" in PAGE
    assert step["ratios"]["offline PD to LM alone"] <= 1.05
    assert step["ratios"]["Lightning to bare, LM alone"] <= 1.03


def test_how_it_grows() -> None:
    for axis in results("scaling")["axes"]:
        values = [axis["exponents"][way][key] for way in ("ours", "naive") for key in ("seconds", "extra_mib")]
        assert f"| {axis['axis']} | {' | '.join(f'{value:.2f}' for value in values)} |" in PAGE
    for row in results("scaling")["models"]["rows"]:
        cells = (f"{row['lm_step_seconds']:.3f}", f"{row['offline_step_seconds']:.3f}", f"{row['offline_to_lm']:.2f}")
        assert f"| {row['parameters']:,} | {' | '.join(cells)} |" in PAGE


def test_memory_over_a_run() -> None:
    memory = results("memory")
    slope, ratio = memory["steps"]["resident_kib_per_step"], memory["ratios"]["anonymous_peak_mib"]
    assert f"{slope:.2f} KiB a step" in PAGE
    assert f"{ratio:.3f} times" in PAGE
    assert slope < 1
    assert ratio < 1.01


def test_the_start() -> None:
    start = results("startup")
    for row in ("fit", "imports", "beyond"):
        cells = (f"{start[row][f'shortest_{name}']:.2f}" for name in ("seconds", "cpu_seconds"))
        assert f" | {' | '.join(cells)} |" in PAGE
    assert f"the shortest of {start['settings']['rounds']} starts" in PAGE
    assert start["fit"]["shortest_seconds"] <= 12
    assert start["beyond"]["shortest_seconds"] <= 2
