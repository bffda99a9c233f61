"""What a user sees when something goes wrong: one paragraph for a mistake, a traceback for a bug."""

from __future__ import annotations

import dis
import errno
import os
import re
import signal
import sys
from argparse import ArgumentError
from collections.abc import Iterator
from itertools import dropwhile
from pathlib import Path
from types import TracebackType

from pd_lightning.cli.lost_processes import lost_process_message
from pd_lightning.redaction import redact_text

USER_ERRORS = (ValueError, FileNotFoundError, PermissionError, ModuleNotFoundError)
# The machine's limits are never a bug, whoever ran into them.
SYSTEM_ERRNOS = {errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS, errno.EEXIST, errno.ENOTDIR, errno.EISDIR}
# Native code (tokenizers, safetensors) gives the number of a system error as text.
NATIVE_ERROR = re.compile(r"\(os error (\d+)\)")
# What Lightning says of a package that it finds not installed, also within jsonargparse's message of a union of types.
MISSING_PACKAGE = re.compile(r"(?:Requirement|Module not found:) '([^']+)'.*?HINT: Try running `([^`]+)`")
WORKER_ERROR = re.compile(r"Caught (\w+) in .*(?:worker|replica) process", re.DOTALL)
# Packages whose frames stand between two of Lightning's where it builds and runs what settings say.
BELOW_LIGHTNING = {"lightning", "jsonargparse", "contextlib", "torch"}
PACKAGE = Path(__file__).parents[1]


class CommandLineError(Exception):
    """The command line or the YAML is wrong; the exit code is 2."""


class Stopped(SystemExit):
    """A signal has ended the command, which has left everything in order.

    Args:
        number: The signal.
        message: What the user is told; None on all ranks but one.
    """

    def __init__(self, number: int, message: str | None) -> None:
        super().__init__(128 + number)
        self.message = message


def exit_code(error: BaseException) -> int | None:
    """Print an error that a user can mend, and say with which code to exit.

    Args:
        error: What ended the command.

    Returns:
        The exit code; None where the exception must go on, since its traceback is wanted.
    """
    interrupted = isinstance(error, KeyboardInterrupt) or (
        # Lightning shuts down, then turns Ctrl+C into exit(1).
        isinstance(error, SystemExit) and isinstance(error.__context__, KeyboardInterrupt)
    )
    if interrupted:
        print("pd-lightning: interrupted", file=sys.stderr)
        return 130
    if isinstance(error, BrokenPipeError | SystemExit) and _reader_has_gone(error):
        return 128 + 13  # of SIGPIPE, which ends other programs in `| head`
    if isinstance(error, Stopped) and error.message is not None:
        print(f"pd-lightning: {error.message}", file=sys.stderr)
    if type(error).__name__ == "SIGTERMException":  # of Lightning, before the first step; it would end with 0
        print("pd-lightning: stopped by SIGTERM", file=sys.stderr)
        return 128 + signal.SIGTERM
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else None if error.code else 0
    if os.environ.get("PD_LIGHTNING_TRACEBACK", "0") not in ("", "0"):
        return None
    message = user_message(error)
    if message is None:
        return None
    print(f"pd-lightning: error: {redact_text(message)}", file=sys.stderr)
    return 2 if isinstance(error, CommandLineError | ArgumentError) else 1


def _reader_has_gone(error: BaseException) -> bool:
    """Whether nobody reads the output any more; what is left of it then goes nowhere, also at the end of Python."""
    try:
        # Output without a buffer has nothing left to flush. A pipe of others can break too: then this is an empty line.
        print(end="\n" if isinstance(error, BrokenPipeError) else "", flush=True)
    except BrokenPipeError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
        return True
    return False


def user_message(error: BaseException) -> str | None:
    """The message for a user's mistake or a limit of the machine, None for everything else."""
    if isinstance(error, CommandLineError | ArgumentError):
        return str(error)
    for link in _chain(error):
        system = _system_error(link)
        if system is not None:
            return _system_message(system)
    message = _own_message(error)
    refused = _lightning_message(error)
    if message is None and refused is not None:
        return f"trainer: {refused}"
    if message is None and _raised_in(error.__traceback__, "jsonargparse"):
        return _constructor_message(error)
    return message or lost_process_message(error)


def _own_message(error: BaseException) -> str | None:
    """The message of an error that was raised in pd_lightning on purpose."""
    if not isinstance(error, USER_ERRORS) or _is_missing_own_module(error):
        return None
    if not _raised_in(error.__traceback__, "pd_lightning"):
        return _worker_message(error)
    # int("x") or zip(strict=True) in our code is a bug; our own `raise` is a message for the user.
    return str(error) if not isinstance(error, ValueError) or _is_raise(error.__traceback__) else None


def _lightning_message(error: BaseException) -> str | None:
    """The message of Lightning for settings that it refuses, on one line.

    What it says of a misused hook or method, with code of a module or callback between, is a bug and no setting.
    """
    kinds = (ValueError, TypeError, RuntimeError, ModuleNotFoundError)
    if not isinstance(error, kinds) and type(error).__name__ != "MisconfigurationException":
        return None
    modules = [_module(frame) for frame in _frames(error.__traceback__)]
    inside = list(dropwhile(lambda module: module.split(".")[0] != "lightning", modules))
    if not inside or inside[-1].split(".")[0] != "lightning" or not _is_raise(error.__traceback__):
        return None
    between = {module for module in inside if module.split(".")[0] not in BELOW_LIGHTNING}
    return None if between - {"pd_lightning.trainer"} else " ".join(str(error).split())


def _constructor_message(error: BaseException) -> str | None:
    """The message of our constructor, which jsonargparse has wrapped in its own, and where it stands in the YAML."""
    messages = (_own_message(link) or _lightning_message(link) or _missing_package(link) for link in _chain(error))
    message = next((found for found in messages if found is not None), None)
    key = _setting(error.__traceback__)
    return f"{key}: {message}" if key and message else message


def _missing_package(error: BaseException) -> str | None:
    found = MISSING_PACKAGE.search(str(error))
    return f"the package {found[1]} must be installed, got none. Run {found[2]}." if found else None


def _setting(traceback: TracebackType | None) -> str | None:
    """The setting that jsonargparse was building, from the frame of its loop over them."""
    key = None
    for frame in _frames(traceback):
        component = frame.tb_frame.f_locals.get("component")
        dest = getattr(component, "dest", None)
        if _module(frame).startswith("jsonargparse") and isinstance(dest, str):
            key = dest
    return key


def _worker_message(error: BaseException) -> str | None:
    """The message of an error of ours that PyTorch carried over from a DataLoader worker as text."""
    text = str(error)
    caught = WORKER_ERROR.match(text)
    if caught is None or caught[1] not in {kind.__name__ for kind in USER_ERRORS}:
        return None
    files = re.findall(r'^  File "(.+)", line \d+', text, re.MULTILINE)
    if not files or not _is_own_file(files[-1]):
        return None
    return text.rpartition(f"\n{caught[1]}: ")[2].strip()


def _system_error(error: BaseException) -> OSError | None:
    """The limit of the machine that an error tells of, or None."""
    if isinstance(error, OSError):
        return error if error.errno in SYSTEM_ERRNOS else None
    found = NATIVE_ERROR.search(str(error))
    number = int(found[1]) if found else None
    return OSError(number, os.strerror(number)) if number in SYSTEM_ERRNOS else None


def _system_message(error: OSError) -> str:
    if error.strerror is None:  # one of ours, which says it all
        return str(error)
    place = f": {error.filename}" if error.filename else ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        remedy = f"Make room {'there' if place else 'where the command writes'} and run the command again"
    elif error.errno in (errno.EEXIST, errno.ENOTDIR, errno.EISDIR):
        remedy = "Choose another path: a file stands where a folder must be, or a folder where a file must be"
    else:
        remedy = "Choose another folder, or change its permissions"
    return f"{error.strerror}{place}. {remedy}."


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        yield link
        link = link.__cause__ or link.__context__


def _frames(traceback: TracebackType | None) -> Iterator[TracebackType]:
    while traceback is not None:
        yield traceback
        traceback = traceback.tb_next


def _raised_in(traceback: TracebackType | None, package: str) -> bool:
    """Whether the innermost frame belongs to a package."""
    frames = list(_frames(traceback))
    return bool(frames) and _module(frames[-1]).split(".")[0] == package


def _is_raise(traceback: TracebackType | None) -> bool:
    """Whether the innermost frame stands at a ``raise`` of its own, not at a call into C."""
    *_, frame = _frames(traceback)
    return dis.opname[frame.tb_frame.f_code.co_code[frame.tb_lasti]] == "RAISE_VARARGS"


def _module(frame: TracebackType) -> str:
    return str(frame.tb_frame.f_globals.get("__name__", ""))


def _is_own_file(file: str) -> bool:
    """Whether a file is part of the package, whose ``callbacks`` may be a link to a folder elsewhere."""
    path = Path(file).resolve()
    return any(path.is_relative_to(folder.resolve()) for folder in (PACKAGE, PACKAGE / "callbacks"))


def _is_missing_own_module(error: BaseException) -> bool:
    return isinstance(error, ModuleNotFoundError) and str(error.name).split(".")[0] == "pd_lightning"
