"""Temperature: softer or sharper distributions on both sides."""

from collections.abc import Mapping
from dataclasses import replace

from pd_lightning.context import Context
from pd_lightning.schedules import Schedule
from pd_lightning.targets import Form
from pd_lightning.transforms.base import AnyTargets, Transform
from pd_lightning.transforms.ordering import divided, tempered


class Temperature(Transform):
    """Compare teacher and student at a temperature.

    Dense targets are exact. Stored targets are not, since their log-probabilities are known for the kept ids alone:
    with a bucket, both sides are first made K+1 wide at temperature 1, then divided and normalised; renormalised
    ones are divided and normalised over the kept ids.

    Args:
        value: What log-probabilities are divided by: above 1 softer, below 1 sharper. A number, or a schedule.

    Raises:
        ValueError: If `value` is a number that is not positive.

    Source: Hinton et al. (arXiv 1503.02531).
    """

    def __init__(self, value: float | Schedule) -> None:
        if not isinstance(value, Schedule) and not 0 < value < float("inf"):
            raise ValueError(f"temperature must be positive, got {value}. Set init_args.value of Temperature above 0.")
        self.value = value

    def form(self, before: Form) -> Form:
        """Refuse a temperature over probabilities of which a part was forgotten, or that are estimates.

        Raises:
            ValueError: If a truncation with tail `none`, or sampling, comes before.
        """
        return before if self.value == 1.0 else tempered(before, "Temperature")

    def teacher(self, targets: AnyTargets, ctx: Context) -> AnyTargets:
        """Note the temperature on the targets; the loss applies it to both sides."""
        tau = self.value
        if isinstance(tau, Schedule):
            tau = tau(ctx.progress.step, ctx.progress.total_steps)
        return replace(divided(targets, tau), compensation=targets.compensation * tau**2)

    def schedules(self) -> Mapping[str, Schedule]:
        """Give the schedule of the temperature, if it has one."""
        return {"value": self.value} if isinstance(self.value, Schedule) else {}
