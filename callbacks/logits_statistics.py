"""Statistics of student and teacher at the logits, while they train."""

from collections.abc import Callable
from math import isinf
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from pd_lightning.callbacks.distilling import distilling
from pd_lightning.callbacks.histograms import log_histograms
from pd_lightning.callbacks.logits_sample import Sample, columns, undisturbed
from pd_lightning.callbacks.logits_source import hook_logits
from pd_lightning.callbacks.statistics_summary import samples, scalars
from pd_lightning.callbacks.training_data import manifest_of
from pd_lightning.context import Progress
from pd_lightning.data.inputs import BatchInputs
from pd_lightning.logits_figures import Asked
from pd_lightning.objective import Objective
from pd_lightning.targets import Targets
from pd_lightning.teachers import Surroundings, Teacher

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
            its positions after another. Default: the student of a DistillationModule.
        teacher: Whom to compare the student with by forward KL; by default the teacher that the training distils from,
            with its transforms and its loss.
        every_n_steps: Optimizer steps from one sample to the next.
        positions: Most positions of a sample, over all ranks.
        batch_map: Gives `input_ids`, and `labels`, for a batch of other data; by default batches have them.

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
        self._inputs = BatchInputs(batch_map)
        self._handle: RemovableHandle | None = None
        self._sample: Sample | None = None
        self._tables: list[Tensor] = []
        self._validated: tuple[dict[str, float], dict[str, Tensor]] = ({}, {})
        self._step = -1
        self._stepped = 0
        self._kd_losses: list[Tensor] = []

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Begin anew."""
        self._sample, self._tables, self._validated = None, [], ({}, {})
        self._step, self._stepped, self._kd_losses = -1, 0, []

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
            self._sample = self._sampled(trainer, pl_module, batch, self._teacher, self._share(trainer, 1), step)

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
        number = trainer.num_val_batches[0]
        parts = _VAL_BATCHES if isinf(number) else min(_VAL_BATCHES, int(number))
        every = 1 if isinf(number) else int(number) // max(1, parts)
        self._sample = None
        sampled = dataloader_idx == 0 and batch_idx % max(1, every) == 0 and batch_idx // max(1, every) < parts
        if sampled and not trainer.sanity_checking:
            teacher = (self.teacher is None and getattr(pl_module, "val_teacher", None)) or self._teacher
            size = self._share(trainer, parts)
            self._sample = self._sampled(trainer, pl_module, batch, teacher, size, batch_idx, gradients=False)

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
        if self._tables:
            figures = _gathered(trainer, torch.cat(self._tables))
            self._validated = scalars(figures), samples(figures)
            self._tables = []

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log the sample, and how much larger the KD loss is than in the training since the last validation."""
        figures, values = self._validated
        validated = trainer.callback_metrics.get("val/kd_loss")
        if self._kd_losses and validated is not None and not trainer.sanity_checking:
            trained = torch.stack([loss.double().cpu() for loss in self._kd_losses]).mean()
            figures["kd_loss_gap"] = float(validated) - float(trained)
            self._kd_losses = []
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
        held = distilling(trainer, pl_module) if self.teacher is None else None
        self._teacher: Teacher | None = held.teacher if held is not None else self.teacher
        self._objective = held.objective if held is not None else Objective()
        if self.module is None and not hasattr(getattr(pl_module, "student", None), "body"):
            raise ValueError(
                f"LogitsStatistics must know where the logits of {type(pl_module).__name__} are, got no module. Set "
                "its module to the dotted name of the submodule that makes them."
            )
        if self.teacher is not None:
            _meet(self.teacher, self._objective, trainer)
        self._handle = hook_logits(pl_module, self.module, self._take, type(self).__name__)

    def _end(self) -> None:
        if self._handle is not None:
            self._handle.remove()
        self._handle = self._sample = None

    def _take(self, output: Any, *head: Any) -> None:
        if self._sample is not None:
            self._sample.take(output, *head)

    def _share(self, trainer: pl.Trainer, parts: int) -> int:
        """Positions that one rank takes of one batch."""
        return max(1, self.positions // (parts * trainer.world_size))

    def _sampled(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        batch: Any,
        teacher: Teacher | None,
        size: int,
        draw: int,
        gradients: bool = True,
    ) -> Sample:
        """Have the teacher say what it says of a batch."""
        inputs = self._inputs(batch)
        length = trainer.estimated_stepping_batches if trainer.state.fn == TrainerFn.FITTING else 1
        progress = Progress(trainer.global_step, 1 if isinf(length) else int(length), (draw, trainer.global_rank))
        targets = None if teacher is None else _said(teacher, inputs, pl_module.device)
        asked = Asked(self._objective, None if teacher is None else teacher.shared_vocab_size, gradients)
        return Sample(inputs["labels"].clone(), targets, asked, size, progress)

    def _remember_kd_loss(self, trainer: pl.Trainer) -> None:
        """Keep a KD loss that the loggers see too; it is read in validation alone, which waits for the device."""
        if trainer.global_step == self._stepped:
            return
        self._stepped = trainer.global_step
        every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
        if every and (_step(trainer) + 1) % every == 0:
            metrics = trainer.callback_metrics
            # Where the KD loss has no share any more, it is not computed, and Lightning shows the last one again.
            if "train/kd_loss" in metrics and float(metrics.get("train/kd_weight", 1.0)) > 0:
                self._kd_losses.append(metrics["train/kd_loss"].detach())

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


def _gathered(trainer: pl.Trainer, table: Tensor) -> dict[str, Tensor]:
    """Bring the samples of all ranks together."""
    everywhere = trainer.strategy.all_gather(table)
    return columns(everywhere.reshape(-1, table.shape[-1]).cpu())


@torch.no_grad()
def _said(teacher: Teacher, inputs: dict[str, Tensor], device: torch.device) -> Targets | None:
    """Ask a teacher, whose time counts as the training's alone."""
    seconds = teacher.forward_seconds
    with undisturbed(device):
        targets = teacher(inputs)
    teacher.forward_seconds = seconds
    return targets


def _meet(teacher: Teacher, objective: Objective, trainer: pl.Trainer) -> None:
    """Get a teacher of one's own ready."""
    manifest = manifest_of(trainer)
    device, mesh = trainer.strategy.root_device, getattr(trainer.strategy, "device_mesh", None)
    around = Surroundings(device, device_mesh=mesh)
    if manifest is not None:
        around.data_kind, around.columns = manifest.kind, manifest.columns
        around.block_size, around.document_attention = manifest.block_size, manifest.document_attention
    with undisturbed(device):
        teacher.setup(around)
    if teacher.form is not None:
        objective.check(teacher.form)
