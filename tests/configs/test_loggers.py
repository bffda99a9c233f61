"""The overlays of configs/logger/: each gives a run the loggers that it names, and the loggers the run's settings."""

import inspect
from pathlib import Path
from typing import Any

import lightning.pytorch.loggers as lightning_loggers
import pytest
import yaml
from lightning.pytorch.loggers.logger import DummyLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from pd_lightning.cli import main

OVERLAYS = Path(__file__).parents[2] / "configs" / "logger"
ELSEWHERE = {"wandb": "WandbLogger", "mlflow": "MLFlowLogger"}
SECRET = "s3://user:hunter2@bucket/blocks"


@pytest.fixture
def fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny: Any, blocks: Path) -> Any:
    """Train for two steps under an overlay."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PD_LIGHTNING_TRACEBACK", raising=False)
    settings = {
        "model": {"student": {"class_path": "pd_lightning.students.HFStudent", "init_args": {"config": tiny.config}}},
        "data": {
            "class_path": "pd_lightning.data.TokenBlocks",
            "init_args": {"path": str(blocks), "batch_size": 4, "max_val_blocks": 4},
        },
        "trainer": {
            "accelerator": "cpu",
            "max_steps": 2,
            "val_check_interval": 2,
            "log_every_n_steps": 1,
            "default_root_dir": "run",
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "enable_checkpointing": False,
        },
    }
    Path("run.yaml").write_text(yaml.safe_dump(settings))
    return lambda name: main(["fit", "--config", "run.yaml", "--config", str(OVERLAYS / f"{name}.yaml")])


def written() -> set[str]:
    files = {str(path.relative_to("run")) for path in Path("run").rglob("*") if path.is_file()}
    return {"events" if "tfevents" in name else name for name in files}


def test_csv(fit: Any) -> None:
    assert fit("csv") == 0
    assert written() == {"config.yaml", "starts.jsonl", "logs/metrics.csv"}


def test_tensorboard_shows_settings_beside_what_came_of_them(fit: Any) -> None:
    assert fit("tensorboard") == 0
    assert written() == {"config.yaml", "starts.jsonl", "events", "logs/hparams.yaml"}
    events = EventAccumulator("run/logs")
    events.Reload()
    assert "hp_metric" not in events.Tags()["scalars"]
    start, experiment = (
        HParamsPluginData.FromString(events.summary_metadata[f"_hparams_/{name}"].plugin_data.content)
        for name in ("session_start_info", "experiment")
    )
    settings = start.session_start_info.hparams
    assert settings["model.student.init_args.config.hidden_size"].number_value == 32
    assert settings["trainer.max_steps"].number_value == 2
    metrics = [metric.name.tag for metric in experiment.experiment.metric_infos]
    assert {"val/lm_loss", "val/perplexity"} <= set(metrics)
    assert {"val/lm_loss", "val/perplexity"} <= set(events.Tags()["scalars"])
    assert yaml.safe_load(Path("run/logs/hparams.yaml").read_text())["trainer.max_steps"] == 2


@pytest.mark.parametrize("name", ELSEWHERE)
def test_others_get_settings_and_metrics(fit: Any, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a logger in place of one whose package need not be installed."""
    real = getattr(lightning_loggers, ELSEWHERE[name])
    made: list[Any] = []

    class Recording(DummyLogger):
        def __init__(self, **init_args: Any) -> None:
            super().__init__()
            self.init_args, self.params, self.metrics = init_args, {}, {}
            made.append(self)

        def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
            self.params |= params

        def log_metrics(self, metrics: Any, *args: Any, **kwargs: Any) -> None:
            self.metrics |= metrics

    parameters = [p for p in inspect.signature(real).parameters.values() if p.kind is not p.VAR_KEYWORD]
    Recording.__init__.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD), *parameters]
    )
    Recording.__name__ = Recording.__qualname__ = real.__name__
    Recording.__module__ = "lightning.pytorch.loggers"
    monkeypatch.setattr(lightning_loggers, real.__name__, Recording)
    assert fit(name) == 0
    (logger,) = made
    (given, _) = yaml.safe_load((OVERLAYS / f"{name}.yaml").read_text())["trainer"]["logger"]
    assert given["init_args"].items() <= logger.init_args.items()
    assert logger.params["model.student.init_args.config.hidden_size"] == 32
    assert {"train/loss", "val/lm_loss"} <= logger.metrics.keys()
    assert Path("run/logs/metrics.csv").exists()


@pytest.mark.parametrize("name", ELSEWHERE)
def test_a_package_that_is_missing_is_named(fit: Any, name: str, capsys: pytest.CaptureFixture) -> None:
    try:
        __import__(name)
    except ImportError:
        assert fit(name) == 1
        message = capsys.readouterr().err
        assert "Traceback" not in message
        assert "pd-lightning: error: trainer.logger" in message
        assert name in message
        assert "pip install" in message
    else:
        pytest.skip(f"{name} is installed")
