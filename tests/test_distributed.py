"""The same step on one rank and on two: every labelled position counts alike."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pd_lightning.checkpoints import load_checkpoint
from pd_lightning.store.reader import BlockReader
from pd_lightning.store.verification import verify_folder

SCRIPT = Path(__file__).with_name("gradients_of_a_step.py")


def step(
    teacher: Path, devices: int, micro_batches: int, output: Path, strategy: str = "auto"
) -> dict[str, dict[str, torch.Tensor]]:
    command = [sys.executable, str(SCRIPT), str(teacher), str(devices), str(micro_batches), str(output), strategy]
    subprocess.run(command, check=True, timeout=300, env={**os.environ, "OMP_NUM_THREADS": "1", "PL_GLOBAL_SEED": "3"})
    return torch.load(output, weights_only=True)


@pytest.mark.parametrize(
    ("strategy", "devices"),
    [
        ("ddp", 2),
        ("{}", 2),
        pytest.param('{"reshard_after_forward": false}', 2, marks=pytest.mark.slow),
        pytest.param('{"replicas": 2}', 4, marks=pytest.mark.slow),
    ],
    ids=["ddp", "fsdp2", "fsdp2, kept", "hybrid"],
)
def test_ranks_with_two_micro_batches_each_are_one_big_batch(
    teacher_dir: Path, tmp_path: Path, strategy: str, devices: int
) -> None:
    """With masks, routing and truncation, in float64: gradients equal to 1e-6 of their norm."""
    whole = step(teacher_dir, 1, 1, tmp_path / "whole.pt")
    parts = step(teacher_dir, devices, 2, tmp_path / "parts.pt", strategy)
    one, other = (torch.cat([g.flatten() for g in run["gradients"].values()]) for run in (whole, parts))
    assert one.dtype == torch.float64
    assert one.norm() > 0.1
    assert (one - other).norm() < 1e-6 * one.norm()
    for name in ("train/loss", "train/lm_loss", "train/kd_loss", "train/tokens"):
        torch.testing.assert_close(whole["logged"][name], parts["logged"][name])
    assert parts["logged"]["train/tokens"] == 62


RUN = Path(__file__).with_name("distributed_run.py")


@pytest.fixture
def run(teacher_dir: Path, blocks: Path, tmp_path: Path) -> Any:
    """Trains on some ranks; gives the folder of checkpoints, and what was logged and learnt."""

    def train(devices: int, strategy: str = "auto", **settings: Any) -> tuple[Path, dict]:
        folder = tmp_path / f"run-{len(list(tmp_path.iterdir()))}"
        settings |= {"devices": devices, "strategy": strategy, "folder": str(folder)}
        settings |= {"teacher": str(teacher_dir), "blocks": str(blocks)}
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PL_GLOBAL_SEED": "3"}
        command = [sys.executable, str(RUN), json.dumps(settings, default=str)]
        subprocess.run(command, check=True, timeout=300, env=environment)
        return folder, torch.load(folder / "end.pt", weights_only=True)

    return train


def assert_same_run(one: dict, other: dict, first: int = 0) -> None:
    for name, values in one["steps"].items():
        assert other["steps"][name] == pytest.approx(values[first:], rel=1e-5), name
    for name, weight in one["weights"].items():
        assert (other["weights"][name] - weight).norm() < 1e-5 * weight.norm(), name


def test_a_sharded_run_is_the_run_and_goes_on_on_any_number_of_devices(run: Any) -> None:
    """In float64, with clipped gradients, amid an epoch."""
    alone, whole = run(1)
    assert len(whole["steps"]["loss"]) == 20
    assert max(whole["steps"]["grad_norm"]) > 0.5, "nothing was clipped"
    ddp = run(2, "ddp")[1]
    assert_same_run(whole, ddp)
    found = {}
    for settings in ({}, {"save_distributed_checkpoint": True}):
        together, parts = run(2, json.dumps(settings))
        assert_same_run(whole, parts)
        found[bool(settings)] = next(together.glob("*step=13.ckpt"))
        assert_same_run(whole, run(1, ckpt_path=found[bool(settings)])[1], 13)
    single = next(alone.glob("*step=13.ckpt"))
    for checkpoint in (single, found[True]):
        assert_same_run(whole, run(2, "{}", ckpt_path=checkpoint)[1], 13)
    # Three ways to write, one checkpoint; and the student alone in it, in the optimizer and in DDP's buckets.
    one, other, shards = (load_checkpoint(path, "x") for path in (single, found[False], found[True]))
    assert shapes(one) == shapes(other) == shapes(shards)
    assert not [name for name in one["state_dict"] if not name.startswith("student.")]
    size = sum(tensor.nbytes for tensor in one["state_dict"].values())
    steps = 4 * len(one["optimizer_states"][0]["state"])
    for held, buckets in ((ddp["bytes"], size), (whole["bytes"], 0), (parts["bytes"], 0)):
        assert held == {"parameters": size, "states": 2 * size + steps, "buckets": buckets}


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true"])
def test_half_precision(run: Any, precision: str) -> None:
    """Layers compute in bfloat16, gradients are summed in float32 where the weights are that."""
    one, other = (run(devices, name, steps=6, precision=precision)[1] for devices, name in ((1, "auto"), (2, "{}")))
    assert other["steps"]["loss"] == pytest.approx(one["steps"]["loss"], rel=1e-2)
    dtype = torch.float32 if precision == "bf16-mixed" else torch.bfloat16
    assert {weight.dtype for weight in other["weights"].values()} == {dtype}


@pytest.mark.slow
def test_muon(run: Any) -> None:
    """Its iteration on whole matrices is in bfloat16, and so is what sums in another order differ by."""
    one, other = (run(devices, name, steps=14, muon=True)[1] for devices, name in ((1, "auto"), (2, "{}")))
    assert other["steps"]["loss"] == pytest.approx(one["steps"]["loss"], rel=1e-4)


@pytest.mark.slow
def test_a_sharded_student_records_itself(run: Any, tmp_path: Path) -> None:
    """What two ranks store of a student in training is the same with whole weights and with spread ones."""
    stores = []
    for strategy in ("ddp", "{}"):
        store = tmp_path / f"store-{len(stores)}"
        run(2, strategy, steps=3, store=str(store))
        assert verify_folder(store) == []
        reader = BlockReader(store, "train")
        items = [reader[index] for index in range(len(reader))]
        stores.append(sorted(items, key=lambda item: (item["teacher_step"].tolist(), item["block"].tolist())))
    assert len(stores[0]) == 24
    for one, other in zip(*stores, strict=True):
        for name in ("block", "ids", "counts"):
            np.testing.assert_array_equal(one[name], other[name])
        np.testing.assert_allclose(one["logprobs"], other["logprobs"], atol=2e-3)  # float16 of equal float64


def shapes(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """All tensors by name, and which parameters make up the groups of the optimizer."""
    (optimizer,) = checkpoint["optimizer_states"]
    states = {
        f"{number} {key}": value for number, entries in optimizer["state"].items() for key, value in entries.items()
    }
    found = {name: (value.shape, value.dtype) for name, value in {**checkpoint["state_dict"], **states}.items()}
    return {**found, "groups": [group["params"] for group in optimizer["param_groups"]]}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "strategy"),
    [
        ({}, {"replicas": 2}),
        ({"config": {"tie_word_embeddings": True}}, {}),
        ({"config": {"hidden_size": 36, "intermediate_size": 50, "vocab_size": 301}}, {"reshard_after_forward": False}),
        ({"activation_checkpointing": True}, {}),
        ({"micro_batches": 2}, {"cpu_offload": True, "load_in_turn": True}),
    ],
    ids=["hybrid", "tied", "uneven", "activations", "offload"],
)
def test_four_ranks(run: Any, settings: dict[str, Any], strategy: dict[str, Any]) -> None:
    """With a share of each rank in checkpoints, which go on on one, two and four."""
    alone, whole = run(1, **settings)
    together, parts = run(4, json.dumps({**strategy, "save_distributed_checkpoint": True}), **settings)
    assert_same_run(whole, parts)
    checkpoint = next(together.glob("*step=13.ckpt"))
    assert shapes(load_checkpoint(next(alone.glob("*step=13.ckpt")), "x")) == shapes(load_checkpoint(checkpoint, "x"))
    for devices in (1, 2, 4):
        chosen = "auto" if devices == 1 else json.dumps(strategy)
        assert_same_run(whole, run(devices, chosen, ckpt_path=checkpoint, **settings)[1], 13)
