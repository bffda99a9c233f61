"""What `pd-lightning fit` loads before its first step: nothing that takes long and is for something else."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

CODE = """
import json, sys
import torch, lightning, transformers
before = {name.partition(".")[0] for name in sys.modules}
from pd_lightning.cli import main
assert main(["fit", "--config", "run.yaml"]) == 0
print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules} - before)))
"""
# For other commands, for extras, or for a logger that nobody has asked for.
ELSEWHERE = {"datasets", "pyarrow", "pandas", "sklearn", "tensorflow", "lm_eval", "optuna", "wandb", "mlflow", "gguf"}


def test_fit_loads_nothing_that_is_for_something_else(tmp_path: Path, tiny: Any, blocks: Path) -> None:
    settings = {
        "model": {"student": {"class_path": "pd_lightning.students.HFStudent", "init_args": {"config": tiny.config}}},
        "data": {"class_path": "pd_lightning.data.TokenBlocks", "init_args": {"path": str(blocks)}},
        "trainer": {
            "accelerator": "cpu",
            "max_steps": 1,
            "callbacks": [{"class_path": "pd_lightning.callbacks.RunProgress"}],
        },
    }
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(settings))
    done = subprocess.run([sys.executable, "-c", CODE], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    loaded = set(json.loads(done.stdout.splitlines()[-1]))
    assert "pd_lightning" in loaded
    assert loaded & ELSEWHERE == set()
