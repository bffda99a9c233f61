"""The interfaces of losses: of all, and of those that compare two distributions over the same outcomes."""

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor

from pd_lightning.losses.alignment import AnyStudent, AnyTargets, CrossEntropies, align
from pd_lightning.targets import AnyTemperature, Form, Kind, SparseTargets


class Loss(ABC):
    """What sets the student's logits and the teacher's targets of each position apart.

    Args:
        student_temperature: Divide the student's logits by a temperature too, where transforms set one.
        temperature_squared: Multiply the loss by the temperature's square. With both sides tempered, gradients shrink
            as 1/temperature²; this undoes it, so that kd_weight keeps its meaning. Not for an untempered student.

    Attributes:
        kinds: Kinds of targets that the loss works with.
        instead: What to use with other kinds, for the message.
        aligned: Whether it looks at the student through `align` alone. Of sparse targets it is then given what the
            student says of the kept ids, without logits.

    Raises:
        ValueError: If the square is asked for without tempering the student.
    """

    kinds: ClassVar[tuple[Kind, ...]] = ("dense", "bucket", "renormalized")
    instead: ClassVar[str] = (
        "Set init_args.tail of the truncation to bucket and leave SampleTokens out, or set model.loss to "
        "pd_lightning.losses.ForwardKL, which works with all targets."
    )

    aligned: ClassVar[bool] = False

    def __init__(self, student_temperature: bool = True, temperature_squared: bool = True) -> None:
        if temperature_squared and not student_temperature:
            raise ValueError(
                "temperature_squared must be false where student_temperature is, got true: an untempered student's "
                "gradients do not shrink. Set model.loss.init_args.temperature_squared to false."
            )
        self.student_temperature = student_temperature
        self.temperature_squared = temperature_squared

    def check(self, form: Form) -> None:
        """Refuse targets that the loss cannot work with, when the objective is put together.

        Args:
            form: Form of the targets after all transforms.

        Raises:
            ValueError: Saying what to use instead.
        """
        self.check_sides(form)
        form.require_kind(self.kinds, type(self).__name__, self.instead)

    def check_sides(self, form: Form) -> None:
        """Refuse to leave the student untempered where a transform gives it a temperature of its own.

        Raises:
            ValueError: Naming the transform.
        """
        if form.two_sided is not None and not self.student_temperature:
            raise ValueError(
                f"student_temperature must be true with {form.two_sided}, which acts on both sides, got false. Set "
                "model.loss.init_args.student_temperature to true, or leave it out of model.transforms."
            )

    def does_without_logits_at(self, targets: AnyTargets) -> AnyTemperature | None:
        """Give the temperature at which `KeptLogprobs` will do for sparse targets, or `CrossEntropies` for dense ones.

        Returns:
            A number, or float `[n]`; None where the student's logits are needed.
        """
        if not self.aligned or not isinstance(targets, SparseTargets):
            return None
        # A bucket is made before temperatures act; without one they act on the logits.
        return 1.0 if targets.kind == "bucket" else self.temperatures(targets)[0]

    @abstractmethod
    def __call__(self, student: AnyStudent, targets: AnyTargets) -> Tensor:
        """Compare n positions.

        Args:
            student: The student's logits, float `[n, V]`; or less, where the loss does without them.
            targets: What the teacher says of the same positions, over the same vocabulary.

        Returns:
            The loss of each position, in nats unless the class says otherwise, float `[n]`.
        """

    def temperatures(self, targets: AnyTargets) -> tuple[AnyTemperature, AnyTemperature]:
        """Give the temperatures of the student and of the teacher: numbers, or float `[n]`."""
        if not self.student_temperature:
            return 1.0, targets.temperature
        own = targets.student_temperature
        return targets.temperature if own is None else own, targets.temperature

    def compensation(self, targets: AnyTargets) -> AnyTemperature:
        """Give the factor that undoes what temperatures do to the gradients: a number, or float `[n]`."""
        return targets.compensation if self.temperature_squared else 1.0


class Divergence(Loss):
    """A loss between two distributions over the same outcomes, both at their temperature.

    Args:
        student_temperature: Divide the student's logits by the targets' temperature too.
        temperature_squared: Multiply the loss by the temperature's square.

    Attributes:
        whole: Whether it compares all outcomes, also those that the targets hold to be impossible.
    """

    whole: ClassVar[bool] = True
    aligned = True

    def __call__(self, student: AnyStudent, targets: AnyTargets) -> Tensor:
        """Compare n positions, see Loss."""
        assert not isinstance(student, CrossEntropies)
        log_q, log_p = align(student, targets, *self.temperatures(targets), self.whole)
        return self.divergence(log_q, log_p) * self.compensation(targets)

    @abstractmethod
    def divergence(self, log_q: Tensor, log_p: Tensor) -> Tensor:
        """Compare log-probabilities over the same W outcomes.

        Args:
            log_q: The student's, float `[n, W]`; a large negative number where a slot is unused.
            log_p: The teacher's, float `[n, W]`; -inf where an outcome is impossible or a slot unused.

        Returns:
            The divergence of each position, float `[n]`.
        """
