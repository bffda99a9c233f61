"""Evaluations and exports of a training on two ranks: those of one rank, and the training stays the same to the bit."""

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

SCRIPT = Path(__file__).with_name("evaluated_on_ranks.py")


@pytest.fixture
def run(teacher_dir: Path, blocks: Path, tasks: Path, tmp_path: Path) -> Any:
    """Trains on some ranks; gives the folder, and what was logged and learnt."""

    def train(devices: int, strategy: str, evaluated: bool = True) -> tuple[Path, dict[str, Any]]:
        folder = tmp_path / f"{devices}-{strategy}-{evaluated}"
        folder.mkdir()
        settings = {"devices": devices, "strategy": strategy, "evaluated": evaluated, "folder": str(folder)}
        settings |= {"teacher": str(teacher_dir), "blocks": str(blocks), "tasks": str(tasks)}
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PL_GLOBAL_SEED": "3"}
        environment["HF_DATASETS_CACHE"] = str(tmp_path / "cache")
        if devices == 1:  # here: a process more takes seconds to start
            runpy.run_path(str(SCRIPT))["main"](**settings)
            return folder, torch.load(folder / "end.pt", weights_only=True)
        command = [sys.executable, str(SCRIPT), json.dumps(settings)]
        subprocess.run(command, check=True, timeout=300, env=environment)
        return folder, torch.load(folder / "end.pt", weights_only=True)

    return train


def harness_scores(folder: Path) -> dict[str, list[float]]:
    """What LMEval logged, by name, in the order of steps."""
    import pandas

    table = pandas.read_csv(next(folder.rglob("metrics.csv")))
    return {name: table[name].dropna().tolist() for name in table.columns if name.startswith("eval/")}


@pytest.mark.parametrize("strategy", ["ddp", pytest.param("fsdp2", marks=pytest.mark.slow)])
def test_two_ranks_find_what_one_finds(run: Any, strategy: str) -> None:
    folder, one = run(1, "auto")
    spread, two = run(2, strategy)
    names = {name for name in one["figures"] if name.count("/") == 2}
    assert len(names) == 19
    assert {name: two["figures"][name] for name in names} == pytest.approx(
        {name: one["figures"][name] for name in names}, rel=1e-4, abs=1e-5
    )
    scores = harness_scores(folder)
    assert len(scores["eval/choices/acc"]) == 2
    assert harness_scores(spread).keys() == scores.keys()
    for name, values in harness_scores(spread).items():
        assert values == pytest.approx(scores[name], rel=1e-4), name
    (export,) = (spread / "exports").iterdir()
    exported = dict(AutoModelForCausalLM.from_pretrained(export).named_parameters())
    for name, weight in two["weights"].items():
        assert torch.equal(exported[name.removeprefix("student.model.")], weight), name


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_training_on_ranks_is_the_same_to_the_bit(run: Any, strategy: str) -> None:
    (_, with_callbacks), (_, without) = run(2, strategy), run(2, strategy, evaluated=False)
    assert with_callbacks["weights"].keys() == without["weights"].keys()
    for name, weight in with_callbacks["weights"].items():
        assert torch.equal(weight, without["weights"][name]), name


@pytest.mark.slow
def test_ranks_of_tensor_parallelism_find_what_one_finds(blocks: Path, tasks: Path, tmp_path: Path) -> None:
    script = Path(__file__).with_name("tensor_parallel.py")
    settings: dict[str, Any] = {"blocks": str(blocks), "texts": str(tasks / "texts"), "folder": str(tmp_path)}
    runpy.run_path(str(script))["main"](devices=1, **settings)
    command = [sys.executable, str(script), json.dumps({"devices": 2, **settings})]
    subprocess.run(command, check=True, timeout=150, env={**os.environ, "OMP_NUM_THREADS": "1"})
    one, two = (torch.load(tmp_path / f"{devices}.pt", weights_only=True) for devices in (1, 2))
    assert {"val/code/bits_per_byte", "val/texts/bits_per_byte", "val/texts/word_perplexity"} <= one.keys()
    assert two == pytest.approx(one, rel=1e-6)
