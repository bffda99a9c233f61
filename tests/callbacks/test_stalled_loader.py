import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.profilers import SimpleProfiler
from torch.utils.data import DataLoader, IterableDataset

from pd_lightning.callbacks import StalledLoader, stalled_loader
from pd_lightning.callbacks.stalled_loader import FETCH


class Clock:
    """In place of the time module and of warnings: time passes where a test says so."""

    def __init__(self) -> None:
        self.now, self.warned = 1000.0, []

    def monotonic(self) -> float:
        return self.now

    def warn(self, message: str, stacklevel: int) -> None:
        self.warned.append(message)

    def stall(self, seconds: float, times: int) -> None:
        """Let time pass, so often, and wait for a warning each time."""
        for count in range(len(self.warned) + 1, len(self.warned) + times + 1):
            self.now += seconds
            limit = time.monotonic() + 60
            while len(self.warned) < count and time.monotonic() < limit:
                time.sleep(0.01)

    def work(self, seconds: float, looked_at: bool = True) -> None:
        """Let time pass, while a watch may have several occasions to look at the clock."""
        self.now += seconds
        time.sleep(0.1 if looked_at else 0.0)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(stalled_loader, "time", clock)
    monkeypatch.setattr(stalled_loader, "warnings", clock)
    return clock


class Items(torch.utils.data.Dataset):
    """Four items; some do something first."""

    def __init__(self, first: Callable[[int], None] = lambda index: None) -> None:
        self.first = first

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> torch.Tensor:
        self.first(index)
        return torch.ones(2)


class Stream(IterableDataset):
    """The same, of unknown length."""

    def __init__(self, items: Items) -> None:
        self.items = items

    def __iter__(self) -> Iterator[torch.Tensor]:
        return (self.items[i] for i in range(4))


class Toy(pl.LightningModule):
    """A module that takes its time."""

    def __init__(self, take: Callable[[], None] = lambda: None) -> None:
        super().__init__()
        self.layer, self.take, self.shares = torch.nn.Linear(2, 1), take, []

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        self.take()
        return self.layer(batch).mean()

    def validation_step(self, batch: torch.Tensor, batch_idx: int) -> None:
        self.take()

    def on_save_checkpoint(self, checkpoint: Any) -> None:
        self.take()

    def on_train_epoch_end(self) -> None:
        self.take()

    def on_train_batch_end(self, *_: Any) -> None:
        self.shares.append(float(self.trainer.callback_metrics["train/data_wait_fraction"]))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(module: Toy, watch: StalledLoader, data: Any, root: Path, **settings: Any) -> pl.Trainer:
    trainer = pl.Trainer(
        accelerator="cpu",
        callbacks=[watch, *settings.pop("callbacks", [])],
        default_root_dir=root,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **{"max_epochs": 1, "log_every_n_steps": 1, "enable_checkpointing": False, **settings},
    )
    trainer.fit(module, DataLoader(data, batch_size=None), DataLoader(Items(), batch_size=None))
    return trainer


@pytest.mark.parametrize("stream", [False, True])
def test_a_stall_is_told_with_what_is_waited_for(tmp_path: Path, clock: Clock, stream: bool) -> None:
    items = Items(lambda index: clock.stall(6.0, times=2) if index == 2 else None)
    fit(Toy(), StalledLoader(timeout=5.0), Stream(items) if stream else items, tmp_path)
    first, second = clock.warned
    # Lightning fetches a batch ahead where it does not know the length.
    assert f"on rank 0 the batch of step {1 if stream else 2} has not come for 6.0 s." in first
    assert "Training waits for DataLoader with num_workers 0 in " in first
    assert f"{Path(__file__).name}:" in first
    assert "has not come for 12.0 s." in second


def test_no_false_alarm(tmp_path: Path, clock: Clock) -> None:
    checkpoints = pl.callbacks.ModelCheckpoint(tmp_path, every_n_train_steps=2, save_top_k=-1)
    module = Toy(lambda: clock.work(1000.0))
    settings = {"callbacks": [checkpoints], "enable_checkpointing": True, "val_check_interval": 2, "max_epochs": 2}
    fit(module, StalledLoader(timeout=0.1), Items(), tmp_path, **settings)
    assert clock.warned == []
    assert module.shares == [0.0] * 8


@pytest.mark.parametrize("log_every_n_steps", [1, 2])
def test_the_share_of_time_that_data_take(tmp_path: Path, clock: Clock, log_every_n_steps: int) -> None:
    # Validation after each step takes time, too, which is left out.
    module = Toy(lambda: clock.work(10.0, looked_at=False))
    items = Items(lambda index: clock.work(30.0 if index < 2 else 90.0, looked_at=False))
    settings = {"log_every_n_steps": log_every_n_steps, "val_check_interval": 1}
    fit(module, StalledLoader(timeout=1e6), items, tmp_path, num_sanity_val_steps=0, **settings)
    expected = [30 / 40, 30 / 40, 90 / 100, 90 / 100]
    assert module.shares == pytest.approx(expected)


@pytest.mark.parametrize("failing", [False, True])
def test_nothing_is_left_behind(tmp_path: Path, failing: bool) -> None:
    class Failing(Toy):
        def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
            if failing and batch_idx == 1:
                raise RuntimeError("a bug")
            return super().training_step(batch, batch_idx)

    profiler = SimpleProfiler()
    if failing:
        with pytest.raises(RuntimeError, match="a bug"):
            fit(Failing(), StalledLoader(timeout=0.5), Items(), tmp_path, profiler=profiler)
    else:
        trainer = fit(Failing(), StalledLoader(timeout=0.5), Items(), tmp_path, profiler=profiler)
        assert trainer.profiler is profiler
    assert len(profiler.recorded_durations[FETCH]) >= 2  # the user's own profiler goes on
    for thread in [thread for thread in threading.enumerate() if thread.name == "stalled-loader"]:
        thread.join(timeout=10)
        assert not thread.is_alive()


@pytest.mark.slow
def test_the_process_ends_where_that_is_wanted(tmp_path: Path) -> None:
    code = f"""
import faulthandler, sys
faulthandler.dump_traceback_later(100, exit=True)
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_stalled_loader import *
items = Items(lambda index: time.sleep(1000.0 if index == 2 else 0.0))
fit(Toy(), StalledLoader(timeout=0.5, stop=True), items, Path({str(tmp_path)!r}))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert "pd-lightning: error: StalledLoader: on rank 0 the batch of step 2 has not come" in done.stderr
    assert "The process ends" in done.stderr
    assert "in __getitem__" in done.stderr


def test_a_timeout_is_positive() -> None:
    with pytest.raises(ValueError, match=r"timeout must be above 0 seconds, got 0\. Raise timeout of StalledLoader"):
        StalledLoader(timeout=0)
