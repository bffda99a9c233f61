import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest


@pytest.mark.usefixtures("same_threads")
def test_smaller_weights_predict_nearly_the_same(
    benchmark: Callable[[str], ModuleType], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "int8.json"
    benchmark("int8").main(["--size=64x1", "--vocab_size=128", "--rounds=1", "--json", str(target)])
    rows = json.loads(target.read_text())["rows"]
    assert rows["float32"]["kl_nats"] == 0
    assert {"bfloat16", "torch dynamic int8"} <= rows.keys()
    for name, row in rows.items():
        assert row["tokens_per_second"] > 0
        assert row["kl_nats"] < 0.01
        assert name == "float32" or row["mb"] < rows["float32"]["mb"]
    assert "KL to float32" in capsys.readouterr().out
