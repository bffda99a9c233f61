"""The objective of pre-training distillation: (1 - kd_weight) · LM loss + kd_weight · KD loss."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from pd_lightning.chunking import chunked_sums
from pd_lightning.losses import ForwardKL, Loss
from pd_lightning.targets import DenseTargets, Head, SparseTargets, Targets
from pd_lightning.transforms import Transform

IGNORE_INDEX = -100


@dataclass
class Terms:
    """Sums over the labelled positions of a batch; all but `loss` are detached.

    Args:
        loss: The mixed loss, scalar, in nats; the only one with a graph.
        lm_loss: The LM loss, scalar, in nats.
        kd_loss: The KD loss, scalar, in nats; None without targets.
        agreement: Positions where the student's most probable id is the teacher's, scalar; None without targets.
        num_tokens: Labelled positions, scalar.
    """

    loss: Tensor
    lm_loss: Tensor
    kd_loss: Tensor | None
    agreement: Tensor | None
    num_tokens: Tensor


class Objective:
    """Mixes the LM loss and the KD loss of every labelled position.

    Args:
        loss: Divergence between student and targets; forward KL by default.
        transforms: What is done to the targets first, by name, in order.

    Raises:
        ValueError: If two transforms contradict one another.

    Source: Peng et al. (arXiv 2410.16215), equation 1.
    """

    def __init__(self, loss: Loss | None = None, transforms: Mapping[str, Transform] | None = None) -> None:
        self.loss = loss or ForwardKL()
        self.transforms = dict(transforms or {})
        before: list[Transform] = []
        for transform in self.transforms.values():
            transform.check(before)
            before.append(transform)

    def __call__(
        self,
        hidden: Tensor,
        head: Head,
        labels: Tensor,
        targets: Targets | None = None,
        kd_weight: float = 0.0,
    ) -> Terms:
        """Sum the losses over all labelled positions.

        Args:
            hidden: The student's last hidden states, float `[N, D]`.
            head: The student's head, from hidden states to logits.
            labels: The next token of each position, int64 `[N]`; -100 where there is none.
            targets: The teacher's targets of the same positions, or None for the LM loss alone.
            kd_weight: Share of the KD loss, α of Peng et al., in [0, 1]; without effect where targets is None.

        Returns:
            Sums in nats, to be divided by the number of labelled positions of the whole optimizer step.
        """
        sums = chunked_sums(partial(self._sums, head, labels, targets, kd_weight), hidden, head)
        loss, lm, kd, agreement, num_tokens = sums
        if targets is None:
            return Terms(loss, lm, None, None, num_tokens)
        return Terms(loss, lm, kd, agreement, num_tokens)

    def _sums(
        self, head: Head, labels: Tensor, targets: Targets | None, kd_weight: float, hidden: Tensor, rows: slice
    ) -> tuple[Tensor, ...]:
        """Sum loss, LM loss, KD loss, agreement and labelled positions over the rows whose hidden states are given."""
        logits, labels = head(hidden), labels[rows]
        counted = labels != IGNORE_INDEX
        dtype = torch.promote_types(logits.dtype, torch.float32)
        lm = F.cross_entropy(logits.to(dtype), labels, ignore_index=IGNORE_INDEX, reduction="sum")
        if targets is None:
            return lm, lm.detach(), torch.zeros_like(lm), torch.zeros_like(lm), counted.sum()
        said = targets.rows(rows)
        agreement = ((logits.detach().argmax(dim=-1) == said.top1()) & counted).sum()
        # Masked by where, not by indexing: the number of labelled positions would be a device sync.
        kd = torch.where(counted, self.loss(logits, self._transformed(said)), 0.0).sum()
        mixed = (1.0 - kd_weight) * lm + kd_weight * kd
        return mixed, lm.detach(), kd.detach(), agreement, counted.sum()

    def _transformed(self, targets: SparseTargets | DenseTargets) -> SparseTargets | DenseTargets:
        for transform in self.transforms.values():
            targets = transform.teacher(targets)
        return targets
