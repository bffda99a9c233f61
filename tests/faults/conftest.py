"""Settings of runs that are to be killed: small, and with everything on that a resume has to put back."""

import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from pd_lightning.cli import main
from pd_lightning.composition.compose import merge

sys.path.insert(0, str(Path(__file__).parent))  # for outcomes, processes and strikes


@pytest.fixture(scope="session")
def fit_settings(tiny: SimpleNamespace, truncated_store: Path) -> dict[str, Any]:
    """Training on a store: shuffled, with workers, dropout, accumulation, and schedules of α, τ and the rate."""

    def of(class_path: str, **init_args: Any) -> dict[str, Any]:
        return {"class_path": f"pd_lightning.{class_path}", "init_args": init_args}

    temperature = of("transforms.Temperature", value=of("schedules.Linear", start=2.0, end=1.0))
    return {
        "model": {
            "student": of("students.HFStudent", config={**tiny.config, "attention_dropout": 0.2}),
            "teacher": of("teachers.OfflineTeacher"),
            "transforms": {"temperature": temperature},
            "kd_weight": of("schedules.WSD", peak=0.9, warmup=0.2, decay=0.5),
            "lr": of("schedules.Cosine", peak=1e-2, warmup=0.1),
        },
        # 40 blocks: 10 batches and 5 steps an epoch.
        "data": of("data.TokenBlocks", path=str(truncated_store), batch_size=4, num_workers=2),
        "trainer": {
            "accelerator": "cpu",
            "max_steps": 18,
            "accumulate_grad_batches": 2,
            "val_check_interval": 4,
            "log_every_n_steps": 1,
            "default_root_dir": "run",
            "enable_progress_bar": False,
            "enable_model_summary": False,
        },
    }


@pytest.fixture
def write(tmp_path: Path) -> Callable[[dict[str, Any]], Path]:
    """Write settings to a file."""

    def write(settings: dict[str, Any]) -> Path:
        path = tmp_path / "settings.yaml"
        path.write_text(yaml.safe_dump(settings))
        return path

    return write


@pytest.fixture(scope="session")
def live_teacher(blocks: Path, teacher_dir: Path) -> dict[str, Any]:
    """Laid over `fit_settings`: token blocks, and the teacher at hand."""
    teacher = {"class_path": "pd_lightning.teachers.FrozenTeacher", "init_args": {"model": str(teacher_dir)}}
    data = {"path": str(blocks), "max_train_blocks": 40, "max_val_blocks": 12}
    return {"model": {"teacher": teacher}, "data": {"init_args": data}}


@pytest.fixture(scope="session")
def struck_settings(fit_settings: dict[str, Any]) -> dict[str, Any]:
    """Two epochs of 5 steps on the folder `data`, validations of 3 batches after steps 2 and 4 of each."""
    trainer = {"max_steps": 10, "callbacks": [{"class_path": "strikes.Strike"}]}
    return merge(fit_settings, {"trainer": trainer, "data": {"init_args": {"path": "data"}}})


@pytest.fixture(scope="session")
def expected(
    struck_settings: dict[str, Any], truncated_store: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    """What the training makes when nothing happens."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("whole"))
        Path("settings.yaml").write_text(yaml.safe_dump(struck_settings))
        Path("data").symlink_to(truncated_store)
        assert main(["fit", "--config", "settings.yaml"]) == 0
        from outcomes import training

        return training(Path("run"))


@pytest.fixture
def arguments(
    struck_settings: dict[str, Any],
    truncated_store: Path,
    write: Callable[[dict[str, Any]], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> list[str]:
    """What starts the training in the working directory, and what goes on."""
    monkeypatch.chdir(tmp_path)
    Path("data").symlink_to(truncated_store)
    return ["fit", "--config", str(write(struck_settings)), "--ckpt_path", "auto"]


@pytest.fixture
def fit(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Start the training, or go on, until something happens."""

    def run(strike: str = "", *further: str) -> int:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # which shells turn off for what runs behind them
        monkeypatch.setenv("STRIKE", strike)
        return main([*arguments, *further])

    return run
