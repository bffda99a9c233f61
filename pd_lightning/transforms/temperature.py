"""Temperature: softer or sharper distributions on both sides."""

from collections.abc import Sequence
from dataclasses import replace

from pd_lightning.transforms.base import AnyTargets, Transform


class Temperature(Transform):
    """Compare teacher and student at a temperature.

    Dense targets are exact. Stored targets are not, since their log-probabilities are known for the kept ids alone:
    with a bucket, both sides are first made K+1 wide at temperature 1, then divided and normalised; renormalised
    ones are divided and normalised over the kept ids.

    Args:
        value: What log-probabilities are divided by: above 1 softer, below 1 sharper.

    Raises:
        ValueError: If `value` is not positive.

    Source: Hinton et al. (arXiv 1503.02531).
    """

    def __init__(self, value: float) -> None:
        if not value > 0:
            raise ValueError(f"temperature must be positive, got {value}. Set init_args.value of Temperature above 0.")
        self.value = value

    def check(self, before: Sequence[Transform]) -> None:
        """Refuse a temperature over probabilities of which a part was forgotten.

        Raises:
            ValueError: If a truncation with tail `none` comes before.
        """
        if self.value != 1.0 and any(getattr(transform, "tail", None) == "none" for transform in before):
            raise ValueError(
                "Temperature must have the tail of truncated targets, or renormalised ones, got tail none before it: "
                "what does not sum to 1 cannot be tempered. Set init_args.tail of TopPK to bucket or renormalize."
            )

    def teacher(self, targets: AnyTargets) -> AnyTargets:
        """Note the temperature on the targets; the loss applies it to both sides."""
        return replace(targets, temperature=targets.temperature * self.value)
