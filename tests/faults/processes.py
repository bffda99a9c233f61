"""Commands in processes of their own, killed at moments, and started again until they come to their end."""

import json
import os
import random
import select
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PATH = f"{ROOT}{os.pathsep}{Path(__file__).parent}"
ENVIRONMENT = {**os.environ, "PYTHONPATH": PATH, "OMP_NUM_THREADS": "1", "PYTHONFAULTHANDLER": "1"}
LOG = "log.txt"
DEADLINE = 300.0  # seconds after which a command hangs
POLL = 0.002


class Command:
    """A running `python -m pd_lightning`; its output goes to `log.txt` in its folder.

    Args:
        arguments: After the program's name.
        folder: The working directory.
        environment: Variables to add.
    """

    def __init__(self, arguments: Sequence[str], folder: Path, **environment: str) -> None:
        self.folder = folder
        self.began = time.time_ns()
        with (folder / LOG).open("a") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "pd_lightning", *arguments],
                cwd=folder,
                env={**ENVIRONMENT, **environment},
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.pid = self._process.pid

    def ended(self) -> bool:
        return self._process.poll() is not None

    def wait(self) -> int:
        return self._process.wait(DEADLINE)

    def signal(self, number: int, *, group: bool = False) -> None:
        (os.killpg if group else os.kill)(self.pid, number)

    def log(self) -> str:
        return (self.folder / LOG).read_text()

    def wait_until(self, condition: Callable[[], bool]) -> bool:
        """Wait for a condition; False where the command has ended before."""
        while not condition():
            if self.ended():
                return False
            assert time.time_ns() - self.began < DEADLINE * 1e9, self.log()
            time.sleep(POLL)
        return True


class Forked(Command):
    """The same without the ten seconds of imports: a fork of a process that has imported everything."""

    _server: "subprocess.Popen[str] | None" = None

    def __init__(self, arguments: Sequence[str], folder: Path, **environment: str) -> None:
        if Forked._server is None:
            command = [sys.executable, str(Path(__file__).with_name("forking.py"))]
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
            Forked._server = subprocess.Popen(command, env=ENVIRONMENT, text=True, bufsize=1, **pipes)  # type: ignore
        self.folder = folder
        self.began = time.time_ns()
        self._code: int | None = None
        server = Forked._server
        assert server is not None
        assert server.stdin is not None
        server.stdin.write(json.dumps([list(arguments), str(folder), str(folder / LOG), environment]) + "\n")
        self.pid = int(self._line())

    def ended(self) -> bool:
        assert Forked._server is not None
        if self._code is None and select.select([Forked._server.stdout], [], [], 0)[0]:
            self._code = int(self._line())
        return self._code is not None

    def wait(self) -> int:
        assert self.wait_until(lambda: False) is False
        assert self._code is not None
        return self._code

    def _line(self) -> str:
        assert Forked._server is not None
        assert Forked._server.stdout is not None
        return Forked._server.stdout.readline()


@dataclass
class Subject:
    """A command that is to be killed.

    Args:
        arguments: Start it, or go on.
        output: The folder that it writes, in its working directory.
        outcome: What it has made, to be the same whatever happened.
        writing: Pattern, in `output`, of the files that are there while something is being written.
    """

    arguments: Sequence[str]
    output: str
    outcome: Callable[[Path], object]
    writing: str
    kills: Counter[str] = field(default_factory=Counter)

    def uninterrupted(self, folder: Path, start: type[Command] = Command) -> tuple[object, float]:
        """What it makes, and how long it works at that, imports left out, in seconds."""
        folder.mkdir()
        command = start(self.arguments, folder)
        assert command.wait_until(lambda: self._has_begun(command)), command.log()
        began = time.monotonic()
        assert command.wait() == 0, command.log()
        return self.outcome(folder), time.monotonic() - began

    def kill(self, command: Command, seconds: float, at_write: int) -> bool:
        """Kill it some time after it has begun to work, or at one of its writes; False if it had ended before.

        Args:
            command: Just started.
            seconds: After it has begun, or after the write has.
            at_write: 0 for any moment, else the number of the write.
        """
        for _ in range(at_write):
            if not command.wait_until(lambda: not self._writes(command.folder)):
                return False
            if not command.wait_until(lambda: self._writes(command.folder)):
                return False
        if not at_write and not command.wait_until(lambda: self._has_begun(command)):
            return False
        due = time.monotonic() + seconds
        if not command.wait_until(lambda: time.monotonic() >= due):
            return False
        command.signal(signal.SIGKILL)
        if command.wait() != -signal.SIGKILL:
            return False
        self.kills["writing" if self._writes(command.folder) else "working"] += 1
        return True

    def killed(
        self, folder: Path, draws: random.Random, duration: float, times: int, starts: Iterator[type[Command]]
    ) -> object:
        """Kill it again and again, then let it come to its end; give what it has made.

        Args:
            folder: A new working directory.
            draws: Of the moments: every third kill hits a write, others come at any time of the whole duration.
            duration: How long it works when nothing happens, in seconds.
            times: Kills in a row, fewer where it ends before.
            starts: How it is started each time.
        """
        folder.mkdir()
        for number in range(times):
            command = next(starts)(self.arguments, folder)
            at_write = draws.randint(1, 4) if number % 3 == 2 else 0
            if not self.kill(command, draws.uniform(0, 0.01 if at_write else duration), at_write):
                break
        command = next(starts)(self.arguments, folder)
        assert command.wait() == 0, command.log()
        return self.outcome(folder)

    def campaign(self, folder: Path, kills: int, seed: int, starts: Iterator[type[Command]], times: int = 6) -> None:
        """Kill it so many times in all, `times` in a row, and compare what it makes with the uninterrupted.

        Args:
            folder: An empty folder.
            kills: At least so many must hit.
            seed: Of the moments.
            starts: How it is started each time.
            times: Kills in a row.
        """
        draws = random.Random(seed)
        expected, duration = self.uninterrupted(folder / "whole", Forked)
        for number in range(5 * kills):
            before = self.kills.total()
            found = self.killed(folder / str(number), draws, duration, times, starts)
            assert found == expected, (number, differences(found, expected))
            if self.kills.total() >= kills:
                break
            if self.kills.total() == before:
                duration *= 0.7  # other work took the machine's time when it was measured
        told = f"{' '.join(self.arguments[:1])}: {dict(self.kills)} in {number + 1} runs of {duration:.2f} s"
        print(told)
        assert self.kills.total() >= kills, told

    def _has_begun(self, command: Command) -> bool:
        try:
            return any(_written(path) >= command.began for path in (command.folder / self.output).rglob("*"))
        except FileNotFoundError:  # it clears a folder that it begins anew
            return True

    def _writes(self, folder: Path) -> bool:
        return any((folder / self.output).glob(self.writing))


def differences(found: object, expected: object, place: str = "") -> list[str]:
    """Where two outcomes differ, in words that fit on a screen."""
    if isinstance(found, dict) and isinstance(expected, dict):
        names = sorted({*found, *expected}, key=str)
        pairs = ((found.get(name), expected.get(name), f"{place}.{name}") for name in names)
        return [line for pair in pairs for line in differences(*pair)][:20]
    return [] if found == expected else [f"{place}: {str(found)[:80]} in place of {str(expected)[:80]}"]


def _written(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return 0
