"""The overlays of configs/strategy on two ranks, by each of the launchers that docs/scale.md names."""

import inspect
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from pd_lightning.checkpoints import load_checkpoint
from pd_lightning.cli import main
from pd_lightning.strategies import FSDP2Strategy

ROOT = Path(__file__).resolve().parents[1]
PYTHON = [sys.executable, "-m"]
TORCHRUN = [*PYTHON, "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m"]


@pytest.fixture
def settings(tmp_path: Path, tiny: Any, blocks: Path, teacher_dir: Path) -> Path:
    """What makes the demo's student small enough."""
    config = {**tiny.config, "tie_word_embeddings": True}
    overlay = {
        "model": {
            "student": {"init_args": {"config": config}},
            "teacher": {
                "class_path": "pd_lightning.teachers.FrozenTeacher",
                "init_args": {"model": str(teacher_dir)},
            },
        },
        "data": {"init_args": {"path": str(blocks), "batch_size": 4, "max_train_blocks": 64, "max_val_blocks": 8}},
        "trainer": {"default_root_dir": str(tmp_path / "run"), "max_steps": 4, "val_check_interval": 2, "devices": 2},
    }
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(overlay))
    return path


def fit(
    launcher: list[str], strategy: str, settings: Path, *arguments: str, command: str = "fit", **environment: str
) -> subprocess.Popen:
    overlays = (ROOT / "configs/demo/student.yaml", ROOT / f"configs/strategy/{strategy}.yaml", settings)
    configs = [part for path in overlays for part in ("--config", str(path))]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **environment}
    words = [*launcher, "pd_lightning", command, *configs, *arguments]
    return subprocess.Popen(words, env=environment, cwd=settings.parent)


def slurm(settings: Path) -> Iterator[subprocess.Popen]:
    """What `srun --ntasks-per-node 2` would start."""
    for rank in ("0", "1"):
        known = {"NTASKS": "2", "NTASKS_PER_NODE": "2", "NNODES": "1", "NODELIST": "localhost", "JOB_ID": "4711"}
        known |= {"PROCID": rank, "LOCALID": rank, "NODEID": "0", "JOB_NAME": "fit"}
        names = {f"SLURM_{name}": value for name, value in known.items()}
        yield fit(PYTHON, "fsdp2", settings, MASTER_ADDR="127.0.0.1", **names)


def trained(settings: Path) -> dict[str, torch.Tensor]:
    return load_checkpoint(settings.parent / "run/checkpoints/last.ckpt", "--ckpt_path")["state_dict"]


def launch(launcher: str, settings: Path) -> None:
    processes = {
        "lightning": lambda: [fit(PYTHON, "fsdp2", settings)],
        "torchrun": lambda: [fit(TORCHRUN, "fsdp2", settings)],
        "slurm": lambda: list(slurm(settings)),
    }[launcher]()
    assert [process.wait(timeout=300) for process in processes] == [0] * len(processes)


@pytest.mark.parametrize(
    "launcher",
    ["lightning", pytest.param("torchrun", marks=pytest.mark.slow), pytest.param("slurm", marks=pytest.mark.slow)],
)
def test_a_run_on_two_ranks_is_judged_and_exported_on_one(
    launcher: str, settings: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    launch(launcher, settings)
    monkeypatch.chdir(settings.parent)
    weights = trained(settings)
    assert main(["export", "--ckpt_path", "run/checkpoints/last.ckpt", "--output_dir", "out"]) == 0
    from transformers import AutoModelForCausalLM

    exported = AutoModelForCausalLM.from_pretrained("out").state_dict()
    assert exported
    for name, weight in exported.items():
        assert torch.equal(weight, weights[f"student.model.{name}"]), name
    rows = (settings.parent / "run/logs/metrics.csv").read_text().splitlines()
    logged = [dict(zip(rows[0].split(","), row.split(","), strict=True)) for row in rows[1:]]
    judged = ["--config", str(ROOT / "configs/demo/student.yaml"), "--config", str(settings), "--trainer.devices=1"]
    assert main(["validate", *judged, "--ckpt_path", "last"]) == 0
    last = [row["val/lm_loss"] for row in logged if row.get("val/lm_loss")][-1]
    assert f"{float(last):.4f}" in capsys.readouterr().out


def test_the_page_tells_of_every_overlay_and_setting() -> None:
    page = (ROOT / "docs/scale.md").read_text(encoding="utf-8")
    for file in (ROOT / "configs/strategy").glob("*.yaml"):
        assert f"| `configs/strategy/{file.name}`" in page
    told = page.partition("FSDP2Strategy`, all under")[2].partition("What is wrapped")[0]
    assert set(re.findall(r"^\| `(\w+)` \|", told, re.MULTILINE)) == {*inspect.signature(FSDP2Strategy).parameters}


@pytest.mark.slow
def test_ddp_and_shards_of_each_rank(settings: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same weights by DDP and by FSDP2, whose checkpoint is a folder that is exported and gone on from."""
    assert fit(PYTHON, "ddp", settings).wait(timeout=300) == 0
    expected = trained(settings)
    monkeypatch.chdir(settings.parent)
    Path("run").rename("ddp")
    shards = "--trainer.strategy.save_distributed_checkpoint=true"
    assert fit(PYTHON, "fsdp2", settings, shards).wait(timeout=300) == 0
    for name, weight in trained(settings).items():
        torch.testing.assert_close(weight, expected[name], rtol=1e-4, atol=1e-5, msg=name)
    assert Path("run/checkpoints/last.ckpt").is_dir()
    assert main(["export", "--ckpt_path", "run/checkpoints/last.ckpt", "--output_dir", "out"]) == 0
    judge = fit(PYTHON, "fsdp2", settings, "--ckpt_path", "last", command="validate")
    assert judge.wait(timeout=300) == 0
    more = (shards, "--ckpt_path", "auto", "--trainer.max_steps=5")
    assert fit(PYTHON, "fsdp2", settings, *more).wait(timeout=300) == 0
    assert load_checkpoint("run/checkpoints/last.ckpt", "--ckpt_path")["global_step"] == 5
