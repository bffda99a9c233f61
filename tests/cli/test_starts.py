import json
import subprocess
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml

from pd_lightning.cli.run_settings import hyperparameters
from pd_lightning.cli.starts import record_start


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Writes the one file of a project in the working directory, which is under version control."""
    monkeypatch.chdir(tmp_path)
    Path("code.py").write_text("width = 1\n")
    Path(".gitignore").write_text("run\n")
    Path("run").mkdir()
    for command in ("init -q", "add -A", "-c user.name=n -c user.email=e commit -qm one"):
        subprocess.run(["git", *command.split()], check=True)
    return lambda text: (Path("code.py").write_text(text), None)[1]


def starts() -> list[dict]:
    return [json.loads(line) for line in Path("run/starts.jsonl").read_text().splitlines()]


def test_each_start_adds_to_those_before(project: Callable[[str], None]) -> None:
    for text in ("width = 1\n", "width = 2\n", "width = 3\n", "width = 2\n"):
        project(text)
        record_start(Path("run"))
    states = [start["git"] for start in starts()]
    assert [state["dirty"] for state in states] == [False, True, True, True]
    assert states[0]["diff"] is None
    assert states[1]["diff"] == states[3]["diff"] != states[2]["diff"]
    assert "+width = 3" in (Path("run") / states[2]["diff"]).read_text()
    assert {path.name for path in Path("run").iterdir()} == {"starts.jsonl", states[1]["diff"], states[2]["diff"]}


def test_software_is_named(project: Callable[[str], None]) -> None:
    record_start(Path("run"))
    (start,) = starts()
    for package in ("torch", "lightning", "transformers", "safetensors", "litdata"):
        assert start["software"][package] == version(package)
    assert start["time"].endswith("+00:00")


def test_settings_get_the_names_of_the_command_line() -> None:
    settings = yaml.safe_load("""
    seed_everything: 1
    model:
      lr: {class_path: WSD, init_args: {peak: 0.001, warmup: null}}
      teacher: {init_args: {token: secret}}
    data: {paths: [a, b], mixed: [{weight: 0.5}, {weight: 1.5}]}
    trainer: {max_steps: 2, logger: {init_args: {project: x}}}
    """)
    assert hyperparameters(settings) == {
        "seed_everything": 1,
        "model.lr.class_path": "WSD",
        "model.lr.init_args.peak": 0.001,
        "model.teacher.init_args.token": "***",
        "data.paths": '["a", "b"]',
        "data.mixed.0.weight": 0.5,
        "data.mixed.1.weight": 1.5,
        "trainer.max_steps": 2,
    }
