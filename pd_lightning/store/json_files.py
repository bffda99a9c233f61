"""Reading the JSON files of a data folder, which may come from anywhere."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        ValueError: It is not JSON, or nested too deeply; names the file.
        OSError: It can't be read.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{path} must be valid JSON, got: {error}. Write the folder again with the command that made it."
        ) from error
