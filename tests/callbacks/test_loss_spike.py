import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch.utils.data import DataLoader

from pd_lightning.callbacks import LossSpike


class Losses(pl.LightningModule):
    """Logs the losses that it is given."""

    def __init__(self, losses: Sequence[float], metric: str = "train/loss") -> None:
        super().__init__()
        self.losses, self.metric, self.layer = list(losses), metric, torch.nn.Linear(1, 1)
        self.counts: list[float] = []

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        self.log(self.metric, torch.tensor(self.losses[self.global_step]))
        return self.layer(torch.ones(1)).mean()

    def on_train_batch_end(self, *_: Any) -> None:
        self.counts.append(float(self.trainer.callback_metrics["train/loss_spikes"]))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.0)


def fit(module: Losses, watch: LossSpike, steps: int | None = None, ckpt_path: Any = None, **settings: Any) -> Any:
    trainer = pl.Trainer(
        accelerator="cpu",
        max_steps=len(module.losses) if steps is None else steps,
        max_epochs=-1,
        callbacks=[watch],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **{"log_every_n_steps": 1, **settings},
    )
    trainer.fit(module, DataLoader(torch.zeros(1000)), ckpt_path=ckpt_path)
    return trainer


def noisy(count: int, start: float = 5.0, end: float = 4.0, seed: int = 0) -> list[float]:
    """Falling losses with noise of 0.1."""
    draws = random.Random(seed)
    return [start + (end - start) * i / count + draws.gauss(0, 0.1) for i in range(count)]


def with_spike(at: int, height: float, length: int, count: int = 120) -> list[float]:
    losses = noisy(count)
    losses[at : at + length] = [loss + height for loss in losses[at : at + length]]
    return losses


@pytest.mark.filterwarnings("error:LossSpike")
@pytest.mark.parametrize(
    "losses",
    [
        noisy(400),
        noisy(400, start=10.0, end=3.0),  # falls faster than any training
        with_spike(80, 3.0, length=2),  # shorter than patience
        with_spike(80, 0.2, length=30),  # within the noise
        [2.0] * 60 + [2.01] * 60,  # beyond any deviation, but less than 6 %
        with_spike(10, 5.0, length=10),  # before there is a level
    ],
    ids=["falling", "steep", "short", "low", "flat", "early"],
)
def test_no_false_alarm(losses: list[float]) -> None:
    watch = LossSpike(window=60)
    fit(Losses(losses), watch)
    assert watch.spikes == 0


@pytest.mark.parametrize("height", [2.0, 100.0, float("inf"), float("nan")])
def test_a_spike_is_told_once_and_counted(height: float) -> None:
    watch, module = LossSpike(window=60), Losses(with_spike(80, height, length=10))
    with pytest.warns(UserWarning, match=r"train/loss \S+ at step 82, the last of 3 steps above 5") as warned:
        fit(module, watch)
    assert len([w for w in warned if "LossSpike" in str(w.message)]) == 1
    assert module.counts == [0.0] * 82 + [1.0] * 38


def test_a_spike_does_not_hide_the_next_one() -> None:
    losses = with_spike(80, 50.0, length=10)
    losses[100:105] = [9.0] * 5
    watch = LossSpike(window=60)
    with pytest.warns(UserWarning, match="at step 102"):
        fit(Losses(losses), watch)
    assert watch.spikes == 2


@pytest.mark.filterwarnings("ignore:LossSpike")
def test_a_lasting_rise_becomes_the_level() -> None:
    watch = LossSpike(window=40)
    fit(Losses(noisy(60) + noisy(60, 9.0, 9.0) + [loss + 4 for loss in noisy(10, 9.0, 9.0)]), watch)
    assert watch.spikes == 2


def test_losses_between_logged_steps_are_seen_at_the_next_one() -> None:
    watch, module = LossSpike(window=60), Losses(with_spike(81, 3.0, length=4))
    with pytest.warns(UserWarning, match="at step 83"):
        fit(module, watch, log_every_n_steps=20)
    assert module.counts == [0.0] * 99 + [1.0] * 21


def test_steps_not_micro_batches_are_looked_at() -> None:
    watch = LossSpike(window=60)
    with pytest.warns(UserWarning, match="at step 82"):
        fit(Losses(with_spike(80, 3.0, length=3)), watch, accumulate_grad_batches=2)


def test_a_run_is_stopped_where_that_is_wanted() -> None:
    module = Losses(with_spike(80, 3.0, length=10))
    with (
        pytest.warns(UserWarning, match="LossSpike"),
        pytest.raises(ValueError, match=r"must stay near its level, got train/loss .* at step 82.*lower model.lr"),
    ):
        fit(module, LossSpike(window=60, stop=True))
    assert module.global_step == 83


def test_count_and_level_go_on_with_the_checkpoint(tmp_path: Path) -> None:
    losses = with_spike(81, 3.0, length=10)
    fit(Losses(losses), LossSpike(window=60), 83).save_checkpoint(tmp_path / "x.ckpt")
    watch = LossSpike(window=60)
    with pytest.warns(UserWarning, match="at step 83, the last of 3"):
        fit(Losses(losses), watch, ckpt_path=tmp_path / "x.ckpt")
    assert watch.spikes == 1


def test_a_metric_that_is_not_there() -> None:
    with pytest.raises(ValueError, match=r"got 'loss'; it logs train/loss. Set metric of LossSpike"):
        fit(Losses([1.0]), LossSpike("loss"))


@pytest.mark.parametrize("settings", [{"window": 3}, {"patience": 0}, {"threshold": 0.0}])
def test_settings_out_of_range(settings: Any) -> None:
    (name,) = settings
    with pytest.raises(ValueError, match=rf"{name} must be .* Raise {name} of LossSpike"):
        LossSpike(**settings)
