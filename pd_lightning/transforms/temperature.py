"""Temperature: softer or sharper distributions on both sides."""

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

    def teacher(self, targets: AnyTargets) -> AnyTargets:
        """Note the temperature on the targets; the loss applies it to both sides."""
        return replace(targets, temperature=targets.temperature * self.value)
