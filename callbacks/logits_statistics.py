"""Statistics of student and teacher at the logits, while they train."""

from collections.abc import Callable
from math import isinf
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from pd_lightning.callbacks.comparison import Comparison
from pd_lightning.callbacks.distill import Distill
from pd_lightning.callbacks.histograms import log_histograms
from pd_lightning.callbacks.logits_sample import Sample, columns, padded
from pd_lightning.callbacks.logits_source import hook_logits
from pd_lightning.callbacks.statistics_summary import samples, scalars
from pd_lightning.targets.heads import Head
from pd_lightning.teachers import Teacher

_VAL_BATCHES = 8


class LogitsStatistics(pl.Callback):
    """Logs what student and teacher say, in figures and histograms: docs/statistics.md has their names and meaning.

    Figures are those of a sample of labelled positions, every so many optimizer steps, of the step's first micro-batch,
    and once in each validation, of up to 8 of its batches. Each rank takes its share of the sample, and one gathering
    brings them together. They go to all loggers of the Trainer. The training stays the same to the bit, and steps
    between wait for nothing.

    Works on any LightningModule whose batches have token ids, see `BatchInputs`. What distils is found by itself:
    a DistillationModule, a Distiller, a Distill callback; without a teacher there are the student's figures alone. A
    teacher's forward pass over the sampled batches comes on top. Random transforms draw anew.

    Args:
        module: Dotted name of the submodule whose output is the logits `[B, T, V]` of a batch, or those of one slice of
            its positions after another. Default: the student of a DistillationModule, or what Distill sees.
        teacher: Whom to compare the student with by forward KL; by default the teacher that the training distils from,
            with its transforms and its loss.
        every_n_steps: Optimizer steps from one sample to the next.
        positions: Most positions of a sample, over all ranks.
        batch_map: Gives `input_ids`, and `labels`, for a batch of other data; by default that of the Distiller.

    Raises:
        ValueError: If a setting is out of range; at the start of training, if it is not known where the logits are.
    """

    def __init__(
        self,
        module: str | None = None,
        teacher: Teacher | None = None,
        every_n_steps: int = 100,
        positions: int = 4096,
        batch_map: Callable[[Any], Any] | None = None,
    ) -> None:
        for name, value in (("every_n_steps", every_n_steps), ("positions", positions)):
            if value < 1:
                raise ValueError(f"{name} of LogitsStatistics must be at least 1, got {value}. Raise it.")
        self.module, self.teacher = module, teacher
        self.every_n_steps, self.positions = every_n_steps, positions
        self._map = batch_map
        self._comparison: Comparison | None = None
        self._handle: RemovableHandle | None = None
        self._sample: Sample | None = None
        self._tables: list[Tensor] = []
        self._validated: tuple[dict[str, float], dict[str, Tensor]] = ({}, {})
        self._step = -1
        self._stepped = 0
        self._kd_loss: Tensor | None = None
        self._kd_losses = 0

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Begin anew."""
        self._sample, self._tables, self._validated = None, [], ({}, {})
        self._step, self._stepped, self._kd_loss, self._kd_losses = -1, 0, None, 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Find logits and teacher.

        Raises:
            ValueError: If there is no such submodule, or the teacher does not fit.
        """
        self._stepped = trainer.global_step
        self._begin(trainer, pl_module)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Expect logits, where this step is sampled and this is its first micro-batch."""
        step = _step(trainer)
        first, self._step = step != self._step, step
        self._sample = None
        if first and step % self.every_n_steps == 0:
            self._expect(trainer, batch, 1, step, training=True)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log the sample, and remember a logged KD loss.

        Raises:
            ValueError: If there were not logits of each position.
        """
        self._remember_kd_loss(trainer)
        sample, self._sample = self._sample, None
        if sample is not None:
            figures = _gathered(trainer, sample.table())
            self._log(trainer, "train", scalars(figures), samples(figures))

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin a sample; where it is validated alone, find logits and teacher."""
        self._tables, self._validated = [], ({}, {})
        if not trainer.sanity_checking:
            self._begin(trainer, pl_module)

    def on_validation_batch_start(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Expect logits, where the batch is among those sampled: evenly spaced ones of the first split."""
        self._sample = None
        parts, every = _spread(trainer.num_val_batches[0])
        sampled = dataloader_idx == 0 and batch_idx % every == 0 and batch_idx // every < parts
        if sampled and not trainer.sanity_checking:
            self._expect(trainer, batch, parts, batch_idx, training=False)

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep the figures of the batch.

        Raises:
            ValueError: If there were not logits of each position.
        """
        sample, self._sample = self._sample, None
        if sample is not None:
            self._tables.append(sample.table())

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Gather the sample of all ranks."""
        if not trainer.sanity_checking:
            # Of one size on all ranks, which may have seen other numbers of batches, or none.
            own = torch.cat(self._tables) if self._tables else None
            figures = _gathered(trainer, padded(own, self._share(trainer), trainer.strategy.root_device))
            self._validated = scalars(figures), samples(figures)
            self._tables = []

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log the sample, and how much larger the KD loss is than in the training since the last validation."""
        figures, values = self._validated
        validated = trainer.callback_metrics.get("val/kd_loss")
        if self._kd_loss is not None and validated is not None and not trainer.sanity_checking:
            figures["kd_loss_gap"] = float(validated) - float(self._kd_loss) / self._kd_losses
        self._kd_loss, self._kd_losses = None, 0
        if figures:
            self._log(trainer, "val", figures, values)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Leave the module as it was."""
        self._end()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Leave the module as it was."""
        self._end()

    def _begin(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._handle is not None:
            return
        self._comparison = Comparison(trainer, pl_module, self.teacher, self._map)
        module = self.module or _seen_by_distill(trainer)
        if module is None and not hasattr(getattr(pl_module, "student", None), "body"):
            raise ValueError(
                f"LogitsStatistics must know where the logits of {type(pl_module).__name__} are, got no module. Set "
                "its module to the dotted name of the submodule that makes them."
            )
        # Where somebody has compiled the whole of the module, this would be compiled too.
        take = torch.compiler.disable(self._take)  # type: ignore[no-untyped-call]
        self._handle = hook_logits(pl_module, module, take, "LogitsStatistics")

    def _end(self) -> None:
        if self._handle is not None:
            self._handle.remove()
        self._handle = self._sample = self._comparison = None

    def _take(self, output: Any, head: Head | None = None) -> None:
        if self._sample is not None and self._comparison is not None:
            self._comparison.show(self._sample, output, head)

    def _expect(self, trainer: pl.Trainer, batch: Any, parts: int, draw: int, training: bool) -> None:
        """Take a share of the sample from this batch: one rank's, of one of several batches."""
        assert self._comparison is not None
        size = max(1, self._share(trainer) // parts)
        self._sample = self._comparison.sample(trainer, batch, size, draw, training)

    def _share(self, trainer: pl.Trainer) -> int:
        """Positions of one rank."""
        return max(1, self.positions // trainer.world_size)

    def _remember_kd_loss(self, trainer: pl.Trainer) -> None:
        """Add a KD loss that the loggers see too; the sum is read in validation alone, which waits for the device."""
        if trainer.global_step == self._stepped:
            return
        self._stepped = trainer.global_step
        every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
        if every and (_step(trainer) + 1) % every == 0:
            metrics = trainer.callback_metrics
            # Where the KD loss has no share any more, it is not computed, and Lightning shows the last one again.
            if "train/kd_loss" in metrics and float(metrics.get("train/kd_weight", 1.0)) > 0:
                loss = metrics["train/kd_loss"].detach().float()
                self._kd_loss = loss if self._kd_loss is None else self._kd_loss + loss
                self._kd_losses += 1

    def _log(self, trainer: pl.Trainer, stage: str, figures: dict[str, float], values: dict[str, Tensor]) -> None:
        """Write to the loggers at once: Lightning would pass on no more than every log_every_n_steps."""
        if trainer.is_global_zero and figures:
            step = _step(trainer)
            for logger in trainer.loggers:
                logger.log_metrics({f"{stage}_statistics/{name}": value for name, value in figures.items()}, step)
            log_histograms(trainer.loggers, {f"{stage}_histograms/{name}": some for name, some in values.items()}, step)


def _step(trainer: pl.Trainer) -> int:
    """Steps as Lightning counts them for loggers."""
    return trainer.fit_loop.epoch_loop._batches_that_stepped


def _spread(number: float) -> tuple[int, int]:
    """How many batches of a split are sampled, and each how many."""
    if isinf(number):
        return _VAL_BATCHES, 1
    parts = max(1, min(_VAL_BATCHES, int(number)))
    return parts, max(1, int(number) // parts)


def _gathered(trainer: pl.Trainer, table: Tensor) -> dict[str, Tensor]:
    """Bring the samples of all ranks together."""
    everywhere = trainer.strategy.all_gather(table)
    return columns(everywhere.reshape(-1, table.shape[-1]).cpu())


def _seen_by_distill(trainer: pl.Trainer) -> str | None:
    callbacks: list[pl.Callback] = trainer.callbacks  # type: ignore[attr-defined]
    return next((callback.logits_from for callback in callbacks if isinstance(callback, Distill)), None)
