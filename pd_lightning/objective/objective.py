"""The objective of pre-training distillation: (1 - kd_weight) · LM loss + kd_weight · KD loss."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from pd_lightning.context import IGNORE_INDEX, Context, Progress
from pd_lightning.losses import ForwardKL, Loss
from pd_lightning.losses.alignment import AnyStudent, AnyTargets, CrossEntropies, kept_mass
from pd_lightning.objective.chunking import chunked_sums
from pd_lightning.objective.closed_form import are_largest
from pd_lightning.objective.position_statistics import FIGURES
from pd_lightning.objective.position_weights import position_weights
from pd_lightning.objective.projection import Asked, Found, Projection
from pd_lightning.objective.terms import Terms
from pd_lightning.schedules import Schedule
from pd_lightning.targets import Form, HiddenTargets, Kind, SparseTargets, Targets
from pd_lightning.targets.blockwise import entropy
from pd_lightning.targets.heads import Head
from pd_lightning.transforms import Transform
from pd_lightning.transforms.shared_vocabulary import SharedVocabulary
from pd_lightning.weightings import Weighting, Weights

_MEANING: dict[Kind, str] = {
    "dense": "all ids",
    "bucket": "the kept ids and one bucket for the tail",
    "renormalized": "the kept ids, renormalized",
    "none": "the kept ids, the tail forgotten",
    "sampled": "sampled ids",
}
_ANY_TEACHER = (Form("dense"), Form("bucket", statistics=None))


class Objective:
    """Mixes the LM loss and the KD loss of every labelled position.

    Args:
        loss: Divergence between student and targets; forward KL by default.
        transforms: What is done to the targets first, by name, in order.
        weighting: What is done to the weights of the two losses position by position, by name, in order.
        chunk_size: Positions whose logits are there at once; by default a function of the vocabulary, the data type
            and the device, see `rows_per_chunk`.

    Raises:
        ValueError: If the chunk size is below 1, two transforms contradict one another, or there is no teacher that
            they and the loss could serve.

    Source: Peng et al. (arXiv 2410.16215), equation 1.
    """

    def __init__(
        self,
        loss: Loss | None = None,
        transforms: Mapping[str, Transform] | None = None,
        weighting: Mapping[str, Weighting] | None = None,
        chunk_size: int | None = None,
    ) -> None:
        self.loss = loss or ForwardKL()
        self.transforms = dict(transforms or {})
        self.weighting = dict(weighting or {})
        self.chunk_size = chunk_size
        self._shared: list[SharedVocabulary] = []
        if chunk_size is not None and chunk_size < 1:
            raise ValueError(f"chunk_size must be at least 1, got {chunk_size}. Set model.chunk_size, or leave it out.")
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
        observed: bool = False,
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
            observed: Whether to give the student's entropy, accuracy and kept mass too.

        Returns:
            Sums in nats, to be divided by the number of labelled positions of the whole optimizer step.
        """
        rows = hidden.flatten(0, 1)
        if targets is None:
            kd_weight = 0.0
        weights = position_weights(
            self.weighting.values(), rows, head, labels, targets, kd_weight, document_ids, self.chunk_size
        )
        part = partial(self._part, head, labels.flatten(), targets, weights, progress or Progress(), observed)
        named: list[str] = []

        def compute(*chunk: Any) -> tuple[Tensor, Tensor]:
            sums = part(*chunk)
            loss = sums.pop("loss")
            named[:] = sums
            return loss, torch.stack([value.detach().to(loss.dtype) for value in sums.values()])

        loss, sums = chunked_sums(compute, rows, head, self.chunk_size)
        return Terms(loss, **dict(zip(named, sums.unbind(), strict=True)))

    def kd_loss(
        self, logits: Tensor, labels: Tensor, said: AnyTargets, progress: Progress | None = None
    ) -> tuple[Tensor, AnyTargets]:
        """Give the KD loss of n positions by itself, unweighted, from logits `[n, V]` with or without a graph.

        Returns:
            The loss of each position, float `[n]`, and the transformed targets that it is of.
        """
        treated, seen = self._transformed(said, Context(logits, labels, progress))
        return self._kd_loss(seen.student_logits, treated), treated

    def _part(
        self,
        head: Head,
        labels: Tensor,
        targets: Targets | None,
        weights: Weights,
        progress: Progress,
        observed: bool,
        projection: Projection | None,
        hidden: Tensor,
        rows: slice,
    ) -> dict[str, Tensor]:
        """Sum what `Terms` holds over the rows whose hidden states are given."""
        labels = labels[rows]
        counted = labels != IGNORE_INDEX
        # Seeded by the chunk too: its rows shall not draw what another chunk's draw.
        progress = replace(progress, draw=(*progress.draw, rows.start or 0))
        ctx = Context(partial(head, hidden), labels, progress, head.vocab_size)
        said = None if targets is None else self._said(targets, rows, projection)
        treated, seen = (None, ctx) if said is None else self._transformed(said, ctx)
        top1 = labels.clamp(min=0) if said is None else said.top1()
        found = self._compared(projection, hidden, ctx, seen, treated, top1, observed)
        lm = torch.where(counted, found.lm_loss, 0.0)
        sums = {"loss": (weights.lm[rows] * lm).sum(), "lm_loss": lm.sum(), "num_tokens": counted.sum()}
        if observed:
            sums["student_entropy"] = torch.where(counted, found.entropy, 0.0).sum()
            sums["top1_accuracy"] = (found.correct & counted).sum()
        if said is None or treated is None:
            return sums
        if said.missing is not None:
            counted = counted & ~said.missing
        kd = self._kd_loss(found.student, treated)
        # Masked by where, not by indexing: the number of labelled positions would be a device sync.
        kd = torch.where(counted, kd, 0.0)
        sums["loss"] = sums["loss"] + (weights.kd[rows] * kd).sum()
        sums |= {"kd_loss": kd.sum(), "agreement": (found.agrees & counted).sum(), "num_targets": counted.sum()}
        if self._shared:
            dropped = torch.zeros_like(lm) if treated.dropped is None else treated.dropped
            sums["dropped_mass"] = torch.where(counted, dropped, 0.0).sum()
        if observed and isinstance(treated, SparseTargets):
            assert not isinstance(found.student, CrossEntropies)
            tau = self.loss.does_without_logits_at(treated)
            with torch.no_grad():
                mass = kept_mass(found.student, treated, 1.0 if tau is None else tau)
            sums["student_kept_mass"] = torch.where(counted, mass, 0.0).sum()
        return sums

    def _said(self, targets: Targets, rows: slice, projection: Projection | None) -> AnyTargets:
        """Give what the teacher says of some rows, in buffers that are there already if they can be used."""
        if projection is None or not isinstance(targets, HiddenTargets):
            return targets.rows(rows)
        # Transforms look for the most probable ids, which is faster where ids lie side by side.
        by_column = projection.by_column and not (self.transforms or self._shared)
        return targets.rows(rows, projection.workspace, by_column)

    def _kd_loss(self, student: AnyStudent, treated: AnyTargets) -> Tensor:
        """Give the KD loss of each position, float `[n]`."""
        kd = self.loss(student, treated)
        if kd.shape != (len(treated),):
            raise ValueError(
                f"A loss must give one number for each of {len(treated)} positions, got {list(kd.shape)}. Correct "
                f"{type(self.loss).__name__} of model.loss."
            )
        return kd if treated.weight is None else kd * treated.weight

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
        observed: bool,
    ) -> Found:
        """Compare a chunk with its labels and its targets."""
        tau = 1.0 if treated is None else self.loss.does_without_logits_at(treated)
        if projection is not None and tau is not None and not seen.has_logits:
            return projection.compare(hidden, treated, Asked(ctx.labels, top1, seen.vocab_size, tau, observed))
        logits = ctx.student_logits
        wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
        lm = F.cross_entropy(wide, ctx.labels, ignore_index=IGNORE_INDEX, reduction="none")
        narrow = logits.detach()
        largest = narrow.amax(dim=-1, keepdim=True)
        agrees, correct = (are_largest(ids, narrow, largest) for ids in (top1, ctx.labels.clamp(min=0)))
        entropies = entropy(wide.detach().log_softmax(dim=-1)) if observed else torch.zeros_like(lm)
        return Found(lm, seen.student_logits, agrees, correct, entropies)
