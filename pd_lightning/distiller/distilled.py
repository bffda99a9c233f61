"""What a Distiller gives."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from torch import Tensor

from pd_lightning.objective.terms import Terms

_METRICS = ("loss", "lm_loss", "kd_loss", "top1_agreement")


@dataclass(frozen=True)
class Distilled:
    """What a Distiller gives: means over the labelled positions of a micro-batch, scalars, in nats.

    Args:
        loss: The mixed loss, the only one with a graph.
        lm_loss: The LM loss.
        num_tokens: Labelled positions.
        kd_weight: Share of the KD loss in `loss`.
        kd_loss: The KD loss, over the positions that the teacher said something of; None without a teacher.
        top1_agreement: Share of them where teacher and student agree on the most probable id; None without a teacher.
    """

    loss: Tensor
    lm_loss: Tensor
    num_tokens: Tensor
    kd_weight: float
    kd_loss: Tensor | None = None
    top1_agreement: Tensor | None = None

    def metrics(self, prefix: str = "", names: Iterable[str] = _METRICS) -> dict[str, Tensor]:
        """Give what there is by name, detached, for `self.log_dict`.

        Args:
            prefix: Comes before each name, `train/` say.
            names: Which of them; by default all losses, and the agreement.
        """
        known = {name: value.detach() for name in names if (value := getattr(self, name)) is not None}
        return {f"{prefix}{name}": value for name, value in known.items()}


def means_of(terms: Terms, kd_weight: float) -> Distilled:
    """Give the means of an objective's sums.

    Args:
        terms: The sums over a micro-batch.
        kd_weight: Share of the KD loss in them.
    """
    num_tokens = terms.num_tokens.clamp(min=1)
    means = Distilled(terms.loss / num_tokens, terms.lm_loss / num_tokens, terms.num_tokens, kd_weight)
    if terms.kd_loss is None or terms.agreement is None or terms.num_targets is None:
        return means
    num_targets = terms.num_targets.clamp(min=1)
    return replace(means, kd_loss=terms.kd_loss / num_targets, top1_agreement=terms.agreement / num_targets)
