from pathlib import Path
from typing import Any

import pytest

from pd_lightning.composition.yaml_files import as_yaml, read_yaml


@pytest.mark.parametrize("value", ["1e-3", "12e4567", "0.5", "no", "null", "α, 3", "2 %", 1e-5, 0.001, None, True, []])
def test_what_is_written_is_read_as_it_was(tmp_path: Path, value: Any) -> None:
    """A revision of digits and an e is no number; PyYAML, which writes, and jsonargparse, which reads, disagree."""
    file = tmp_path / "a.yaml"
    file.write_text(as_yaml({"name": value, "list": [value]}), encoding="utf-8")
    assert read_yaml(str(file)) == {"name": value, "list": [value]}
