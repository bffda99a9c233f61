"""`pd-lightning inspect`: what a data folder holds, and whether it is whole."""

from __future__ import annotations

from importlib import import_module
from json import dumps
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track

from pd_lightning.inspection.figures import describe_split
from pd_lightning.inspection.page import print_tables, write_page
from pd_lightning.store.safety import verify_layout
from pd_lightning.store.verification import verify_folder

_RECOMPUTE = "pd_lightning.recording.recompute:recompute"  # by name, as it imports PyTorch


def inspect(
    path: str,
    verify: bool = False,
    recompute: int = 0,
    teacher: str | None = None,
    html: str | None = None,
    json: bool = False,
) -> int:
    """Show what a folder of token blocks or a logit store holds: manifest, sizes, kept ids, kept mass and error.

    Args:
        path: The data folder, written by `pd-lightning tokenize` or `pd-lightning record`.
        verify: Read everything: compare each file with its checksum, decode each item and check it, and name
            the chunks that are damaged. The exit code is 1 if there are any.
        recompute: Run the live teacher on so many random blocks of a logit store, and report the worst difference.
        teacher: Folder or hub name of the teacher to recompute with; by default the one that the manifest names.
        html: Also write a page with plots to this file.
        json: Print JSON instead of tables.

    Returns:
        The exit code: 0, or 1 if `verify` found damage.

    Raises:
        FileNotFoundError: No such folder, or an unfinished one.
        ValueError: The path is an address in object storage; without `verify` also: the folder is damaged, of a newer
            version, or not to be trusted.
    """
    if teacher is not None and not recompute:
        raise ValueError(f"teacher must come with recompute, got {teacher} alone. Set recompute to 8, say.")
    if recompute < 0:
        raise ValueError(f"recompute must be at least 0, got {recompute}. Set recompute to 8, say.")
    if "://" in path:
        raise ValueError(f"path must be a folder on this machine, got {path}. Copy the folder here first.")
    problems = _verify(path, quiet=json) if verify else []
    report: dict[str, Any] = {"path": path}
    try:
        report |= describe(path)
    except ValueError:
        # With --verify the list of problems says it better.
        if not problems:
            raise
    if verify:
        report["problems"] = problems
    if recompute and "manifest" in report:
        module, _, name = _RECOMPUTE.partition(":")
        report["recomputed"] = getattr(import_module(module), name)(path, recompute, teacher)
    if json:
        print(dumps(report, indent=2))
    else:
        print_tables(report, Console())
    if html is not None and "manifest" in report:
        write_page(report, html)
    return 1 if problems else 0


def describe(folder: str | Path) -> dict[str, Any]:
    """Summary of a data folder as JSON values.

    Args:
        folder: The data folder.

    Returns:
        `manifest`, and `splits` with sizes and, for logit stores, figures of up to 256 evenly spread blocks.
    """
    manifest = verify_layout(folder)
    splits = {name: describe_split(folder, name, manifest) for name in manifest.splits}
    return {"manifest": manifest.to_json(), "splits": splits}


def _verify(path: str, *, quiet: bool) -> list[str]:
    """Check everything, with a progress bar on standard error."""
    console = Console(stderr=True)

    def progress(blocks: range) -> Any:
        return track(blocks, "Checking blocks", console=console, transient=True, disable=quiet)

    return verify_folder(path, progress)
