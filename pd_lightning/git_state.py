"""What git says of the folder that a run starts in: commit, branch, and what is not committed."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from typing import Any

from pd_lightning.redaction import MASK, is_secret, redact_text

LONGEST_DIFF = 1_000_000  # characters
MOST_UNTRACKED = 100
_SECONDS = 5.0  # a run doesn't wait for longer
# No program that a repository's configuration names is run, and nothing is written. Files above the threshold count
# as binary, of which a diff says only that they differ.
_SETTINGS = ("core.fsmonitor=false", "core.quotePath=false", "core.bigFileThreshold=1m")
_GIT = ("git", "--no-optional-locks", *(part for setting in _SETTINGS for part in ("-c", setting)))
# A name, and text in quotes or a long word with digits in it: what `name = call(...)` of code is not.
_ASSIGNMENT = re.compile(
    r"""(?P<before>(?P<name>[A-Za-z_][\w-]*)["']?\s*[:=]\s*)"""
    r"""(?P<value>"[^"\n]+"|'[^'\n]+'|(?=[A-Za-z_+/=-]*\d)[\w+/=-]{12,})"""
)


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
    status = _git("status", "--porcelain=v2", "--branch", "-z")
    if status is None:
        return None
    entries = status.split("\0")
    head = dict(entry[2:].split(" ", 1) for entry in entries if entry.startswith("# "))
    commit, branch = (_known(head.get(f"branch.{name}")) for name in ("oid", "head"))
    dirty = any(entry[:2] in ("1 ", "2 ", "u ") for entry in entries)
    diff = (_git("diff", "--no-ext-diff", "--no-textconv", "HEAD") if dirty and commit else None) or ""
    return GitState(
        commit=commit,
        branch=branch,
        dirty=dirty,
        untracked=[entry[2:] for entry in entries if entry.startswith("? ")][:MOST_UNTRACKED],
        diff=_without_secrets(diff[:LONGEST_DIFF]),
        diff_is_cut=len(diff) > LONGEST_DIFF,
    )


def _git(*arguments: str) -> str | None:
    options: dict[str, Any] = {"stdin": subprocess.DEVNULL, "timeout": _SECONDS, "check": True, "capture_output": True}
    try:
        return subprocess.run([*_GIT, *arguments], **options).stdout.decode("utf-8", errors="replace")
    except (OSError, subprocess.SubprocessError):
        return None


def _known(text: str | None) -> str | None:
    """Text of git, None for what it puts in brackets: (initial), (detached)."""
    return None if text is None or text.startswith("(") else text


def _without_secrets(diff: str) -> str:
    """A diff with `***` for what looks like a secret, by its name or by itself."""
    return _ASSIGNMENT.sub(
        lambda found: f"{found['before']}{MASK}" if is_secret(found["name"]) else found[0], redact_text(diff)
    )
