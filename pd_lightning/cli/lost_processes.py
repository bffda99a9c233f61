"""What a process says when another one that it needs is gone: a worker of the data, another rank."""

from __future__ import annotations

import os
import re

_WORKER = re.compile(
    r"DataLoader worker \(pid(?:\(s\))? ([\d, ]+)\) (?:is killed by signal: ([^.]*)|exited unexpectedly)"
)
# How gloo, NCCL and the store that ranks meet at tell of a rank that is no more.
_RANK = re.compile(
    r"gloo/transport/\S+\] .*(?:closed by peer|reset by peer|Broken pipe)|Connection closed by peer \[|ncclRemoteError|"
    r"NCCL communicator was aborted|recvValue failed|sendBytes failed|failed to recv, got 0 bytes",
    re.DOTALL,
)
_GO_ON = "run the same command again, fit with --ckpt_path auto"


def lost_process_message(error: BaseException) -> str | None:
    """Explain an error that tells of another process's end, None for any other."""
    if not isinstance(error, RuntimeError):
        return None
    worker = _WORKER.search(str(error))
    if worker:
        return _worker_message(pids=worker[1], signal=worker[2])
    return _rank_message() if _RANK.search(str(error)) else None


def _worker_message(pids: str, signal: str | None) -> str:
    how = "ended without a word" if signal is None else f"was ended by the system ({signal.strip()})"
    if signal and "Bus error" in signal:
        likely = "shared memory ran out: enlarge /dev/shm (--shm-size of a container)"
    else:
        likely = "memory ran out, or something killed it: look at the system's log (dmesg)"
    return (
        f"data workers must live as long as their run, got worker {pids}, which {how}. Most likely {likely}. Lower "
        f"data.num_workers, data.prefetch_factor or data.batch_size, or read in the training process with "
        f"data.num_workers 0, then {_GO_ON}."
    )


def _rank_message() -> str:
    rank = os.environ.get("RANK") or os.environ.get("LOCAL_RANK", "0")
    return (
        f"all ranks must live as long as their run, got on rank {rank} a connection that another rank has left. That "
        "one failed, and says why in its own message; or it was killed, and says nothing: memory may have run out "
        f"there, see the system's log (dmesg). Mend that, then {_GO_ON}."
    )
