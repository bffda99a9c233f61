"""Whom a student is compared with, for statistics, and how."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from math import isinf
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

from pd_lightning.callbacks.distilling import distilling
from pd_lightning.callbacks.logits_sample import Sample, undisturbed
from pd_lightning.context import Progress
from pd_lightning.data.inputs import BatchInputs
from pd_lightning.distiller import Distiller
from pd_lightning.module.surroundings import surroundings_of
from pd_lightning.objective import Objective
from pd_lightning.objective.logits_figures import Asked
from pd_lightning.targets.heads import Head
from pd_lightning.teachers import Surroundings, Teacher


class Comparison:
    """The teacher that a training distils from, with its transforms and loss; or another one, with forward KL.

    Args:
        trainer: Tells of the training.
        pl_module: What is trained.
        teacher: The other one, which is got ready here; None for the training's own, which is ready.
        batch_map: Gives `input_ids`, and `labels`, for a batch; None for the Distiller's, or for none.

    Raises:
        ValueError: If the other teacher does not fit the data.
    """

    def __init__(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        teacher: Teacher | None,
        batch_map: Callable[[Any], Any] | None,
    ) -> None:
        held = distilling(trainer, pl_module)
        self._inputs: Callable[[Any], dict[str, Tensor]] = BatchInputs(batch_map)
        if isinstance(held, Distiller) and batch_map is None:
            self._inputs = held.inputs
        # Without the student's width, until its logits tell it.
        self._around: Surroundings | None = None
        if teacher is not None or held is None:
            self._teacher, self._val_teacher, self._objective = teacher, teacher, Objective()
        else:
            self._teacher, self._objective = held.teacher, held.objective
            self._val_teacher = getattr(held, "val_teacher", None) or held.teacher
            self._around = held.surroundings if isinstance(held, Distiller) else None
        if teacher is not None:
            self._around = surroundings_of(trainer, None)
            self._meet(self._around)

    def sample(self, trainer: pl.Trainer, batch: Any, size: int, draw: int, training: bool) -> Sample:
        """Have the teacher say what it says of a batch, before the student does.

        Args:
            trainer: Tells how far the run has come.
            batch: What the data gave.
            size: Positions to look at.
            draw: A number that no two batches share.
            training: Whether it is trained on: with gradients then.
        """
        inputs = self._inputs(batch)
        length = trainer.estimated_stepping_batches if trainer.state.fn == TrainerFn.FITTING else 1
        progress = Progress(trainer.global_step, 1 if isinf(length) else int(length), (draw, trainer.global_rank))
        teacher = self._teacher if training else self._val_teacher
        if teacher is not None and self._around is not None and self._around.vocab_size is None:
            _check_ids(teacher, inputs)
        with self._apart(inputs["input_ids"].device):
            targets = None if teacher is None else teacher(inputs)
        asked = Asked(self._objective, None if teacher is None else teacher.shared_vocab_size, training)
        return Sample(inputs["labels"], targets, asked, size, progress)

    def show(self, sample: Sample, output: Any, head: Head | None) -> None:
        """Let a sample take the student's logits.

        Args:
            sample: The sample of the batch that the student is given.
            output: As of `Sample.take`.
            head: As of `Sample.take`.

        Raises:
            ValueError: If there are no logits, or they are over another vocabulary than the teacher's.
        """
        if self._around is not None and self._around.vocab_size is None:
            assert self._teacher is not None
            # A Distiller does the same, but later: when the student is done.
            self._around = replace(self._around, vocab_size=sample.width(output, head))
            self._meet(self._around)
            sample.asked = replace(sample.asked, shared_vocab_size=self._teacher.shared_vocab_size)
        with self._apart(torch.device("cpu")):
            sample.take(output, head)

    @contextmanager
    def _apart(self, device: torch.device) -> Iterator[None]:
        """Ask teachers without gradients, random numbers that the training misses, or time that counts as its own."""
        asked = [teacher for teacher in (self._teacher, self._val_teacher) if teacher is not None]
        seconds = [teacher.forward_seconds for teacher in asked]
        with undisturbed(device), torch.no_grad():
            yield
        for teacher, before in zip(asked, seconds, strict=True):
            teacher.forward_seconds = before

    def _meet(self, around: Surroundings) -> None:
        assert self._teacher is not None
        with undisturbed(around.device):
            self._teacher.setup(around)
        if self._teacher.shared_vocab_size is not None:
            self._objective.share_vocabulary(self._teacher.shared_vocab_size)
        if self._teacher.form is not None:
            self._objective.check(self._teacher.form)


def _check_ids(teacher: Teacher, inputs: dict[str, Tensor]) -> None:
    """Before it is asked: on a GPU an id that it lacks would end the process."""
    largest, known = int(inputs["input_ids"].max()), teacher.vocab_size
    if known is not None and largest >= known:
        raise ValueError(
            f"Teacher and student must share a vocabulary, got a token id {largest} and a teacher of {known} ids. Set "
            "teacher, of LogitsStatistics or of what distils, to a model with the student's tokenizer."
        )
