"""Logit standardisation: both sides in units of their own standard deviation."""

from dataclasses import replace

from pd_lightning.context import Context
from pd_lightning.targets import Form
from pd_lightning.transforms.base import AnyTargets, Transform
from pd_lightning.transforms.deviation import student_deviation, teacher_deviation
from pd_lightning.transforms.ordering import divided, say_that_a_bucket_is_no_id, tempered


class Standardize(Transform):
    """Compare the logits' Z-scores, (z - mean) / (σ + 1e-7), on both sides.

    The student then need not match the spread of the teacher's logits. The mean cancels in a softmax: only
    MeanSquaredError on logits sees it. σ is the population's, as logit stores keep it, where the source's code has the
    sample's: the two differ by the factor sqrt(V / (V - 1)). After truncation it still is that of all V logits, and
    all of them must be finite. The source divides by a temperature too, and multiplies the loss by its square: add a
    Temperature.

    Source: Sun et al., Logit Standardization in Knowledge Distillation (arXiv 2403.01427).
    """

    def form(self, before: Form) -> Form:
        """Refuse targets without the teacher's σ, or with a temperature of each position already.

        Raises:
            ValueError: If the store lacks `std`, or what comes before cannot be tempered.
        """
        before.require_statistic("std", "Standardize")
        say_that_a_bucket_is_no_id(before, "Standardize")
        after = tempered(before, "Standardize", adaptive=True)
        return replace(after, standardized=True, two_sided="Standardize")

    def teacher(self, targets: AnyTargets, ctx: Context) -> AnyTargets:
        """Note each side's σ as its temperature; the loss applies them."""
        both = divided(targets, teacher_deviation(targets), student_deviation(ctx))
        return replace(both, standardized=True)
