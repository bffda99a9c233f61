"""Teacher, transforms, loss and schedule as one object, for a training step of one's own."""

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn

from pd_lightning.context import IGNORE_INDEX, Progress
from pd_lightning.data.inputs import BatchInputs
from pd_lightning.data.layout import OwnLayout
from pd_lightning.draws import batches_processed
from pd_lightning.heads import Head, LinearHead
from pd_lightning.losses import Loss
from pd_lightning.objective import Objective
from pd_lightning.optimization import length_of_run
from pd_lightning.schedules import Constant, Schedule, as_schedule, check_schedules
from pd_lightning.strategies import FSDP2Strategy
from pd_lightning.surroundings import check_precision, keep_targets_exact, surroundings_of
from pd_lightning.targets import Targets
from pd_lightning.teachers import Surroundings, Teacher
from pd_lightning.terms import Terms
from pd_lightning.transforms import Transform
from pd_lightning.weightings import Weighting

_METRICS = ("loss", "lm_loss", "kd_loss", "top1_agreement")


@dataclass(frozen=True)
class Distilled:
    """What a Distiller gives: means over the labelled positions of a micro-batch, scalars, in nats.

    Args:
        loss: The mixed loss, the only one with a graph.
        lm_loss: The LM loss.
        num_tokens: Labelled positions.
        kd_weight: Share of the KD loss in `loss`.
        kd_loss: The KD loss, over the positions that the teacher said something of; None without a teacher.
        top1_agreement: Share of them where teacher and student agree on the most probable id; None without a teacher.
    """

    loss: Tensor
    lm_loss: Tensor
    num_tokens: Tensor
    kd_weight: float
    kd_loss: Tensor | None = None
    top1_agreement: Tensor | None = None

    def metrics(self, prefix: str = "", names: Iterable[str] = _METRICS) -> dict[str, Tensor]:
        """Give what there is by name, detached, for `self.log_dict`.

        Args:
            prefix: Comes before each name, `train/` say.
            names: Which of them; by default all losses, and the agreement.
        """
        known = {name: value.detach() for name in names if (value := getattr(self, name)) is not None}
        return {f"{prefix}{name}": value for name, value in known.items()}


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
        self.teacher = teacher
        self.objective = Objective(loss, transforms, weighting, chunk_size)
        self.kd_weight = as_schedule(kd_weight)
        self._inputs = BatchInputs(batch_map)
        self._seed = int(os.environ.get("PL_GLOBAL_SEED", "0"))
        self._trainer: pl.Trainer | None = None
        self._surroundings: Surroundings | None = None
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
            self._surroundings = where
        else:
            trainer = self._trainer = where.trainer
            check_precision(trainer)
            keep_targets_exact(trainer)
            ours = isinstance(trainer.strategy, FSDP2Strategy)
            found = surroundings_of(trainer, None)
            self._surroundings = found if ours else replace(found, device_mesh=None)
            self._total_steps = None
        self._meet(self._surroundings)

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
        output, head = _rows(logits, hidden, head)
        inputs, output = aligned(self.inputs(batch), output)
        targets = self.targets(inputs, output, head) if kd_weight > 0 or not torch.is_grad_enabled() else None
        terms = self._compare(inputs, output, head, targets, kd_weight, progress)
        return _means(terms, 0.0 if targets is None else kd_weight)

    def kd_loss(self, batch: Any, logits: Tensor, progress: Progress | None = None) -> tuple[Tensor | None, Distilled]:
        """Give the KD loss alone, with its graph, a mean over the labelled positions; None where there are no targets.

        Args:
            batch: What the data gave.
            logits: The student's logits, float `[B, T, V]`.
            progress: How far the run has come; by default what the Trainer says.

        Returns:
            The loss, and all means.
        """
        output, head = _rows(logits, None, None)
        inputs, output = aligned(self.inputs(batch), output)
        targets = self.targets(inputs, output, head)
        if targets is None:
            return None, _means(self._compare(inputs, output, head, None, 0.0, progress or self.progress()), 0.0)
        num_tokens = (inputs["labels"] != IGNORE_INDEX).sum().clamp(min=1)
        if targets.missing is not None:
            labels = inputs["labels"]
            inputs = inputs | {"labels": labels.masked_fill(targets.missing.view(labels.shape), IGNORE_INDEX)}
        terms = self._compare(inputs, output, head, targets, 1.0, progress or self.progress())
        return terms.loss / num_tokens, _means(terms, 1.0)

    def progress(self) -> Progress:
        """Tell how far the Trainer's run has come."""
        trainer = self._trainer
        if trainer is None or trainer.state.fn != TrainerFn.FITTING:
            return Progress()
        if self._total_steps is None:
            self._total_steps = self._length(trainer)
        draw = (self._seed, batches_processed(trainer), trainer.global_rank)
        return Progress(trainer.global_step, self._total_steps, draw)

    def inputs(self, batch: Any) -> dict[str, Tensor]:
        """Give a batch in our layout, see BatchInputs; one that TokenBlocks gave in another layout, as it was before.

        Args:
            batch: What the data gave.
        """
        layout = getattr(getattr(self._trainer, "datamodule", None), "layout", None)
        found = layout.origin(batch) if isinstance(layout, OwnLayout) else None
        return self._inputs(batch) if found is None else found

    def targets(self, inputs: Mapping[str, Tensor], output: Tensor, head: Head) -> Targets | None:
        """Ask the teacher; at the first time, check that its vocabulary is the student's.

        Args:
            inputs: The batch in our layout.
            output: The student's hidden states, float `[B, T, D]`.
            head: Its head.
        """
        if self._surroundings is None:
            raise ValueError(
                "A Distiller must be set up before it is called, got none of it. Call its setup(self) in the "
                "LightningModule's setup, say."
            )
        if self._surroundings.vocab_size is None:
            with torch.no_grad():
                width = head.vocab_size or head(output[:1, :1].detach()).shape[-1]
            self._surroundings = replace(self._surroundings, vocab_size=width)
            self._meet(self._surroundings)
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


def aligned(inputs: dict[str, Tensor], output: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """Cut a batch and a student's output to the positions that both have.

    A student may leave out the last position, which has no label; and where a stored block is given to it with the
    label of its last position, it has one position more.

    Args:
        inputs: The batch, with `input_ids`, `[B, T]`.
        output: Logits or hidden states, float `[B, T', ...]` or `[B · T', ...]`.

    Returns:
        Both, of as many positions.

    Raises:
        ValueError: If they differ by more than that.
    """
    B, T = inputs["input_ids"].shape
    if output.dim() == 2 and len(output) in (B * T, B * (T - 1)):
        output = output.unflatten(0, (B, -1))
    shape = tuple(output.shape)
    if len(shape) != 3 or shape[0] != B or abs(shape[1] - T) > 1:
        raise ValueError(
            f"Logits must be those of the batch's positions, of shape [{B}, {T}, V], got {list(shape)}. Give the "
            "Distiller, or Distill's logits_from, logits of whole batches; set batch_map where token ids are others."
        )
    if shape[1] < T:
        inputs = {name: _cut(value, T, T - 1) for name, value in inputs.items()}
    return inputs, output[:, :T]


def _cut(value: Tensor, T: int, to: int) -> Tensor:
    """Cut `[B, T, …]`, and `[B, T+1]` of blocks with their last label, to fewer positions."""
    if value.dim() < 2 or value.shape[1] not in (T, T + 1):
        return value
    return value[:, : value.shape[1] - T + to]


def _rows(logits: Tensor | None, hidden: Tensor | None, head: nn.Linear | Head | None) -> tuple[Tensor, Head]:
    if (logits is None) == (hidden is None) or (hidden is None) != (head is None):
        raise ValueError("A Distiller must be given either logits, or hidden and head, got others. Give one of them.")
    if logits is not None:
        return logits, Head(lambda rows: rows, vocab_size=logits.shape[-1])
    assert hidden is not None
    assert head is not None
    if isinstance(head, Head):
        return hidden, head
    linear = LinearHead(head.weight, head.bias) if type(head) is nn.Linear else None
    return hidden, Head(head, tuple(head.parameters()), getattr(head, "out_features", None), linear)


def _means(terms: Terms, kd_weight: float) -> Distilled:
    num_tokens = terms.num_tokens.clamp(min=1)
    means = Distilled(terms.loss / num_tokens, terms.lm_loss / num_tokens, terms.num_tokens, kd_weight)
    if terms.kd_loss is None or terms.agreement is None or terms.num_targets is None:
        return means
    num_targets = terms.num_targets.clamp(min=1)
    return replace(means, kd_loss=terms.kd_loss / num_targets, top1_agreement=terms.agreement / num_targets)
