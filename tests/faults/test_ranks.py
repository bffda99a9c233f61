"""Two ranks: a signal that one of them gets, and a rank that dies."""

import os
import signal
from pathlib import Path

import pytest
from outcomes import training
from processes import Command, differences


def second_rank(command: Command) -> int | None:
    """The process that Lightning has started beside the first one."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((process / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == command.pid and b"LOCAL_RANK=1\0" in (process / "environ").read_bytes():
                return int(process.name)
        except (FileNotFoundError, ProcessLookupError):  # it has ended since it was listed
            continue
    return None


def strike(command: Command, steps: int, number: signal.Signals) -> int:
    """Send the second rank a signal after so many rows in the log; give the command's exit code."""
    metrics = command.folder / "run" / "logs" / "metrics.csv"
    assert command.wait_until(lambda: metrics.exists() and len(metrics.read_text().splitlines()) > steps)
    rank = second_rank(command)
    assert rank is not None
    os.kill(rank, number)
    return command.wait()


FSDP2 = "--trainer.strategy=pd_lightning.strategies.FSDP2Strategy"
SHARDS = [FSDP2, "--trainer.strategy.save_distributed_checkpoint=true"]


@pytest.mark.slow
@pytest.mark.parametrize("strategy", [["--trainer.strategy=ddp"], SHARDS], ids=["ddp", "shards"])
def test_what_one_rank_suffers(arguments: list[str], tmp_path: Path, strategy: list[str]) -> None:
    ranks = [*arguments, "--trainer.devices=2", *strategy, "--trainer.max_steps=60"]
    for name in ("whole", "struck"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "data").symlink_to(Path("data").readlink())
    whole = Command(ranks, tmp_path / "whole")
    assert whole.wait() == 0, whole.log()
    folder = tmp_path / "struck"
    command = Command(ranks, folder)
    assert strike(command, 3, signal.SIGTERM) == 143, command.log()
    assert command.log().count("pd-lightning: stopped by SIGTERM after step") == 1
    command = Command(ranks, folder)
    assert strike(command, 20, signal.SIGKILL) != 0, command.log()
    command = Command(ranks, folder)
    assert command.wait() == 0, command.log()
    assert not differences(training(folder / "run"), training(tmp_path / "whole" / "run"))
