"""Studies of real trainings: killed at any time, on several workers, in a database, as jobs."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from pd_lightning.study.results import Row, read_results

pytestmark = pytest.mark.slow
pytest.importorskip("optuna")

SIZES = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}


@pytest.fixture
def config(tmp_path: Path, blocks: Path, truncated_store: Path) -> Path:
    """A study of four points and two controls, one run about as short as the start of a process."""
    student = {"class_path": "HFStudent", "init_args": {"config": {"model_type": "llama", **SIZES}}}
    fit = {
        "model": {
            "student": student,
            "teacher": {"class_path": "OfflineTeacher"},
            "transforms": {"truncate": {"class_path": "TopK", "init_args": {"k": 20}}},
            "kd_weight": 0.9,
        },
        "data": {
            "class_path": "pd_lightning.data.TokenBlocks",
            "init_args": {"path": str(truncated_store), "batch_size": 4},
        },
        "trainer": {
            "max_steps": 20,
            "val_check_interval": 10,
            "check_val_every_n_epoch": None,
            "enable_progress_bar": False,
            "logger": {"class_path": "pd_lightning.loggers.MetricsCSV"},
            "callbacks": [
                {
                    "class_path": "lightning.pytorch.callbacks.ModelCheckpoint",
                    "init_args": {"every_n_train_steps": 5, "save_last": True},
                }
            ],
        },
    }
    study = {
        "output_dir": "study",
        "fit": [fit],
        "axes": {
            "k": {"path": "model.transforms.truncate.k", "values": [2, 20]},
            "alpha": {"path": "model.kd_weight", "values": [0.5, 0.9, 1.0]},
        },
        "teachers": {str(truncated_store): {"flops_per_token": 10_000.0}},
        "controls": {"blocks": str(blocks)},
        "threads": 1,
    }
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(study))
    return tmp_path / "study.yaml"


def command(config: Path, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "pd_lightning", "study", "--config", str(config), *arguments]


def run(config: Path, *arguments: str, **environment: str) -> str:
    done = subprocess.run(
        command(config, *arguments),
        cwd=config.parent,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def table(folder: Path) -> list[dict[str, Any]]:
    """The results, but for the seconds that they took."""
    return [{**vars(row), "train_seconds": None} for row in read_results(folder / "results.csv")]


def finished(folder: Path) -> int:
    rows: list[Row] = read_results(folder / "results.csv")
    return sum(row.state == "complete" for row in rows)


def kill_when(done: int, config: Path, folder: Path) -> None:
    """Start the study, and kill it amid a training that has a checkpoint, when so many runs are done."""
    process = subprocess.Popen(
        command(config), cwd=config.parent, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 300
    while finished(folder) < done or not _begun(folder):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _begun(folder: Path) -> bool:
    checkpoints = folder.glob("runs/*/*/checkpoints/last.ckpt")
    return any(not (path.parents[1] / "summary.json").exists() for path in checkpoints)


def test_a_killed_study_ends_with_the_same_table(config: Path) -> None:
    folder = config.parent / "study"
    run(config)
    whole = table(folder)
    assert len(whole) == 6
    assert {row["state"] for row in whole} == {"complete"}
    assert (folder / "report.html").exists()
    shutil.move(folder, config.parent / "whole")
    for done in (1, 3, 4):
        kill_when(done, config, folder)
        assert finished(folder) < 6
    run(config)
    assert table(folder) == whole
    starts = [path.read_text().count("\n") for path in folder.glob("runs/*/*/starts.jsonl")]
    assert sum(starts) == 6 + 3, "what was killed went on, each at its second start"


def test_two_workers_share_a_study(config: Path) -> None:
    folder = config.parent / "study"
    output = run(config, "--workers=2")
    assert finished(folder) == 6
    assert [path.read_text().count("\n") for path in folder.glob("runs/*/*/starts.jsonl")] == [1] * 6, "none ran twice"
    assert sum(line.startswith("[") for line in output.splitlines()) == 6


def test_workers_as_jobs(config: Path) -> None:
    pytest.importorskip("submitit")
    folder = config.parent / "study"
    output = run(config, "--workers=2", "--slurm.cluster=local")
    assert "Submitted 2 workers as jobs" in output
    deadline = time.monotonic() + 300
    while finished(folder) < 6:
        assert time.monotonic() < deadline, [path.read_text() for path in (folder / "slurm").glob("*.err")]
        time.sleep(1)
    assert "Best: " in run(config, "--report_only=true")


@pytest.fixture
def postgres() -> Iterator[str]:
    """The URL of a PostgreSQL server that is there for the test."""
    pytest.importorskip("psycopg")
    found = [shutil.which("pg_ctl"), *Path("/usr/lib/postgresql").glob("*/bin/pg_ctl")]
    programs = next((Path(path).resolve().parent for path in found if path), None)
    if programs is None:
        pytest.skip("there is no PostgreSQL server here")
    root = Path(tempfile.mkdtemp(prefix="postgres-"))  # pytest's own folders are for one user alone
    as_other: list[str] = []
    if os.geteuid() == 0:  # the server refuses to run as root
        shutil.chown(root, "nobody")
        as_other = ["setpriv", "--reuid=nobody", "--clear-groups"]
    data, port = root / "data", 54329

    def control(*arguments: str) -> None:
        subprocess.run([*as_other, *arguments], cwd=root, check=True, timeout=60, stdout=subprocess.DEVNULL)

    control(str(programs / "initdb"), "-D", str(data), "-U", "pd", "--auth=trust", "--encoding=UTF8", "--no-sync")
    options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories="
    control(str(programs / "pg_ctl"), "-D", str(data), "-w", "-l", str(root / "log"), "-o", options, "start")
    yield f"postgresql+psycopg://pd@127.0.0.1:{port}/postgres"
    control(str(programs / "pg_ctl"), "-D", str(data), "-m", "immediate", "stop")
    shutil.rmtree(root)


def test_a_study_in_postgresql(config: Path, postgres: str) -> None:
    """Its URL comes from the environment, and stays out of the study's files."""
    folder = config.parent / "study"
    run(config, "--workers=2", PD_LIGHTNING_STUDY__STORAGE=postgres)
    assert finished(folder) == 6
    assert not (folder / "study.db").exists()
    assert not [path for path in folder.rglob("*.yaml") if "postgresql" in path.read_text()]
