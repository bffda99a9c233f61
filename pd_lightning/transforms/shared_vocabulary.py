"""Vocabularies that differ by padding: what both sides have."""

from dataclasses import replace

import torch
from torch import Tensor

from pd_lightning.context import Context
from pd_lightning.targets import DenseTargets, Form
from pd_lightning.transforms.base import AnyTargets, Transform


class SharedVocabulary(Transform):
    """Compare teacher and student over the ids that both have; the others are padding, and left out on both sides.

    What Objective does first where the two widths differ by padding alone. Of a store only the kept ids are looked at:
    padding that is in its tail stays there, so that what is dropped is the least it can be. A store's mean, deviation
    and entropy of the logits stay those over all ids of its teacher.

    Args:
        size: Number of shared ids, the first ones of each side.
    """

    def __init__(self, size: int) -> None:
        self.size = size

    def form(self, before: Form) -> Form:
        """Give targets over the shared ids."""
        return replace(before, vocab_size=self.size)

    def student(self, logits: Tensor, ctx: Context) -> Tensor:
        """Leave out the student's padding, float `[n, size]`."""
        return logits[..., : self.size]

    def teacher(self, targets: AnyTargets, ctx: Context) -> AnyTargets:
        """Leave out the teacher's padding, and scale the others up to sum to 1 again."""
        if isinstance(targets, DenseTargets):
            if targets.logprobs.shape[-1] <= self.size:
                return targets
            kept = targets.logprobs[..., : self.size]
            log_mass = kept.logsumexp(dim=-1)
            return replace(
                targets,
                logprobs=kept - log_mass.unsqueeze(-1),
                dropped=1.0 - log_mass.exp(),
                statistics=_shifted(targets.statistics, log_mass),
            )
        outside = targets.ids >= self.size
        dropped = targets.logprobs.exp().masked_fill(~outside, 0.0).sum(dim=-1)
        log_mass = torch.log1p(-dropped)
        # The most probable id that both have takes the slots of the ids left out.
        logprobs = targets.logprobs.masked_fill(outside, -torch.inf)
        best = targets.ids.gather(-1, logprobs.argmax(dim=-1, keepdim=True)).clamp(max=self.size - 1)
        return replace(
            targets,
            ids=torch.where(outside, best, targets.ids),
            logprobs=logprobs - log_mass.unsqueeze(-1),
            log_tail=None if targets.log_tail is None else targets.log_tail - log_mass,
            dropped=dropped,
            statistics=_shifted(targets.statistics, log_mass),
        )


def _shifted(statistics: dict[str, Tensor], log_mass: Tensor) -> dict[str, Tensor]:
    """Keep log-probability + log Z what it was: a logit."""
    shifts = {"log_z": log_mass, "mean": -log_mass, "label_logprob": -log_mass}
    return {name: values + shifts[name] if name in shifts else values for name, values in statistics.items()}
