"""NormKD: a temperature for each position, from the spread of its logits."""

from dataclasses import replace
from typing import Literal

from pd_lightning.context import Context
from pd_lightning.targets import Form
from pd_lightning.transforms.base import AnyTargets, Transform
from pd_lightning.transforms.deviation import student_deviation, teacher_deviation
from pd_lightning.transforms.ordering import divided, say_that_a_bucket_is_no_id, tempered


class NormKD(Transform):
    """Divide each position's logits by a multiple of their standard deviation over the vocabulary.

    The loss of a position is multiplied by the square of the teacher's temperature. After truncation the teacher's
    deviation still is that of all V logits, which must be finite; it is the population's, where the authors' code has
    the sample's. Peng et al. use NormKD and do not print their scale.

    Args:
        scale: Temperature in standard deviations. The authors' code has 1 for ImageNet and 2 for CIFAR-100.
        student: Temperature of the student: `own`, from its own logits, gradients included, as the authors have it;
            `same`, the teacher's; `none`, left as it is, and then the loss is not multiplied either.

    Raises:
        ValueError: If `scale` is not positive.

    Source: Chi et al., NormKD (arXiv 2308.00520).
    """

    def __init__(self, scale: float = 1.0, student: Literal["own", "same", "none"] = "own") -> None:
        if not 0 < scale < float("inf"):
            raise ValueError(f"scale must be positive, got {scale}. Set init_args.scale of NormKD, 1.0 say.")
        self.scale = scale
        self.student_side = student

    def form(self, before: Form) -> Form:
        """Refuse targets without the teacher's deviation, or with a temperature of each position already.

        Raises:
            ValueError: If the store lacks `std`, or what comes before cannot be tempered.
        """
        before.require_statistic("std", "NormKD")
        if self.student_side == "own":
            say_that_a_bucket_is_no_id(before, "NormKD with student own")
        both = None if self.student_side == "none" else f"NormKD with student {self.student_side}"
        return replace(tempered(before, "NormKD", adaptive=True), two_sided=both)

    def teacher(self, targets: AnyTargets, ctx: Context) -> AnyTargets:
        """Note the temperatures on the targets; the loss applies them."""
        tau = self.scale * teacher_deviation(targets)
        if self.student_side == "none":
            return divided(targets, tau, 1.0)
        both = divided(targets, tau, self.scale * student_deviation(ctx) if self.student_side == "own" else None)
        return replace(both, compensation=targets.compensation * tau**2)
