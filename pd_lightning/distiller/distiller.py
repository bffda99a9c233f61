"""Teacher, transforms, loss and schedule as one object, for a training step of one's own."""

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn

from pd_lightning.context import IGNORE_INDEX, Progress
from pd_lightning.data.inputs import BatchInputs
from pd_lightning.data.layout import OwnLayout
from pd_lightning.distiller.distilled import Distilled, means_of
from pd_lightning.distiller.student_output import aligned, rows_and_head
from pd_lightning.losses import Loss
from pd_lightning.module.draws import batches_processed
from pd_lightning.module.optimization import length_of_run
from pd_lightning.module.surroundings import check_precision, keep_targets_exact, surroundings_of
from pd_lightning.objective import Objective
from pd_lightning.objective.terms import Terms
from pd_lightning.schedules import Constant, Schedule, as_schedule, check_schedules
from pd_lightning.strategies import FSDP2Strategy
from pd_lightning.targets import Targets
from pd_lightning.targets.heads import Head
from pd_lightning.teachers import Surroundings, Teacher
from pd_lightning.transforms import Transform
from pd_lightning.weightings import Weighting


class Distiller:
    """Gives the mixed loss (1 - kd_weight) · LM loss + kd_weight · KD loss in a training step of your own.

    No `nn.Module`: held by a LightningModule, its teacher is in no checkpoint, optimizer or gradient bucket. The loss
    is a mean over the labelled positions of a micro-batch, as Lightning expects of a training step.

    Args:
        teacher: Where targets come from: a FrozenTeacher, a TeacherEnsemble, or an OfflineTeacher with TokenBlocks.
        transforms: What is done to the teacher's targets before the loss, by name, in order.
        loss: Divergence between student and teacher; ForwardKL by default.
        weighting: What is done to the weights of the two losses position by position, by name, in order.
        kd_weight: Share of the KD loss over the run, α of Peng et al., in [0, 1]: a number or a schedule.
        chunk_size: Positions whose logits are there at once, where hidden states and head are given.
        batch_map: Gives, for a batch of your data, a dictionary of `input_ids` and `labels`, the next tokens, int64
            `[B, T]`. By default batches are found to be such, or as BatchInputs lists.

    Attributes:
        surroundings: What the teacher was set up for; its width of the student's logits is known after the first batch.

    Source: Peng et al. (arXiv 2410.16215), equation 1.
    """

    def __init__(
        self,
        teacher: Teacher,
        transforms: Mapping[str, Transform] | None = None,
        loss: Loss | None = None,
        weighting: Mapping[str, Weighting] | None = None,
        kd_weight: Schedule | float = 0.9,
        chunk_size: int | None = None,
        batch_map: Callable[[Any], Any] | None = None,
    ) -> None:
        if not isinstance(teacher, Teacher):
            raise ValueError(
                f"teacher must be a Teacher, got {type(teacher).__name__}. Give "
                "pd_lightning.teachers.FrozenTeacher(model), model being a folder, a hub name or an nn.Module."
            )
        if transforms is not None and not isinstance(transforms, Mapping):
            raise ValueError(
                f"transforms must be a dictionary of transforms by names of yours, got {type(transforms).__name__}. "
                'Give {"truncate": TopPK(p=0.95, k=50)}, say.'
            )
        self.teacher = teacher
        self.objective = Objective(loss, transforms, weighting, chunk_size)
        self.kd_weight = as_schedule(kd_weight)
        self._inputs = BatchInputs(batch_map)
        self._seed = int(os.environ.get("PL_GLOBAL_SEED", "0"))
        self._trainer: pl.Trainer | None = None
        self.surroundings: Surroundings | None = None
        self._total_steps: int | None = None
        self._check()

    def setup(self, where: pl.LightningModule | Surroundings) -> None:
        """Load the teacher onto the module's device, and check what can be checked. To be called in `setup`, say.

        Args:
            where: The LightningModule whose step calls this; or, in a training without Lightning, the surroundings.

        Raises:
            ValueError: If teacher, transforms and loss do not go together, or don't fit the data.
            FileNotFoundError: If there is no such teacher.
        """
        if isinstance(where, Surroundings):
            self.surroundings = where
        else:
            trainer = self._trainer = where.trainer
            check_precision(trainer)
            keep_targets_exact(trainer)
            ours = isinstance(trainer.strategy, FSDP2Strategy)
            found = surroundings_of(trainer, None)
            self.surroundings = found if ours else replace(found, device_mesh=None)
            self._total_steps = None
        self._meet(self.surroundings)

    def __call__(
        self,
        batch: Any,
        logits: Tensor | None = None,
        *,
        hidden: Tensor | None = None,
        head: nn.Linear | Head | None = None,
        progress: Progress | None = None,
    ) -> Distilled:
        """Compare the student with labels and teacher on a batch.

        Args:
            batch: What the data gave.
            logits: The student's logits, float `[B, T, V]`, with their graph. Those of the first T-1 positions will do
                where the last one has no label.
            hidden: In their place its last hidden states, float `[B, T, D]`: no `[B, T, V]` tensor is then made.
            head: Maps hidden states to logits.
            progress: How far the run has come; by default what the Trainer says.

        Returns:
            The mixed loss, and what it is made of. Where gradients are off, as in validation, the teacher is asked
            whatever the KD weight.

        Raises:
            ValueError: If `setup` was not called, or logits and batch do not belong together.
        """
        progress = progress or self.progress()
        kd_weight = self.kd_weight(progress.step, progress.total_steps)
        output, head = rows_and_head(logits, hidden, head)
        inputs, output = aligned(self.inputs(batch), output)
        targets = self.targets(inputs, output, head) if kd_weight > 0 or not torch.is_grad_enabled() else None
        terms = self._compare(inputs, output, head, targets, kd_weight, progress)
        return means_of(terms, 0.0 if targets is None else kd_weight)

    def kd_loss(
        self, inputs: dict[str, Tensor], logits: Tensor, progress: Progress | None = None
    ) -> tuple[Tensor | None, Distilled]:
        """Give the KD loss alone, with its graph, a mean over the labelled positions; None where there are no targets.

        Args:
            inputs: The batch in our layout, as `inputs` gives it.
            logits: The student's logits, float `[B, T, V]`.
            progress: How far the run has come; by default what the Trainer says.

        Returns:
            The loss, and all means.
        """
        output, head = rows_and_head(logits, None, None)
        inputs, output = aligned(inputs, output)
        targets = self.targets(inputs, output, head)
        if targets is None:
            return None, means_of(self._compare(inputs, output, head, None, 0.0, progress or self.progress()), 0.0)
        num_tokens = (inputs["labels"] != IGNORE_INDEX).sum().clamp(min=1)
        if targets.missing is not None:
            labels = inputs["labels"]
            inputs = inputs | {"labels": labels.masked_fill(targets.missing.view(labels.shape), IGNORE_INDEX)}
        terms = self._compare(inputs, output, head, targets, 1.0, progress or self.progress())
        return terms.loss / num_tokens, means_of(terms, 1.0)

    def progress(self) -> Progress:
        """Tell how far the Trainer's run has come."""
        trainer = self._trainer
        if trainer is None or trainer.state.fn != TrainerFn.FITTING:
            return Progress()
        if self._total_steps is None:
            self._total_steps = self._length(trainer)
        draw = (self._seed, batches_processed(trainer), trainer.global_rank)
        # With manual optimization the Trainer counts the steps of each optimizer, and plans with batches.
        by_itself = trainer.lightning_module.automatic_optimization
        step = trainer.global_step if by_itself else trainer.fit_loop.epoch_loop._batches_that_stepped
        return Progress(step, self._total_steps, draw)

    def inputs(self, batch: Any) -> dict[str, Tensor]:
        """Give a batch in our layout, see BatchInputs; one that TokenBlocks gave in another layout, as it was before.

        Args:
            batch: What the data gave.
        """
        layout = getattr(getattr(self._trainer, "datamodule", None), "layout", None)
        return layout.origin(batch) if isinstance(layout, OwnLayout) else self._inputs(batch)

    def targets(self, inputs: Mapping[str, Tensor], output: Tensor, head: Head) -> Targets | None:
        """Ask the teacher; at the first time, check that its vocabulary is the student's.

        Args:
            inputs: The batch in our layout.
            output: The student's hidden states, float `[B, T, D]`.
            head: Its head.
        """
        if self.surroundings is None:
            raise ValueError(
                "A Distiller must be set up before it is called, got none of it. Call its setup(self) in the "
                "LightningModule's setup, say."
            )
        if self.surroundings.vocab_size is None:
            with torch.no_grad():
                width = head.vocab_size or head(output[:1, :1].detach()).shape[-1]
            largest = int(inputs["input_ids"].max())
            if largest >= width:
                raise ValueError(
                    f"Logits must be over the whole vocabulary, got {width} of them for token id {largest}. Give the "
                    "Distiller, or Distill's logits_from, what comes after the output embedding."
                )
            self.surroundings = replace(self.surroundings, vocab_size=width)
            self._meet(self.surroundings)
        return self.teacher(inputs)

    def _meet(self, surroundings: Surroundings) -> None:
        self.teacher.setup(surroundings)
        if self.teacher.shared_vocab_size is not None:
            self.objective.share_vocabulary(self.teacher.shared_vocab_size)
        self._check()

    def _check(self) -> None:
        if self.teacher.form is not None:
            self.objective.check(self.teacher.form)

    def _length(self, trainer: pl.Trainer) -> int:
        steps = trainer.estimated_stepping_batches
        schedules = {"kd_weight": self.kd_weight, **self.objective.schedules()}
        if steps == float("inf") and all(isinstance(one, Constant) for one in schedules.values()):
            return 1
        total = length_of_run(steps)
        check_schedules(self.kd_weight, self.objective.schedules(), Constant(0.0), total)
        return total

    def _compare(
        self,
        inputs: Mapping[str, Tensor],
        output: Tensor,
        head: Head,
        targets: Targets | None,
        kd_weight: float,
        progress: Progress,
    ) -> Terms:
        documents = inputs.get("document_ids")
        return self.objective(output, head, inputs["labels"], targets, kd_weight, progress, documents)
