"""What git says of the folder that a run starts in: commit, branch, and what is not committed."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from typing import Any

from pd_lightning.cli.masked_diff import masked_lines

LONGEST_DIFF = 1_000_000  # characters
MOST_UNTRACKED = 100
_SECONDS = 5.0  # a run doesn't wait for longer
# No program that a repository's configuration names is run (see `_filters`, too), and nothing is written or fetched.
# Files above the threshold count as binary, of which a diff says only that they differ.
_SETTINGS = ("core.fsmonitor=false", "core.quotePath=false", "core.bigFileThreshold=1m")
_GIT = ("git", "--no-pager", "--no-optional-locks", *(part for setting in _SETTINGS for part in ("-c", setting)))
# What is not committed within a submodule, git would find out with the submodule's own configuration.
_SUBMODULES = "--ignore-submodules=dirty"
_NO_FETCHING = {"GIT_ALLOW_PROTOCOL": "none"}  # of objects that a partial clone lacks


@dataclass(frozen=True)
class GitState:
    """A checkout.

    Args:
        commit: The commit's hash; None before the first one.
        branch: The branch; None where no branch is checked out.
        dirty: Whether a file under version control differs from the commit.
        untracked: Files that are neither under version control nor ignored, the first `MOST_UNTRACKED`.
        diff: What differs, without secrets, at most `LONGEST_DIFF` characters.
        diff_is_cut: Whether there is more of it.
    """

    commit: str | None
    branch: str | None
    dirty: bool
    untracked: list[str]
    diff: str
    diff_is_cut: bool


def git_state() -> GitState | None:
    """The state of the checkout that the working directory is in.

    Returns:
        The state; None outside a checkout, without git, or where git fails or takes too long.
    """
    filters = _filters()
    status = None if filters is None else _git(*filters, "status", _SUBMODULES, "--porcelain=v2", "--branch", "-z")
    if filters is None or status is None:
        return None
    entries = status.split("\0")
    head = dict(entry[2:].split(" ", 1) for entry in entries if entry.startswith("# "))
    commit, branch = (_known(head.get(f"branch.{name}")) for name in ("oid", "head"))
    dirty = any(entry[:2] in ("1 ", "2 ", "u ") for entry in entries)
    against_commit = ("diff", _SUBMODULES, "--no-ext-diff", "--no-textconv", "HEAD")
    diff, is_cut = _masked((_git(*filters, *against_commit) if dirty and commit else None) or "")
    return GitState(
        commit=commit,
        branch=branch,
        dirty=dirty,
        untracked=[entry[2:] for entry in entries if entry.startswith("? ")][:MOST_UNTRACKED],
        diff=diff,
        diff_is_cut=is_cut,
    )


def _filters() -> list[str] | None:
    """Settings that switch off what files would be piped through before they are compared; None if that can't be."""
    found = _git("config", "-z", "--name-only", "--get-regexp", r"^filter\..*\.(clean|smudge|process)$", codes=(0, 1))
    names = sorted({key.rsplit(".", 1)[0] for key in (found or "").split("\0") if key})
    if found is None or any("=" in name for name in names):  # which git would take for the end of the key
        return None
    off = ("clean=", "smudge=", "process=", "required=false")
    return [part for name in names for setting in off for part in ("-c", f"{name}.{setting}")]


def _git(*arguments: str, codes: tuple[int, ...] = (0,)) -> str | None:
    options: dict[str, Any] = {"stdin": subprocess.DEVNULL, "timeout": _SECONDS, "capture_output": True}
    try:
        done = subprocess.run([*_GIT, *arguments], env=os.environ | _NO_FETCHING, **options)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.decode("utf-8", errors="replace") if done.returncode in codes else None


def _known(text: str | None) -> str | None:
    """Text of git, None for what it puts in brackets: (initial), (detached)."""
    return None if text is None or text.startswith("(") else text


def _masked(diff: str) -> tuple[str, bool]:
    """A diff without secrets, and whether it was cut: afterwards, or half a secret might not be known for one."""
    lines, length = [], -1
    for line in masked_lines(diff):
        lines.append(line)
        length += len(line) + 1
        if length > LONGEST_DIFF:
            break
    return "\n".join(lines)[:LONGEST_DIFF], length > LONGEST_DIFF
