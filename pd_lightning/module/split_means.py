"""How a student compares with labels and teacher over a whole split."""

import math

from torch import Tensor, nn
from torchmetrics import MeanMetric, Metric

from pd_lightning.objective.terms import Terms


class SplitMeans(nn.Module):
    """Means over the batches of a split, by the names that they are logged under.

    The LM loss is a mean over the labelled positions; what tells of the teacher, over those that it said something of.
    """

    def __init__(self) -> None:
        super().__init__()
        self.step: int | None = None  # of the last validation
        # NaN stays NaN. "disable" would say so too, but makes torchmetrics 1.9 forget the weights.
        self.lm_loss, self.kd_loss, self.top1_agreement = (MeanMetric(nan_strategy=math.nan) for _ in range(3))

    def update(self, terms: Terms) -> dict[str, Metric]:
        """Take in a batch.

        Args:
            terms: Its terms; where it has no targets, they count for the LM loss alone.

        Returns:
            The metrics that the batch counted for, by name.
        """
        found: dict[str, Metric] = {"lm_loss": _weighted(self.lm_loss, terms.lm_loss, terms.num_tokens)}
        if terms.kd_loss is not None and terms.agreement is not None and terms.num_targets is not None:
            found["kd_loss"] = _weighted(self.kd_loss, terms.kd_loss, terms.num_targets)
            found["top1_agreement"] = _weighted(self.top1_agreement, terms.agreement, terms.num_targets)
        return found

    def perplexity(self) -> Tensor:
        """Give the perplexity over the whole split: torchmetrics' own takes all logits at once."""
        return self.lm_loss.compute().exp()


def _weighted(mean: MeanMetric, total: Tensor, number: Tensor) -> MeanMetric:
    mean.update(total / number.clamp(min=1), weight=number)
    return mean
