"""What transformers 4, and programs built on it, need of an exported folder beyond what transformers 5 writes."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

Fields = dict[str, Any]


def make_portable(folder: Path) -> None:
    """Make a folder that transformers 5 has written readable for transformers 4, and for other users of the machine.

    Args:
        folder: The folder, with a README.md whose permissions are right.
    """
    _edit(folder / "config.json", _spell_out_positions)
    _edit(folder / "tokenizer_config.json", _name_the_old_class)
    for path in folder.iterdir():
        shutil.copymode(folder / "README.md", path)  # safetensors' are for their owner alone


def _edit(path: Path, change: Callable[[Fields], Fields]) -> None:
    if path.is_file():
        fields = change(json.loads(path.read_text(encoding="utf-8")))
        path.write_text(json.dumps(fields, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _spell_out_positions(config: Fields) -> Fields:
    """Rotary positions in the fields of transformers 4, which else takes its defaults without a word.

    Those that differ by kind of layer had other fields in each architecture, and are left alone.
    """
    rope = config.get("rope_parameters")
    if not isinstance(rope, dict) or "rope_theta" not in rope:
        return config
    old = {name: rope[name] for name in ("rope_theta", "partial_rotary_factor") if name in rope}
    if rope.get("rope_type", "default") != "default":
        old["rope_scaling"] = {name: value for name, value in rope.items() if name not in old}
    return {**config, **{name: value for name, value in old.items() if name not in config}}


def _name_the_old_class(config: Fields) -> Fields:
    """The tokenizer's class by the name that both have."""
    known = config.get("tokenizer_class") != "TokenizersBackend"
    return config if known else {**config, "tokenizer_class": "PreTrainedTokenizerFast"}
