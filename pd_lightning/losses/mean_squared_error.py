"""Mean squared error, of probabilities or of logits."""

from typing import Literal

from torch import Tensor

from pd_lightning.losses.alignment import AnyStudent, AnyTargets, CrossEntropies, align, divided, possible, widened
from pd_lightning.losses.base import Loss
from pd_lightning.targets import AnyTemperature, DenseTargets, Form


class MeanSquaredError(Loss):
    """Mean or sum of (teacher - student)² over the outcomes, in squared probabilities or squared nats.

    Peng et al. do not say what theirs is of; it was far behind NLL and KLD.

    Args:
        space: `probabilities`: of all ids, or of the kept ones and all others together. `logits`: of all ids, or of the
            kept ones alone, since the others together have no logit; both sides less their mean over the vocabulary
            where Standardize asks for it.
        reduction: `mean` or `sum` over the outcomes of a position. Squares of V probabilities sum to 2 at most: their
            mean is tiny where V is large, and `sum` gives kd_weight a meaning again.
        student_temperature: Divide the student's logits by the targets' temperature too.
        temperature_squared: Multiply the loss by the temperature's square.

    Source: Peng et al. (arXiv 2410.16215), MSE; Kim et al. (arXiv 2105.08919) for logits.
    """

    aligned = True

    def __init__(
        self,
        space: Literal["probabilities", "logits"] = "probabilities",
        reduction: Literal["mean", "sum"] = "mean",
        student_temperature: bool = True,
        temperature_squared: bool = True,
    ) -> None:
        super().__init__(student_temperature, temperature_squared)
        self.space = space
        self.reduction = reduction

    def check(self, form: Form) -> None:
        """Refuse targets whose probabilities are not all known or, on logits, whose logits are not.

        Raises:
            ValueError: Saying what to use instead.
        """
        if self.space == "probabilities":
            return super().check(form)
        self.check_sides(form)
        who, instead = "MeanSquaredError on logits", "or set model.loss.init_args.space to probabilities."
        form.require_kind(
            ("dense", "bucket", "none"), who, f"Set init_args.tail of the truncation to bucket or none, {instead}"
        )
        if not form.has_logits:
            raise ValueError(
                f"{who} must have the teacher's own logits, got probabilities that a transform has mixed. Leave tail "
                f"uniform and LabelSmoothing out of model.transforms, {instead}"
            )
        form.require_statistic("mean" if form.standardized else "log_z", who)

    def does_without_logits_at(self, targets: AnyTargets) -> AnyTemperature | None:
        """Give the temperature at which less than logits will do, see Loss: never on logits."""
        return super().does_without_logits_at(targets) if self.space == "probabilities" else None

    def __call__(self, student: AnyStudent, targets: AnyTargets) -> Tensor:
        """Compare n positions, see Loss; not in nats."""
        assert not isinstance(student, CrossEntropies)
        if self.space == "logits":
            assert isinstance(student, Tensor)
            ours, theirs = self._logits(widened(student), targets)
            counted = targets.logprobs.isfinite()
        else:
            log_q, log_p = align(student, targets, *self.temperatures(targets))
            ours, theirs, counted = log_q.exp(), log_p.exp(), possible(log_q, log_p)
        # Masked before it is squared: the gradient of an infinite square times 0 is NaN.
        loss = (theirs - ours).masked_fill(~counted, 0.0).square().sum(dim=-1)
        if self.reduction == "mean":
            loss = loss / counted.sum(dim=-1)
        return loss * self.compensation(targets)

    def _logits(self, student: Tensor, targets: AnyTargets) -> tuple[Tensor, Tensor]:
        """Give the tempered logits of the student and of the teacher, float `[n, W]` each."""
        if targets.standardized:
            student = student - student.mean(dim=-1, keepdim=True)
            teacher = targets.logprobs - targets.statistic("mean").unsqueeze(-1)
        else:
            teacher = targets.logprobs + targets.statistic("log_z").unsqueeze(-1)
        if not isinstance(targets, DenseTargets):
            student = student.gather(-1, targets.ids)
        student_temperature, temperature = self.temperatures(targets)
        return divided(student, student_temperature), divided(teacher, temperature)
