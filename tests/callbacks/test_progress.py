import io
from collections.abc import Iterator
from typing import Any

import lightning.pytorch as pl
import pytest
import rich
import torch
from rich.progress import Task, TaskID
from torch.utils.data import DataLoader, TensorDataset

from pd_lightning.callbacks import RunProgress, progress
from pd_lightning.callbacks.progress import clock, figure, remaining_seconds, status


@pytest.fixture(autouse=True)
def _console() -> Iterator[None]:
    """Give rich's console, which the bar sets up anew, back to other tests."""
    console = rich.get_console()
    state = console.__dict__
    yield
    console.__dict__ = state


class Toy(pl.LightningModule):
    def __init__(self, metrics: dict[str, float] | None = None) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(2, 1)
        self.metrics = metrics or {}

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        self.log_dict({name: value for name, value in self.metrics.items() if "val" not in name}, prog_bar=True)
        return self.layer(batch[0]).square().mean()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log_dict({name: value for name, value in self.metrics.items() if "val" in name}, prog_bar=True)

    def predict_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return self.layer(batch[0])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Watch(pl.Callback):
    """Notes the bar's (completed, total, first) after each batch."""

    def __init__(self) -> None:
        self.seen: list[tuple[float, float | None, float]] = []

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        task = trainer.progress_bar_callback.train_progress_bar
        self.seen.append((task.completed, task.total, task.fields["first"]))


def loader() -> DataLoader:
    return DataLoader(TensorDataset(torch.ones(8, 2)), batch_size=2)


def fit(*, terminal: bool = True, module: Toy | None = None, ckpt_path: Any = None, width: int = 160, **settings: Any):
    output, watch = io.StringIO(), Watch()
    bar = RunProgress(console_kwargs={"file": output, "force_terminal": terminal, "width": width, "color_system": None})
    trainer = pl.Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        callbacks=[bar, watch],
        **{"max_epochs": -1, **settings},
    )
    trainer.fit(module or Toy(), loader(), loader(), ckpt_path=ckpt_path)
    return trainer, watch.seen, output.getvalue()


@pytest.mark.parametrize(
    ("settings", "completed", "total"),
    [
        ({"max_steps": 6}, [1, 2, 3, 4, 5, 6], 6),
        ({"max_epochs": 2}, [1, 2, 3, 4, 5, 6, 7, 8], 8),
        ({"max_epochs": 2, "max_steps": 5}, [1, 2, 3, 4, 5], 5),
        ({"max_epochs": 2, "accumulate_grad_batches": 2}, [0, 1, 1, 2, 2, 3, 3, 4], 4),
    ],
    ids=["steps", "epochs", "both", "accumulation"],
)
def test_one_bar_counts_the_optimizer_steps_of_the_run(settings, completed, total):
    _, seen, _ = fit(**settings)
    assert seen == [(step, total, 0) for step in completed]


def test_a_run_without_an_end_has_no_total():
    _, seen, output = fit(max_time={"seconds": 1}, limit_val_batches=0)
    assert seen[0] == (1, float("inf"), 0)
    assert "/--" in output


def test_a_resumed_run_goes_on_where_it_was(tmp_path):
    trainer, *_ = fit(max_steps=6)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    _, seen, _ = fit(max_steps=9, ckpt_path=tmp_path / "last.ckpt")
    assert seen == [(7, 9, 6), (8, 9, 6), (9, 9, 6)]


def test_metrics_are_shown_under_short_names_and_others_as_they_are():
    metrics = {"other": 0.25, "train/tokens_per_second": 4123.0, "train/loss": 4.1234, "val/lm_loss": 4.18}
    _, _, output = fit(max_steps=8, module=Toy(metrics))
    last = output.replace("\x1b[?25h", "").rstrip().splitlines()[-1]
    assert "8/8" in last
    assert last.endswith("steps/s loss: 4.123  val: 4.180  tok/s: 4.1k  other: 0.250")


def test_a_module_without_metrics_can_use_it():
    _, _, output = fit(max_steps=4)
    assert "steps/s" in output
    assert "loss" not in output


def test_eighty_columns_show_all():
    metrics = {"train/tokens_per_second": 4123.0, "train/loss": 4.1234, "val/lm_loss": 4.18}
    _, _, output = fit(max_steps=8, module=Toy(metrics), width=80)
    for text in ("8/8", "steps/s", "loss: 4.123", "val: 4.180", "tok/s: 4.1k"):
        assert text in output.rstrip().rsplit("Training", 1)[-1]


def test_logs_get_a_line_for_each_validation():
    _, _, output = fit(terminal=False, max_steps=8, module=Toy({"val/lm_loss": 4.18}))
    lines = [line for line in output.splitlines() if line.startswith("step")]
    assert [line.split()[1] for line in lines] == ["4/8", "8/8"]
    assert all(line.endswith("steps/s  val: 4.180") for line in lines)
    assert "\x1b" not in output


def test_logs_get_a_line_now_and_then(monkeypatch):
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
    _, _, output = fit(terminal=False, max_steps=3, limit_val_batches=0, module=Toy({"train/loss": 4.0}))
    assert [line.split()[1] for line in output.splitlines() if line.startswith("step")] == ["1/3", "2/3", "3/3"]


def test_terminals_get_no_lines(monkeypatch):
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
    _, _, output = fit(max_steps=3)
    assert "step " not in output


@pytest.mark.parametrize(("seconds", "readings"), [(1e12, 10), (0.0, 50)])
def test_metrics_are_read_at_the_end_of_an_epoch_and_now_and_then(monkeypatch, seconds, readings):
    calls = []
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_METRICS", seconds)
    monkeypatch.setattr(RunProgress, "get_metrics", lambda *_: calls.append(1) or {})
    fit(max_epochs=10, limit_val_batches=0)
    assert len(calls) == readings


def test_refresh_rate_zero_switches_it_off(capsys):
    settings = {"accelerator": "cpu", "logger": False, "enable_checkpointing": False}
    pl.Trainer(**settings, max_steps=2, callbacks=[RunProgress(refresh_rate=0)]).fit(Toy(), loader(), loader())
    assert "steps/s" not in capsys.readouterr().out


def test_predict_keeps_lightnings_bar():
    output = io.StringIO()
    bar = RunProgress(console_kwargs={"file": output, "force_terminal": True, "width": 120, "color_system": None})
    pl.Trainer(accelerator="cpu", logger=False, callbacks=[bar]).predict(Toy(), loader())
    assert "Predicting" in output.getvalue()
    assert "4/4" in output.getvalue()
    assert "it/s" in output.getvalue()


def run_task(completed: float, total: float = 100.0, now: float = 20.0) -> Task:
    task = Task(TaskID(0), "Training", total, completed, _get_time=lambda: now, fields={"first": 40})
    task.start_time = 0.0
    return task


def test_the_remaining_time_follows_from_the_speed_since_the_start():
    assert remaining_seconds(run_task(completed=50)) == pytest.approx(50 * 20 / 10)
    assert remaining_seconds(run_task(completed=40)) is None
    assert remaining_seconds(run_task(completed=50, total=float("inf"))) is None
    assert status(run_task(completed=50)) == "50/100  0:20 • 1:40  0.00 steps/s"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "-:--"), (0, "0:00"), (65.9, "1:05"), (605, "10:05"), (3600, "1:00:00"), (100_000, "1 day, 3:46:40")],
)
def test_clock(seconds, text):
    assert clock(seconds) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (4.1864, "4.186"),
        (0.0, "0"),
        (6e-4, "0.0006"),
        (-12.5, "-12.500"),
        (950.2, "950"),
        (4123.0, "4.1k"),
        (1.25e6, "1.2M"),
        (3e9, "3.0B"),
        (float("nan"), "nan"),
    ],
)
def test_figures_are_short(value, text):
    assert figure(value) == text
