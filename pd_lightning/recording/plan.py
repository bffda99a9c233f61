"""What a recording is to be: kept beside the store from its start, so that a second start goes on with the same one."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pd_lightning.store.durable import TEMPORARY, write_durably
from pd_lightning.store.manifest import MANIFEST_FILE, read_manifest
from pd_lightning.store.space import free_bytes, gigabytes

PLAN_FILE = "recording.json"


@dataclass
class RecordingPlan:
    """The settings of a recording, and what its pilot found.

    Args:
        settings: Everything that decides the bits of the store.
        blocks_per_chunk: Blocks of a chunk file, a multiple of the batch size: a resumed run then computes the same
            batches, and so the same bits.
        bytes_per_block: Size of a stored block in the pilot.
        vocab_size: Width of the teacher's logits, V.
    """

    settings: dict[str, Any]
    blocks_per_chunk: int
    bytes_per_block: float
    vocab_size: int

    def save(self, folder: Path) -> None:
        """Write the plan into the folder of the store."""
        folder.mkdir(parents=True, exist_ok=True)
        write_durably(folder / PLAN_FILE, json.dumps(asdict(self), indent=1).encode())


def earlier_plan(folder: Path, settings: dict[str, Any]) -> RecordingPlan | None:
    """Find the plan of an earlier start in a folder.

    Args:
        folder: Folder of the store.
        settings: The settings of this start.

    Returns:
        The plan, or None where nothing was recorded yet.

    Raises:
        ValueError: If the folder holds a recording with other settings, or other files.
    """
    path = folder / PLAN_FILE
    if path.is_file():
        plan = RecordingPlan(**json.loads(path.read_text(encoding="utf-8")))
        _compare(folder, plan.settings, settings)
        return plan
    if (folder / MANIFEST_FILE).is_file():
        raise ValueError(
            f"model.output_dir must be a new folder or one of `pd-lightning record`, got {folder}, which holds "
            f"{read_manifest(folder).kind}. Set another model.output_dir."
        )
    # What a killed process left half-written is nobody's.
    if folder.exists() and any(not path.name.startswith(TEMPORARY) for path in folder.iterdir()):
        raise ValueError(
            f"model.output_dir must be a new folder or one of `pd-lightning record`, got {folder}, which holds other "
            "files. Set another model.output_dir."
        )
    return None


def check_space(folder: Path, needed: float) -> None:
    """Refuse a store that the disk has no room for.

    Args:
        folder: Folder of the store.
        needed: Size of what is missing of it, in bytes.

    Raises:
        ValueError: If less is free.
    """
    free = free_bytes(folder)
    if needed > free:
        raise ValueError(
            f"The disk of model.output_dir must have room for the store, got {gigabytes(free)} free for about "
            f"{gigabytes(needed)}. Set model.output_dir to another disk, or model.selection to keep fewer ids."
        )


def _compare(folder: Path, earlier: dict[str, Any], settings: dict[str, Any]) -> None:
    now = json.loads(json.dumps(settings))
    different = sorted(key for key in {*earlier, *now} if earlier.get(key) != now.get(key))
    if different:
        changes = "; ".join(f"{key} was {earlier.get(key)}, is {now.get(key)}" for key in different)
        raise ValueError(
            f"model.output_dir must be a new folder or hold a recording with the same settings, got {folder}, where "
            f"{changes}. Set another model.output_dir, or put the settings back."
        )
