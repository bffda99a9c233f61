"""The objective of pre-training distillation: (1 - kd_weight) · LM loss + kd_weight · KD loss."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from pd_lightning.chunking import chunked_sums
from pd_lightning.context import Context, Progress
from pd_lightning.heads import Head
from pd_lightning.losses import ForwardKL, Loss
from pd_lightning.losses.alignment import AnyStudent, AnyTargets
from pd_lightning.position_statistics import FIGURES, position_statistics
from pd_lightning.projection import Projection, are_largest
from pd_lightning.schedules import Schedule
from pd_lightning.targets import Form, Kind, Targets
from pd_lightning.transforms import Transform
from pd_lightning.transforms.shared_vocabulary import SharedVocabulary
from pd_lightning.weightings import Positions, Weighting, Weights

IGNORE_INDEX = -100
_MEANING: dict[Kind, str] = {
    "dense": "all ids",
    "bucket": "the kept ids and one bucket for the tail",
    "renormalized": "the kept ids, renormalized",
    "none": "the kept ids, the tail forgotten",
    "sampled": "sampled ids",
}
_ANY_TEACHER = (Form("dense"), Form("bucket", statistics=None))


@dataclass
class Terms:
    """Sums over the labelled positions of a batch; all but `loss` are detached.

    Args:
        loss: The mixed loss, scalar, in nats; the only one with a graph.
        lm_loss: The LM loss, scalar, in nats; every labelled position counts alike.
        kd_loss: The KD loss, scalar, in nats, likewise; None without targets.
        agreement: Positions where the teacher's most probable id is the student's too, scalar; None without targets.
        dropped_mass: Probability that the teacher gives to ids that the student lacks, scalar; None if it lacks none.
        num_tokens: Labelled positions, scalar.
        num_targets: Those among them that the teacher said something of, scalar; None without targets.
    """

    loss: Tensor
    lm_loss: Tensor
    kd_loss: Tensor | None
    agreement: Tensor | None
    dropped_mass: Tensor | None
    num_tokens: Tensor
    num_targets: Tensor | None = None


class Objective:
    """Mixes the LM loss and the KD loss of every labelled position.

    Args:
        loss: Divergence between student and targets; forward KL by default.
        transforms: What is done to the targets first, by name, in order.
        weighting: What is done to the weights of the two losses position by position, by name, in order.

    Raises:
        ValueError: If two transforms contradict one another, or there is no teacher that they and the loss could serve.

    Source: Peng et al. (arXiv 2410.16215), equation 1.
    """

    def __init__(
        self,
        loss: Loss | None = None,
        transforms: Mapping[str, Transform] | None = None,
        weighting: Mapping[str, Weighting] | None = None,
    ) -> None:
        self.loss = loss or ForwardKL()
        self.transforms = dict(transforms or {})
        self.weighting = dict(weighting or {})
        self._shared: list[SharedVocabulary] = []
        for name, one in self.weighting.items():
            if unknown := one.needs - FIGURES:
                raise ValueError(
                    f"What a weighting needs must be among {', '.join(sorted(FIGURES))}, got "
                    f"{', '.join(sorted(unknown))}. Correct `needs` of the class of model.weighting.{name}."
                )
        errors = []
        for form in _ANY_TEACHER:
            try:
                self.check(form)
            except ValueError as error:
                errors.append(error)
        if len(errors) == len(_ANY_TEACHER):
            raise errors[0]

    @property
    def weighs_targets(self) -> bool:
        """Whether a weighting acts where there are targets alone."""
        return any(weighting.needs for weighting in self.weighting.values())

    def check(self, form: Form) -> Form:
        """Refuse transforms and a loss that cannot work with a teacher's targets.

        Args:
            form: Form of the teacher's targets.

        Returns:
            Form of the targets that the loss is given.

        Raises:
            ValueError: Naming the transform or the loss.
        """
        for name, weighting in self.weighting.items():
            if "teacher_entropy" in weighting.needs:
                form.require_statistic("entropy", f"model.weighting.{name}")
        for shared in self._shared:
            form = shared.form(form)
        for name, transform in self.transforms.items():
            try:
                form = transform.form(form)
            except ValueError as error:
                raise ValueError(f"model.transforms.{name}: {error}") from None
        self.loss.check(form)
        return form

    def describe(self, kind: Kind) -> str:
        """Say in a line what is compared with what.

        Args:
            kind: Kind of the targets that the loss is given.
        """
        named = [
            f"{what} {', '.join(type(piece).__name__ for piece in pieces)}"
            for what, pieces in (
                ("transforms", list(self.transforms.values())),
                ("weighting", list(self.weighting.values())),
            )
            if pieces
        ]
        return f"{type(self.loss).__name__} over {_MEANING[kind]}" + (f" ({'; '.join(named)})" if named else "")

    def share_vocabulary(self, size: int) -> None:
        """Leave out ids of `size` and above on both sides: padding, which teacher and student have more or less of."""
        self._shared = [SharedVocabulary(size)]

    def schedules(self) -> dict[str, Schedule]:
        """Give the schedules of the transforms, each by the name of its transform and its setting, dotted."""
        return {
            f"{name}.{setting}": schedule
            for name, transform in self.transforms.items()
            for setting, schedule in transform.schedules().items()
        }

    def scheduled(self, step: int, total_steps: int) -> dict[str, float]:
        """Give the values of the schedules at an optimizer step, each by the name of its transform."""
        values = {name: schedule(step, total_steps) for name, schedule in self.schedules().items()}
        return {name.removesuffix(".value"): value for name, value in values.items()}

    def __call__(
        self,
        hidden: Tensor,
        head: Head,
        labels: Tensor,
        targets: Targets | None = None,
        kd_weight: float = 0.0,
        progress: Progress | None = None,
        document_ids: Tensor | None = None,
    ) -> Terms:
        """Sum the losses over all labelled positions.

        Args:
            hidden: The student's last hidden states, float `[B, T, D]`.
            head: The student's head, from hidden states to logits.
            labels: The next token of each position, int64 `[B, T]`; -100 where there is none.
            targets: The teacher's targets of the same B·T positions, or None for the LM loss alone.
            kd_weight: Share of the KD loss, α of Peng et al., in [0, 1]; without effect where targets is None.
            progress: How far the run has come, for schedules and random draws.
            document_ids: Which document each of a block's tokens belongs to, int64 `[B, T+1]`, for weightings.

        Returns:
            Sums in nats, to be divided by the number of labelled positions of the whole optimizer step.
        """
        rows = hidden.flatten(0, 1)
        if targets is None:
            kd_weight = 0.0
        weights = self._weights(rows, head, labels, targets, kd_weight, document_ids)
        compute = partial(self._sums, head, labels.flatten(), targets, weights, progress or Progress())
        loss, lm, num_tokens, kd, agreement, dropped, num_targets = chunked_sums(compute, rows, head)
        if targets is None:
            return Terms(loss, lm, None, None, None, num_tokens)
        return Terms(loss, lm, kd, agreement, dropped if self._shared else None, num_tokens, num_targets)

    def _sums(
        self,
        head: Head,
        labels: Tensor,
        targets: Targets | None,
        weights: Weights,
        progress: Progress,
        projection: Projection | None,
        hidden: Tensor,
        rows: slice,
    ) -> tuple[Tensor, ...]:
        """Sum what `Terms` holds over the rows whose hidden states are given."""
        labels = labels[rows]
        counted = labels != IGNORE_INDEX
        # Seeded by the chunk too: its rows shall not draw what another chunk's draw.
        progress = replace(progress, draw=(*progress.draw, rows.start or 0))
        ctx = Context(partial(head, hidden), labels, progress, head.vocab_size)
        said = None if targets is None else targets.rows(rows)
        treated, seen = (None, ctx) if said is None else self._transformed(said, ctx)
        top1 = labels.clamp(min=0) if said is None else said.top1()
        lm, student, agrees = self._compared(projection, hidden, ctx, seen, treated, top1)
        lm = torch.where(counted, lm, 0.0)
        mixed = (weights.lm[rows] * lm).sum()
        lm, num_tokens = lm.detach().sum(), counted.sum()
        if said is None or treated is None:
            zero = torch.zeros_like(lm)
            return mixed, lm, num_tokens, zero, zero, zero, zero
        if said.missing is not None:
            counted = counted & ~said.missing
        kd = self.loss(student, treated)
        if kd.shape != labels.shape:
            raise ValueError(
                f"A loss must give one number for each of {len(labels)} positions, got {list(kd.shape)}. Correct "
                f"{type(self.loss).__name__} of model.loss."
            )
        if treated.weight is not None:
            kd = kd * treated.weight
        # Masked by where, not by indexing: the number of labelled positions would be a device sync.
        kd = torch.where(counted, kd, 0.0)
        mixed = mixed + (weights.kd[rows] * kd).sum()
        dropped = torch.zeros_like(lm) if treated.dropped is None else torch.where(counted, treated.dropped, 0.0).sum()
        return mixed, lm, num_tokens, kd.detach().sum(), (agrees & counted).sum(), dropped, counted.sum()

    def _transformed(self, said: AnyTargets, ctx: Context) -> tuple[AnyTargets, Context]:
        """Give the transformed targets, and what their transforms have the loss see of the student."""
        for shared in self._shared:
            ctx, said = ctx.narrowed(shared.size), shared.teacher(said, ctx)
        for transform in self.transforms.values():
            if type(transform).student is not Transform.student:
                ctx = ctx.with_logits(transform.student(ctx.student_logits, ctx))
            said = transform.teacher(said, ctx)
        return said, ctx

    def _compared(
        self,
        projection: Projection | None,
        hidden: Tensor,
        ctx: Context,
        seen: Context,
        treated: AnyTargets | None,
        top1: Tensor,
    ) -> tuple[Tensor, AnyStudent, Tensor]:
        """Give the LM loss of each position, the student as the loss takes it, and whether it agrees with `top1`."""
        needs_logits = seen.has_logits or not (treated is None or self.loss.does_without_logits(treated))
        if projection is not None and not needs_logits:
            label, student, agrees = projection.compare(hidden, ctx.labels, treated, top1, seen.vocab_size)
            return -label, student, agrees
        logits = ctx.student_logits
        wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
        lm = F.cross_entropy(wide, ctx.labels, ignore_index=IGNORE_INDEX, reduction="none")
        agrees = are_largest(top1, logits.detach(), logits.detach().amax(dim=-1, keepdim=True))
        return lm, seen.student_logits, agrees

    @torch.no_grad()
    def _weights(
        self,
        hidden: Tensor,
        head: Head,
        labels: Tensor,
        targets: Targets | None,
        kd_weight: float,
        document_ids: Tensor | None,
    ) -> Weights:
        """Give the weights of the two losses at each of the B·T positions, float `[N]` each."""
        dtype = torch.promote_types(hidden.dtype, torch.float32)
        lm = torch.full(labels.shape, 1.0 - kd_weight, dtype=dtype, device=hidden.device)
        weights = Weights(lm, torch.full_like(lm, kd_weight))
        counted = labels != IGNORE_INDEX
        if targets is not None and targets.missing is not None:
            missing = targets.missing.view(labels.shape)
            weights = Weights(lm.masked_fill(missing, 1.0), weights.kd.masked_fill(missing, 0.0))
            counted = counted & ~missing
        # Nor where the loss is only looked at, with a KD weight of 0: what they need costs a pass over the logits.
        acting = [w for w in self.weighting.values() if kd_weight > 0 or not w.needs]
        needs = frozenset().union(*(w.needs for w in acting))
        statistics = {}
        if needs:
            assert targets is not None, "what needs figures does not act without targets"
            statistics = position_statistics(needs, hidden, head, targets)
        shaped = {name: values.view(labels.shape) for name, values in statistics.items()}
        positions = Positions(counted, document_ids, shaped)
        for weighting in acting:
            weights = weighting(weights, positions)
        return Weights(weights.lm.flatten(), weights.kd.flatten())
