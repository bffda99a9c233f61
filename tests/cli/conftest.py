from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from pd_lightning.cli import Command, main

TOYS = "command_toys"


@pytest.fixture(autouse=True)
def toys(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    """The toy classes, importable; the working directory is an empty folder."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PD_LIGHTNING_TRACEBACK", raising=False)
    import command_toys

    command_toys.Toy.built.clear()
    return command_toys


@pytest.fixture
def run() -> Callable[..., int]:
    """`pd-lightning` in this process, with toys in place of our modules."""
    trainer = {name: Command(name, f"{TOYS}:Toy", trainer=True) for name in ("fit", "validate", "predict")}
    others = {
        "record": Command("record", f"{TOYS}:ToyRecorder", trainer=True),
        "copy": Command("copy", f"{TOYS}:copy"),
        "show": Command("show", f"{TOYS}:copy", positional=True),
    }
    return lambda *argv: main([str(argument) for argument in argv], {**trainer, **others})


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Write settings to a YAML file."""

    def write(name: str, settings: dict | str) -> Path:
        path = tmp_path / name
        path.write_text(settings if isinstance(settings, str) else yaml.safe_dump(settings))
        return path

    return write


@pytest.fixture
def base(write: Callable[..., Path]) -> Path:
    """A complete YAML: six steps on the CPU, in the run folder `run`."""
    trainer = {
        "max_steps": 6,
        "log_every_n_steps": 1,
        "accelerator": "cpu",
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "default_root_dir": "run",
        "logger": {"class_path": "pd_lightning.loggers.MetricsCSV", "init_args": {"save_dir": "run"}},
    }
    data = {"class_path": f"{TOYS}.Rows"}
    model = {"lr": {"class_path": f"{TOYS}.Up", "init_args": {"peak": 3.0, "warmup": 0.5}}}
    return write("base.yaml", {"model": model, "data": data, "trainer": trainer})
