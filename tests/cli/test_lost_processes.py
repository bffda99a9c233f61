"""One process of a run fails: the others end too, soon, with a word and a code that say so; none is left over."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from pd_lightning.cli.lost_processes import lost_process_message

HERE = Path(__file__).parent
Command = Callable[..., list[str]]


@pytest.fixture
def write(blocks: Path, tiny: Any, tmp_path: Path) -> Callable[..., list[str]]:
    """Write a YAML of a run with a callback of `failing_run`; gives the arguments."""

    def write(callback: str, num_workers: int = 0, **trainer: Any) -> list[str]:
        name, _, arguments = callback.partition(" ")
        callbacks = [
            {"class_path": f"failing_run.{name}", "init_args": yaml.safe_load(arguments or "{}")},
            {
                "class_path": "lightning.pytorch.callbacks.ModelCheckpoint",
                "init_args": {"every_n_train_steps": 2, "save_last": True},
            },
        ]
        settings = {
            "model": {
                "student": {"class_path": "pd_lightning.students.HFStudent", "init_args": {"config": tiny.config}}
            },
            "data": {
                "class_path": "pd_lightning.data.TokenBlocks",
                "init_args": {"path": str(blocks), "batch_size": 4, "num_workers": num_workers},
            },
            "trainer": {
                "accelerator": "cpu",
                "default_root_dir": str(tmp_path / "run"),
                "enable_progress_bar": False,
                "enable_model_summary": False,
                "limit_val_batches": 0,
                "callbacks": callbacks,
                **trainer,
            },
        }
        (tmp_path / "run.yaml").write_text(yaml.safe_dump(settings))
        return ["--config", str(tmp_path / "run.yaml")]

    return write


def run(*command: str) -> tuple[int, str]:
    path = os.pathsep.join([str(HERE.parents[1]), str(HERE)])
    done = subprocess.run(
        [sys.executable, *command],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=240,
    )
    return done.returncode, done.stdout


def explained(output: str) -> str:
    assert "Traceback" not in output, output
    (message,) = re.findall(r"^pd-lightning: error: (.*)$", output, flags=re.MULTILINE)
    return message


def test_a_data_worker_that_is_killed(write: Command, tmp_path: Path) -> None:
    arguments = write("WorkerIsKilled", num_workers=2, max_steps=6)
    code, output = run(str(HERE / "failing_run.py"), *arguments)
    assert code == 0, output
    assert "codes 1 0" in output
    message = explained(output)
    assert "data workers must live as long as their run, got worker" in message
    assert "Lower data.num_workers" in message
    assert "--ckpt_path auto" in message
    assert torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 6


def gone(pids: list[int]) -> bool:
    return not any(Path(f"/proc/{pid}").exists() for pid in pids)


CASES = list(product(("lightning", "torchrun"), ("raise", "kill"), (0, 1), ("go on", "hang")))
QUICK = ("lightning", "kill", 1, "go on")


@pytest.mark.skipif(not Path("/proc").exists(), reason="looks into /proc")
@pytest.mark.parametrize(
    ("launcher", "how", "rank", "others"),
    [pytest.param(*case, marks=[] if case == QUICK else pytest.mark.slow) for case in CASES],
)
def test_every_rank_ends_when_one_fails(write: Command, launcher: str, how: str, rank: int, others: str) -> None:
    arguments = write(f"RankFails {{rank: {rank}, how: {how}, others: {others}}}", max_steps=500, devices=2)
    start = ["-m", "torch.distributed.run", "--nproc_per_node=2"] if launcher == "torchrun" else []
    code, output = run(*start, "-m", "pd_lightning", "fit", *arguments, "--trainer.strategy=ddp")
    assert code != 0
    # Two ranks may write at once, without a line end between them.
    pids = [int(pid) for pid in re.findall(r"pid (\d+) parent", output)]
    assert len(pids) == 2, output
    left = time.monotonic() + 45
    while not gone(pids) and time.monotonic() < left:
        time.sleep(0.2)
    assert gone(pids)
    if how == "raise":
        assert "this rank fails" in output
    if others == "go on":
        # The launcher may end the other rank before it notices; Lightning's looks every five seconds, and says so.
        ended = launcher == "torchrun" or "terminated with code" in output
        assert ended or "all ranks must live as long as their run" in output
        assert "gloo" not in output.replace("distributed_backend=gloo", "")


@pytest.mark.parametrize(
    ("text", "fragments"),
    [
        (
            "DataLoader worker (pid(s) 12, 13) exited unexpectedly",
            ["got worker 12, 13, which ended without a word", "data.num_workers 0"],
        ),
        (
            "DataLoader worker (pid 12) is killed by signal: Killed. ",
            ["worker 12, which was ended by the system (Killed)", "memory ran out"],
        ),
        (
            "DataLoader worker (pid 12) is killed by signal: Bus error. It is possible that dataloader's workers are "
            "out of shared memory. Please try to raise your shared memory limit.",
            ["(Bus error)", "shared memory ran out: enlarge /dev/shm"],
        ),
        (
            "[/a/b/gloo/transport/tcp/pair.cc:545] Read error [127.0.0.1]:4485: Connection reset by peer. GLHF!",
            ["on rank 3", "--ckpt_path auto"],
        ),
        ("NCCL error: ncclRemoteError: A call failed", ["on rank 3"]),
    ],
)
def test_what_torch_says_is_told_in_our_words(monkeypatch: pytest.MonkeyPatch, text: str, fragments: list[str]) -> None:
    monkeypatch.setenv("RANK", "3")
    message = lost_process_message(RuntimeError(text))
    assert message is not None
    assert [fragment for fragment in fragments if fragment not in message] == []


@pytest.mark.parametrize("error", [RuntimeError("a bug"), ValueError("DataLoader worker (pid 12) is killed")])
def test_other_errors_are_left_alone(error: Exception) -> None:
    assert lost_process_message(error) is None
