"""The starts of a run: when, with which software, and from which state of the project.

```
runs/x/starts.jsonl                  a line for each start: one that goes on adds its own
       uncommitted-1a2b3c4d5e6f.diff what was not committed then, named by its content
```
"""

from __future__ import annotations

import hashlib
import json
import platform
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from pd_lightning.cli.git_state import GitState, git_state
from pd_lightning.store.manifest import software_versions

STARTS_FILE = "starts.jsonl"


def record_start(folder: Path) -> None:
    """Add this start to those of a run.

    Args:
        folder: The run folder.
    """
    state = git_state()
    line = {
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "software": {"python": platform.python_version(), **software_versions("lightning", "safetensors")},
        "git": None if state is None else _as_json(state, folder),
    }
    with (folder / STARTS_FILE).open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def _as_json(state: GitState, folder: Path) -> dict[str, Any]:
    """The state, its diff in a file beside."""
    fields = asdict(state)
    diff = fields["diff"].encode("utf-8")
    name = f"uncommitted-{hashlib.sha256(diff).hexdigest()[:12]}.diff" if diff else None
    if name is not None and not (folder / name).exists():
        (folder / name).write_bytes(diff)
    return {**fields, "diff": name}
