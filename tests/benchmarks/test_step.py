import json
import math
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch

SMALL = {
    **{"student": "16x1", "teacher": "32x1", "store_teacher": "16x1", "vocab_size": 512, "block_size": 16, "k": 8},
    **{"batch_size": 2, "warm_up": 1, "steps": 2, "rounds": 2, "threads": 1},
}


@pytest.fixture(scope="module")
def bench(benchmark: Callable[[str], ModuleType]) -> ModuleType:
    return benchmark("step")


@pytest.mark.usefixtures("same_threads")
def test_it_measures_every_way_and_writes(
    bench: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = (f"--{name}={value}" for name, value in SMALL.items())
    bench.main([*small, "--json", str(tmp_path / "step.json")])
    figures = json.loads((tmp_path / "step.json").read_text())
    rows = figures["rows"]
    assert {way for pair in bench.RATIOS.values() for way in pair} == set(rows)
    assert figures["ratios"].keys() == bench.RATIOS.keys()
    for row in rows.values():
        assert len(row["rounds_ms_per_step"]) == 2
        for value in (row["ms_per_step"], row["tokens_per_second"], *row["rounds_ms_per_step"]):
            assert value > 0
            assert math.isfinite(value)
    assert "Lightning to bare, LM alone: " in capsys.readouterr().out


def test_bare_ways_of_the_same_loss_train_the_same_model(bench: ModuleType) -> None:
    """Otherwise their times would say nothing of one another."""
    student = bench.llama("16x1", 300, 16)
    ids = torch.randint(300, (2, 17), generator=torch.Generator().manual_seed(0))
    trained = []
    for loss in (bench.own_logits, bench.our_objective):
        loop = bench.BareLoop(student, loss, "cpu", "32-true")
        for _ in range(3):
            loop.step({"input_ids": ids[:, :-1], "labels": ids[:, 1:]})
        trained.append(loop.model.state_dict())
    own, ours = trained
    for name, tensor in own.items():
        # Adam makes a step of what is all but no gradient, too.
        torch.testing.assert_close(ours[name], tensor, rtol=1e-3, atol=1e-3, msg=lambda m, name=name: f"{name}: {m}")
