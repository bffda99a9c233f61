"""Distillation without a change to the module that is trained."""

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import wraps
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from pd_lightning.callbacks.submodules import submodule
from pd_lightning.distiller import Distiller
from pd_lightning.losses import Loss
from pd_lightning.module.stale_figures import leave_gaps
from pd_lightning.schedules import Schedule
from pd_lightning.teachers import Teacher
from pd_lightning.transforms import Transform

_STEPS = ("training_step", "validation_step", "test_step")
_STAGES = {"training_step": "train", "validation_step": "val", "test_step": "test"}


class Distill(pl.Callback):
    """Adds a KD loss to any LightningModule that trains a causal language model: (1 - kd_weight) · its own loss +
    kd_weight · KD loss.

    The module's steps stay as they are: logits are seen where `logits_from` makes them, and the loss that
    `training_step` returns is mixed with the KD loss over them. The teacher is in no checkpoint. With a KD weight of 0
    the training is what it is without this callback, to the bit. `train/kd_loss`, `val/kd_loss`, `train/kd_weight` and
    the share of positions where both agree on the most probable token, `val/top1_agreement`, are logged.

    Args:
        teacher: Where targets come from: a FrozenTeacher, a TeacherEnsemble, or an OfflineTeacher with TokenBlocks.
        logits_from: Dotted name of the submodule whose output is the logits, float `[B, T, V]`, or has them as
            `.logits`; it must be called once a step.
        transforms: What is done to the teacher's targets before the loss, by name, in order.
        loss: Divergence between student and teacher; ForwardKL by default.
        kd_weight: Share of the KD loss over the run, α of Peng et al., in [0, 1]: a number or a schedule.
        batch_map: Gives, for a batch of the data, a dictionary of `input_ids` and `labels`, the next tokens, int64
            `[B, T]`. By default batches are found to be such, or as BatchInputs lists.

    Source: Peng et al. (arXiv 2410.16215), equation 1.
    """

    def __init__(
        self,
        teacher: Teacher,
        logits_from: str,
        transforms: dict[str, Transform] | None = None,
        loss: Loss | None = None,
        kd_weight: Schedule | float = 0.9,
        batch_map: Callable[[Any], Any] | None = None,
    ) -> None:
        self.distiller = Distiller(teacher, transforms, loss, kd_weight=kd_weight, batch_map=batch_map)
        self.logits_from = logits_from
        self._seen: list[Any] = []
        self._within = False
        self._handle: RemovableHandle | None = None
        self._before: dict[str, Callable[..., Any] | None] = {}

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Load the teacher, and put the mixed loss in place of the module's.

        Raises:
            ValueError: If the module optimizes by itself, or the teacher does not fit the data.
        """
        if not pl_module.automatic_optimization:
            raise ValueError(
                f"Distill must be given a loss to mix, got {type(pl_module).__name__}, which optimizes by itself. Call "
                "a pd_lightning.distiller.Distiller in its training_step."
            )
        self._restore(pl_module)
        self.distiller.setup(pl_module)
        for name in _STEPS:
            # One that torch.compile put in its place is found among the attributes of the instance.
            self._before[name] = vars(pl_module).get(name)
            setattr(pl_module, name, self._distilled(pl_module, name))

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Find the logits.

        Raises:
            ValueError: If `logits_from` names no submodule.
        """
        self._watch(pl_module)
        rank_zero_info(f"Distill: {self._description()}")

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Find the logits, where this is no part of a training."""
        self._watch(pl_module)

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Find the logits."""
        self._watch(pl_module)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Leave the module as it was."""
        self._restore(pl_module)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Leave the module as it was."""
        self._restore(pl_module)

    def _distilled(self, pl_module: pl.LightningModule, name: str) -> Callable[..., Any]:
        """Give one of the module's steps with distillation around it."""
        step = getattr(pl_module, name)

        def run(batch: Any, *args: Any, **kwargs: Any) -> Any:
            if self._within:  # a step that calls another
                return step(batch, *args, **kwargs)
            # A step may change its batch.
            inputs = self.distiller.inputs(batch)
            with self._watching():
                output = step(batch, *args, **kwargs)
                if name == "training_step":
                    return self._after_training(pl_module, inputs, output)
                self._after_evaluation(pl_module, inputs, _STAGES[name])
                return output

        wrapper = wraps(step)(run)
        # Lightning looks through one wrapper for the arguments that a step takes; torch.compile may be another.
        wrapper.__wrapped__ = inspect.unwrap(step)  # type: ignore[attr-defined]
        return wrapper

    @contextmanager
    def _watching(self) -> Iterator[None]:
        self._seen.clear()
        self._within = True
        try:
            yield
        finally:
            self._within = False
            self._seen.clear()

    def _after_training(self, pl_module: pl.LightningModule, inputs: dict[str, Tensor], output: Any) -> Any:
        """Mix what a training step returned with the KD loss."""
        progress = self.distiller.progress()
        kd_weight = self.distiller.kd_weight(progress.step, progress.total_steps)
        pl_module.log("train/kd_weight", torch.tensor(kd_weight))
        own = output.get("loss") if isinstance(output, Mapping) else output
        if kd_weight == 0.0 or own is None:
            leave_gaps(pl_module.trainer, ())
            return output
        kd_loss, means = self.distiller.kd_loss(inputs, self._logits(), progress)
        if kd_loss is None:
            return output
        pl_module.log_dict(means.metrics("train/", ("kd_loss", "top1_agreement")))
        mixed = (1.0 - kd_weight) * own + kd_weight * kd_loss
        return {**output, "loss": mixed} if isinstance(output, Mapping) else mixed

    def _after_evaluation(self, pl_module: pl.LightningModule, inputs: dict[str, Tensor], stage: str) -> None:
        if not self._seen:  # a step that looks at something else
            return
        _, means = self.distiller.kd_loss(inputs, self._logits())
        metrics = means.metrics(f"{stage}/", ("kd_loss", "top1_agreement"))
        pl_module.log_dict(metrics, on_epoch=True, batch_size=max(1, int(means.num_tokens)), sync_dist=True)

    def _logits(self) -> Tensor:
        found = [getattr(output, "logits", output) for output in self._seen]
        if len(found) != 1 or not isinstance(found[0], Tensor) or not found[0].is_floating_point():
            kinds = ", ".join(type(one).__name__ for one in found)
            raise ValueError(
                f"logits_from of Distill must name a submodule that gives logits once in each step, got "
                f"{f'{len(found)} outputs ({kinds})' if found else 'no call'} of {self.logits_from!r}. Set logits_from "
                "to the submodule that gives the logits of the whole batch."
            )
        return found[0]

    def _watch(self, pl_module: pl.LightningModule) -> None:
        if self._handle is None:
            source: nn.Module = submodule(pl_module, self.logits_from, "logits_from of Distill")
            seen = self._seen
            # As plain as can be: where the module is compiled, this is a part of the graph. Who calls the module
            # outside of its steps, Evaluation say, is not seen, or what it makes would stay.
            self._handle = source.register_forward_hook(
                lambda module, inputs, output: seen.append(output) if self._within else None
            )
            # What was compiled before, of another module of this class say, knows nothing of the hook.
            torch._dynamo.reset()

    def _restore(self, pl_module: pl.LightningModule) -> None:
        for name, before in self._before.items():
            vars(pl_module).pop(name, None)
            if before is not None:
                setattr(pl_module, name, before)
        self._before.clear()
        self._seen.clear()
        if self._handle is not None:
            self._handle.remove()
            self._handle = None
            torch._dynamo.reset()

    def _description(self) -> str:
        form = self.distiller.teacher.form
        kind = None if form is None else self.distiller.objective.check(form).kind
        teacher = type(self.distiller.teacher).__name__
        return teacher if kind is None else f"{teacher}; KD loss: {self.distiller.objective.describe(kind)}"
