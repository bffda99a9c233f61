"""A rank that the first one has launched ends when that one has ended, whatever it is waiting for."""

from __future__ import annotations

import os
import sys
import threading
import time

_LAUNCHER = "PD_LIGHTNING_LAUNCHER"
# Time to end by itself, as torchrun gives it: after the last step, or with a message of its own.
GRACE_SECONDS = 20.0
_SLEEP_SECONDS = 1.0


def end_with_launcher() -> None:
    """Watch the process that has launched this one, if one has; and be known to those that this one will launch.

    Lightning watches from rank 0 the ranks that it launches, but nothing ends them when rank 0 itself is gone: they
    would wait for it as long as the process group's timeout says. torchrun and clusters watch all ranks themselves.
    """
    parent = os.getppid()
    is_launched = os.environ.get("LOCAL_RANK", "0") != "0" and os.environ.get(_LAUNCHER) == str(parent)
    if is_launched:
        threading.Thread(target=_watch, args=(parent,), name="launcher-watch", daemon=True).start()
    os.environ[_LAUNCHER] = str(os.getpid())


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_SLEEP_SECONDS)
    time.sleep(GRACE_SECONDS)
    rank = os.environ.get("LOCAL_RANK")
    print(f"pd-lightning: error: rank {rank} ends, since rank 0, which launched it, has ended.", file=sys.stderr)
    sys.stderr.flush()
    os._exit(1)
