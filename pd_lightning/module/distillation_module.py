"""The LightningModule of pre-training distillation."""

import os
from contextlib import nullcontext
from functools import partial
from typing import Any, Literal

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities import rank_zero_info
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from pd_lightning.context import IGNORE_INDEX, Progress
from pd_lightning.data.inputs import BatchInputs, as_mapping
from pd_lightning.language_model import LanguageModel
from pd_lightning.losses import Loss
from pd_lightning.module.checkpoint_state import checkpoint_state
from pd_lightning.module.draws import batches_processed, seed_batch
from pd_lightning.module.optimization import (
    OptimizerCallable,
    build_optimizer,
    catch_up,
    default_optimizer,
    length_of_run,
    scheduled,
    total_norm,
)
from pd_lightning.module.speed import Speed
from pd_lightning.module.split_means import SplitMeans
from pd_lightning.module.stale_figures import leave_gaps
from pd_lightning.module.surroundings import (
    check_same_tensors,
    check_trainer,
    check_validation_interval,
    is_logged,
    keep_targets_exact,
    look_around,
    make_student,
    warn_of_no_effect,
)
from pd_lightning.module.totals import NOMINAL_TOKENS, Totals, rescale
from pd_lightning.objective import Objective
from pd_lightning.objective.terms import Terms
from pd_lightning.schedules import WSD, Schedule, as_schedule, check_schedules
from pd_lightning.strategies import FSDP2Strategy
from pd_lightning.students import Student
from pd_lightning.targets import Kind, Targets
from pd_lightning.targets.heads import Head
from pd_lightning.teachers import NoTeacher, Teacher
from pd_lightning.transforms import Transform
from pd_lightning.weightings import Weighting


class DistillationModule(pl.LightningModule):
    """Pre-trains a student on (1 - kd_weight) · LM loss + kd_weight · KD loss.

    Losses are means over the labelled positions of a whole optimizer step: of all its micro-batches and all ranks.

    Args:
        student: The model to train: an HFStudent, or any `nn.Module` from token ids `[B, T]` to logits `[B, T, V]`.
        teacher: Where targets come from: a FrozenTeacher on the fly, an OfflineTeacher out of a logit store, or
            NoTeacher (the default) for plain pre-training.
        transforms: What is done to the teacher's targets before the loss, by name, in order.
        loss: Divergence between student and teacher; ForwardKL by default.
        weighting: What is done to the weights of the two losses position by position, by name, in order.
        kd_weight: Share of the KD loss over the run, α of Peng et al., in [0, 1]: a number (default 0.9) or a schedule.
        lr: Learning rate over the run: a number or a schedule; WSD up to 6e-4 by default.
        optimizer: Makes the optimizer from parameter groups; AdamW (betas 0.9 and 0.95, weight decay 0.1 on matrices)
            by default. Its learning rate is the one of `lr`.
        val_teacher: Whom the student is compared with in validation and test, where that is another: a FrozenTeacher,
            say, of whole distributions where training reads truncated ones. By default `teacher`.
        chunk_size: Positions whose logits are there at once: fewer take less memory. By default `rows_per_chunk`.

    Source: Peng et al. (arXiv 2410.16215).
    """

    def __init__(
        self,
        student: Student | nn.Module,
        teacher: Teacher | None = None,
        transforms: dict[str, Transform] | None = None,
        loss: Loss | None = None,
        weighting: dict[str, Weighting] | None = None,
        kd_weight: Schedule | float | None = None,
        lr: Schedule | float | None = None,
        optimizer: OptimizerCallable | None = None,
        val_teacher: Teacher | None = None,
        chunk_size: int | None = None,
    ) -> None:
        super().__init__()
        self.recipe = student if isinstance(student, Student) else None
        self.student: LanguageModel | None = None if isinstance(student, Student) else LanguageModel(student)
        self.teacher = teacher or NoTeacher()
        self.val_teacher = val_teacher
        self.objective = Objective(loss, transforms, weighting, chunk_size)
        self._check_forms()
        self._has_kd_settings = kd_weight is not None or bool(loss or transforms) or self.objective.weighs_targets
        self.kd_weight = as_schedule(0.9 if kd_weight is None else kd_weight)
        self.lr = as_schedule(WSD(6e-4) if lr is None else lr)
        self.make_optimizer = optimizer or default_optimizer
        self.evaluation = SplitMeans()
        self._inputs = BatchInputs()
        self._totals = Totals()
        self._speed = Speed()
        self.teacher_seconds = 0.0
        self._num_tokens: Tensor | int = 0
        self.seed = int(os.environ.get("PL_GLOBAL_SEED", "0"))
        self._total_steps = 1
        self.target_kind: Kind | None = None

    def setup(self, stage: str) -> None:
        """Refuse what would go wrong without a word, and warn of settings that have no effect.

        Raises:
            ValueError: If the precision is float16, or the strategy is not built yet.
        """
        check_trainer(self.trainer)
        keep_targets_exact(self.trainer)
        if isinstance(self.teacher, NoTeacher) and self._has_kd_settings:
            warn_of_no_effect()

    def configure_model(self) -> None:
        """Make the student's weights, once, and get the teacher ready for it."""
        strategy = None if self._trainer is None else self.trainer.strategy
        sharding = strategy if isinstance(strategy, FSDP2Strategy) else None
        with nullcontext() if sharding is None else sharding.in_turn():
            if self.student is None:
                self.student = make_student(self.recipe, self.seed, self._trainer)
            if self._trainer is not None:
                self.meet_teachers()
            if sharding is not None:
                sharding.shard(self.student, str(self.trainer.precision))

    def forward(self, input_ids: Tensor, position_ids: Tensor | None = None) -> Tensor:
        """Give the student's logits, float `[B, T, V]`, of token ids and maybe positions, int64 `[B, T]`."""
        logits: Tensor = self._student(input_ids, position_ids)
        return logits

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Give the mixed loss of a micro-batch, see BatchInputs: its sum over a nominal number of tokens."""
        batch = self._inputs(batch)
        kd_weight = self.kd_weight(self.global_step, self._total_steps)
        teacher_seconds = self.teacher.forward_seconds
        targets = self.teacher(batch) if kd_weight > 0 else None
        observed = is_logged(self.trainer, self._total_steps)
        terms = self._terms(batch, targets, kd_weight, batches_processed(self.trainer), observed)
        self.teacher_seconds += self.teacher.forward_seconds - teacher_seconds
        self._totals.add(terms)
        if observed:
            scheduled = self.objective.scheduled(self.global_step, self._total_steps)
            values = {"kd_weight": 0.0 if targets is None else kd_weight, **scheduled}
            # Tensors on the CPU: Lightning would copy a float to the device, which waits for it.
            self.log_dict({f"train/{name}": torch.tensor(value) for name, value in values.items()})
        return terms.loss / NOMINAL_TOKENS

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Compare the student with labels and teacher on a batch."""
        self._evaluate(batch, "val", batch_idx)

    def test_step(self, batch: Any, batch_idx: int) -> None:
        """Compare the student with labels and teacher on a batch."""
        self._evaluate(batch, "test", batch_idx)

    def predict_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Give the log-probability of each label, float `[B, T]`, in nats; 0 where there is none."""
        batch = self._inputs(batch)
        logits, labels = self(batch["input_ids"], batch.get("position_ids")), batch["labels"]
        losses = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORE_INDEX, reduction="none")
        return -losses.view_as(labels)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Make the optimizer over the student alone, and let `lr` give its learning rate at each step."""
        self._total_steps = length_of_run(self.trainer.estimated_stepping_batches)
        check_schedules(self.kd_weight, self.objective.schedules(), self.lr, self._total_steps)
        optimizer = build_optimizer(self.make_optimizer, self._student)
        scheduler = scheduled(optimizer, self.lr, self._total_steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def on_train_start(self) -> None:
        """Refuse checkpoints amid an accumulation, say what is compared with what, and start the clock."""
        check_validation_interval(self.trainer)
        self._student.warn_of_lost_router_loss()
        catch_up(config.scheduler for config in self.trainer.lr_scheduler_configs)
        if self.target_kind is not None:
            rank_zero_info(f"KD loss: {self.objective.describe(self.target_kind)}")
        self._speed.mark()  # not at an epoch's start: a run that goes on amid one has none

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Draw dropout from (seed, batches processed, rank), so that a resumed run needs no random state."""
        seed_batch(self.seed, self.trainer)

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Turn sums into means over the labelled positions of the whole step; log them."""
        means, num_tokens = self._totals.reduce(partial(self.trainer.strategy.reduce, reduce_op="sum"))
        gradients = [parameter.grad for parameter in self.parameters() if parameter.grad is not None]
        parts = self.trainer.accumulate_grad_batches * self.trainer.world_size
        rescale(gradients, NOMINAL_TOKENS * parts, num_tokens)
        self._num_tokens = self._num_tokens + num_tokens
        self.log("train/loss", means.pop("loss"), prog_bar=True)
        if is_logged(self.trainer, self._total_steps):  # the norm costs a pass over all gradients
            means["grad_norm"] = total_norm(gradients)
            means |= {"lr": torch.tensor(optimizer.param_groups[0]["lr"]), "tokens": self._num_tokens}
            self.log_dict({f"train/{name}": value for name, value in means.items()})
            leave_gaps(self.trainer, means)

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Log the speed."""
        num_tokens = as_mapping(batch)["input_ids"].numel() * self.trainer.world_size
        self.log("train/tokens_per_second", torch.tensor(self._speed.tokens_per_second(num_tokens)), prog_bar=True)

    def on_validation_epoch_end(self) -> None:
        """Log the perplexity over the whole validation split."""
        self.evaluation.step = self.global_step
        self.log("val/perplexity", self.evaluation.perplexity(), sync_dist=True)
        self._speed.mark()

    def on_test_epoch_end(self) -> None:
        """Log the perplexity over the whole test split."""
        self.log("test/perplexity", self.evaluation.perplexity(), sync_dist=True)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what resuming and exporting need beside the weights."""
        checkpoint["pd_lightning"] = checkpoint_state(self)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on with the tokens counted and the seed of the run before.

        Raises:
            ValueError: If the checkpoint is another student's.
        """
        if self.student is not None and "state_dict" in checkpoint:
            check_same_tensors(self.state_dict(), checkpoint["state_dict"])
        state = checkpoint.get("pd_lightning", {})
        self.seed = state.get("seed", self.seed)
        self._num_tokens = state.get("num_tokens", 0)
        self._speed.seconds = state.get("train_seconds", 0.0)
        self.teacher_seconds = state.get("teacher_seconds", 0.0)

    @property
    def num_tokens(self) -> int:
        """Labelled positions trained on so far, over all ranks."""
        return int(self._num_tokens)

    @property
    def train_seconds(self) -> float:
        """Time that training has taken, earlier starts included and validation left out, in seconds."""
        return self._speed.seconds

    @property
    def _student(self) -> LanguageModel:
        assert self.student is not None, "configure_model comes first"
        return self.student

    @property
    def _teachers(self) -> list[Teacher]:
        return [self.teacher] if self.val_teacher is None else [self.teacher, self.val_teacher]

    def meet_teachers(self, how: Literal["setup", "rehearse"] = "setup") -> None:
        """Set the teachers up or rehearse it, and check student and objective against data and targets."""
        surroundings = look_around(self.trainer, self._student)
        if self.recipe is not None:
            self.recipe.check(surroundings.tokenizer_dir)
        for teacher in self._teachers:
            getattr(teacher, how)(surroundings)
        shared = [teacher.shared_vocab_size for teacher in self._teachers if teacher.shared_vocab_size is not None]
        if shared:
            self.objective.share_vocabulary(min(shared))
        self.target_kind = self._check_forms()

    def _check_forms(self) -> Kind | None:
        """Give the kind of the targets that are trained on, or None where that is not known."""
        kinds = [None if t.form is None else self.objective.check(t.form).kind for t in self._teachers]
        return kinds[0]

    def _terms(
        self, batch: dict[str, Tensor], targets: Targets | None, kd_weight: float, number: int, observed: bool = False
    ) -> Terms:
        """Compare on a batch; its number tells it from all others, so that it has random draws of its own."""
        progress = Progress(self.global_step, self._total_steps, (self.seed, number, self.global_rank))
        labels, documents = batch["labels"], batch.get("document_ids")

        def compare(hidden: Tensor, head: Head) -> dict[str, Any]:
            return vars(self.objective(hidden, head, labels, targets, kd_weight, progress, documents, observed))

        values, router_loss = self._student.compute(compare, batch["input_ids"], batch.get("position_ids"))
        terms = Terms(**values)
        return terms if router_loss is None else terms.balanced(router_loss, self._student.router_coefficient)

    def _evaluate(self, batch: Any, stage: str, batch_idx: int) -> None:
        batch = self._inputs(batch)
        targets = (self.val_teacher or self.teacher)(batch)
        for name, metric in self.evaluation.update(self._terms(batch, targets, 0.0, batch_idx)).items():
            shown = (stage, name) == ("val", "lm_loss")
            self.log(f"{stage}/{name}", metric, on_step=False, on_epoch=True, prog_bar=shown)
