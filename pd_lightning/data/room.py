"""Whether a data folder may be written: nothing of the user's is ever removed, and nothing finished by accident."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from pd_lightning.redaction import redact
from pd_lightning.store.chunks import discard_unfinished, finish
from pd_lightning.store.durable import TEMPORARY
from pd_lightning.store.manifest import read_manifest

# A corpus may well have folders called train and val: what is unfinished is ours only with this file in it.
MARK = f"{TEMPORARY}unfinished"
WRITTEN = ("manifest.json", "checksums.json", "tokenizer", "train", "val")  # the manifest goes first


def make_room(
    folder: Path, settings: dict[str, Any], overwrite: bool, kind: str = "blocks", repeatable: bool = True
) -> bool:
    """Makes `folder` ready for writing, or finds that there is nothing to write.

    Args:
        folder: The data folder.
        settings: Of this run, as JSON values.
        overwrite: Whether a finished folder with other settings may be replaced.
        kind: What will be written, `blocks` or `logits`.
        repeatable: Whether the same settings give the same data; otherwise a finished folder is never taken for theirs.

    Returns:
        False where the folder is finished with the same settings.

    Raises:
        ValueError: It holds other settings, another kind of data, or files that are not ours.
    """
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"output_dir must be a folder, got the file {folder}. Choose another output_dir.")
    if (folder / "manifest.json").exists():
        manifest = read_manifest(folder)
        if manifest.kind != kind:
            found = "a logit store" if manifest.kind == "logits" else "token blocks"
            raise ValueError(f"output_dir must not hold {found}, got {folder}. Choose another output_dir.")
        # Folders from before there was a choice don't have it among their settings.
        before = {"document_attention": manifest.document_attention, **manifest.extra.get("settings", {})}
        settings = redact(settings)
        if before == settings and repeatable:
            finish(folder, manifest)  # once more: a kill may have left something to tidy up
            remove_mark(folder)
            return False
        if not overwrite:
            found = _difference(before, settings) or "data that may be others, as no origin is given"
            raise ValueError(
                f"output_dir must be new or hold {kind} of the same settings, got {folder} made with "
                f"{found}. Choose another output_dir, or pass --overwrite true."
            )
    _clear(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MARK).write_text("pd-lightning is writing blocks here, or was stopped: run the command again.\n")
    return True


def remove_mark(folder: Path) -> None:
    """Takes the mark off a finished folder."""
    (folder / MARK).unlink(missing_ok=True)


def _difference(before: dict[str, Any], now: dict[str, Any]) -> str:
    names = [name for name in now if before.get(name) != now[name]]
    return ", ".join(f"{name} {before.get(name)!r} instead of {now[name]!r}" for name in names)


def _clear(folder: Path) -> None:
    if not folder.exists():
        return
    ours = (folder / "manifest.json").exists() or (folder / MARK).exists()
    found = {path.name for path in folder.iterdir() if not path.name.startswith(TEMPORARY)}
    foreign = sorted(found - set(WRITTEN) if ours else found)
    if foreign:
        raise ValueError(
            f"output_dir must be new, empty or a data folder, got {folder} with {foreign[0]} in it. Choose another "
            "output_dir."
        )
    for name in WRITTEN:
        path = folder / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    discard_unfinished(folder)  # the mark among it, last of all
