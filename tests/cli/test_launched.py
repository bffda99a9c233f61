"""A launched process outlives its launcher by no more than a moment."""

import os
import subprocess
import sys

import pytest

CHILD = """
import faulthandler, sys, time
from pd_lightning.cli import launched
faulthandler.dump_traceback_later(30, exit=True)
launched.GRACE_SECONDS = 0.1
launched.end_with_launcher()
print("started", flush=True)
time.sleep(float(sys.argv[1]))
print("still here", file=sys.stderr)
"""
LAUNCHER = """
import os, subprocess, sys
from pd_lightning.cli import launched
launched.end_with_launcher()
child, rank, seconds = sys.argv[1:]
command = [sys.executable, "-c", child, seconds]
started = subprocess.Popen(command, stdout=subprocess.PIPE, env={**os.environ, "LOCAL_RANK": rank})
started.stdout.readline()
os._exit(3)
"""


@pytest.mark.parametrize(
    ("rank", "seconds", "expected"),
    [
        ("1", "1000", "pd-lightning: error: rank 1 ends, since rank 0, which launched it, has ended.\n"),
        ("0", "3", "still here\n"),
    ],
    ids=["a rank", "another process"],
)
def test_a_rank_ends_with_its_launcher(rank: str, seconds: str, expected: str) -> None:
    command = [sys.executable, "-c", LAUNCHER, CHILD, rank, seconds]
    environment = {name: value for name, value in os.environ.items() if name != "LOCAL_RANK"}
    # Waits until nobody holds the pipe of standard error any more.
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60)
    assert (done.returncode, done.stderr) == (3, expected)
