"""A watch on the training loss: it says when the loss has jumped."""

from collections import deque
from math import isfinite
from statistics import median
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

# Makes the median distance from the median an estimate of a normal distribution's standard deviation.
_MAD_TO_DEVIATION = 1.4826
# Of the level: losses that hardly differ would else make a spike of anything.
_LEAST_DEVIATION = 0.01


class LossSpike(pl.Callback):
    """Warns when the training loss stays far above the level it had before, and may stop the run.

    The level is the median of the last `window` steps, a deviation 1.4826 times the median distance from it, but at
    least 1 % of it. A spike is `patience` steps in a row above level + `threshold` deviations; it is over with the
    first step below. Medians rather than means, since a spike hardly moves them: it does not hide itself or the next
    one, and a loss that stays up becomes the new level after half a window. A loss that falls gives no alarm.

    Every step counts, but values are read on logged steps alone, together, where Lightning reads some anyway: the watch
    adds no wait for the device between, and its warnings come up to `trainer.log_every_n_steps` late.

    Logged as `train/loss_spikes`: how many spikes there were so far.

    Args:
        metric: Name of the loss, which the module must log on every step.
        window: Steps that make the level. No alarm before there are half as many.
        threshold: Deviations above the level from which on a loss is too high.
        patience: Steps in a row that make a spike.
        stop: Whether to stop with an error, too.

    Raises:
        ValueError: If a number is too small, if the module does not log the metric, and where `stop` is true after a
            spike.
    """

    def __init__(
        self,
        metric: str = "train/loss",
        window: int = 200,
        threshold: float = 6.0,
        patience: int = 3,
        stop: bool = False,
    ) -> None:
        for name, value, least in (("window", window, 4), ("patience", patience, 1)):
            if value < least:
                raise ValueError(f"{name} must be at least {least}, got {value}. Raise {name} of LossSpike.")
        if threshold <= 0:
            raise ValueError(f"threshold must be above 0, got {threshold}. Raise threshold of LossSpike.")
        self.metric, self.threshold, self.patience, self.stop = metric, threshold, patience, stop
        self.spikes = 0
        self._level: deque[float] = deque(maxlen=window)
        self._above = 0
        self._unread: list[tuple[int, Tensor]] = []
        self._step = 0
        self._told = ""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin with the next step."""
        self._step, self._unread, self._told = trainer.global_step, [], ""

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Keep the loss of a step; on logged steps, read those kept.

        Raises:
            ValueError: If there is no such metric, or after a spike where `stop` is true.
        """
        if trainer.global_step > self._step:
            self._step = trainer.global_step
            self._unread.append((self._step - 1, self._loss(trainer)))
            if self._step % (trainer.log_every_n_steps or 50) == 0:  # type: ignore[attr-defined]
                self._read()
                self._maybe_stop(trainer)
        # On the CPU: copying it to the device would wait for that.
        pl_module.log("train/loss_spikes", torch.tensor(float(self.spikes)))

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Read the last losses."""
        self._read()

    def state_dict(self) -> dict[str, Any]:
        """Give count and level for a checkpoint."""
        self._read()
        return {"spikes": self.spikes, "level": list(self._level), "above": self._above}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with count and level."""
        self.spikes, self._above = state_dict["spikes"], state_dict["above"]
        self._level.clear()
        self._level.extend(state_dict["level"])

    def _loss(self, trainer: pl.Trainer) -> Tensor:
        metrics = trainer.callback_metrics
        if self.metric not in metrics:
            raise ValueError(
                f"metric of LossSpike must be one that the module logs on every step, got {self.metric!r}; it logs "
                f"{', '.join(metrics) or 'none'}. Set metric of LossSpike."
            )
        return metrics[self.metric].detach()

    def _read(self) -> None:
        """Look at the losses kept so far, in one wait for the device."""
        if self._unread:
            values = torch.stack([loss.float() for _, loss in self._unread]).tolist()
            for (step, _), value in zip(self._unread, values, strict=True):
                self._look(step, value)
            self._unread = []

    def _look(self, step: int, value: float) -> None:
        level, highest = self._limits()
        self._above = 0 if value <= highest else self._above + 1
        if self._above == self.patience:
            self.spikes += 1
            self._told = (
                f"{self.metric} {value:.4g} at step {step}, the last of {self.patience} steps above {highest:.4g}, "
                f"where its level is {level:.4g}"
            )
            rank_zero_warn(f"LossSpike: {self._told}; {self.spikes} in all")
        if isfinite(value):
            self._level.append(value)

    def _limits(self) -> tuple[float, float]:
        """The level, and what a loss must not be above; nothing is before there is half a window."""
        if 2 * len(self._level) < (self._level.maxlen or 0):
            return float("nan"), float("inf")
        level = median(self._level)
        distance = median(abs(value - level) for value in self._level)
        return level, level + self.threshold * max(_MAD_TO_DEVIATION * distance, _LEAST_DEVIATION * abs(level))

    def _maybe_stop(self, trainer: pl.Trainer) -> None:
        # Other modules' losses differ between ranks.
        if self.stop and trainer.strategy.reduce_boolean_decision(bool(self._told), all=False):
            raise ValueError(
                f"the loss must stay near its level, got {self._told or 'a spike on another rank'}. Go on from a "
                "checkpoint before it with a lower model.lr, or other data, or set stop of LossSpike to false."
            )
