"""What a teacher says of each position: the one currency between teachers, transforms and losses."""

from collections.abc import Iterable
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, Protocol, TypeVar

import torch
from torch import Tensor

from pd_lightning.targets.blockwise import Workspace, argmax, entropy, log_softmax_
from pd_lightning.targets.heads import Head

# What is known of the ids that are not kept. `dense`: all are kept. `bucket`: their probability together.
# `renormalized`: they are held to be impossible. `none`: nothing. `sampled`: what is kept estimates all of them.
Kind = Literal["dense", "bucket", "renormalized", "none", "sampled"]
# Figures of a position over the teacher's whole vocabulary, that a logit store keeps. `mean` is that of the
# log-probabilities: the mean logit minus log Z.
STATISTICS = ("log_z", "mean", "std", "entropy", "label_logprob")
AnyTemperature = float | Tensor


@dataclass(frozen=True)
class Form:
    """What is known of targets before there are any: transforms and losses are checked against it at set-up.

    Args:
        kind: What is known of the ids that are not kept.
        statistics: Names of the teacher's figures that come with the targets; None where that is not known yet.
        vocab_size: V, or None where it is not known yet.
        selection: The p and k up to which ids were kept, and the fewest; None where all are known, or it is not said.
        whole: Whether dense targets are the teacher's own, and nothing of them was cut off before.
        has_logits: Whether log-probabilities plus log Z still are logits of the teacher, changed by no mixing.
        divided_by: Name of the transform that already set a temperature of its own, if one did.
        two_sided: Name of the transform that gives the student a temperature of its own, if one does.
        final: Name of the transform after which no temperature may come, if there is one.
        tempered: Whether a temperature was set.
        standardized: Whether a loss on logits shall compare them less their mean.
    """

    kind: Kind
    statistics: frozenset[str] | None = frozenset(STATISTICS)
    vocab_size: int | None = None
    selection: tuple[float, int, int] | None = None
    whole: bool = True
    tempered: bool = False
    has_logits: bool = True
    divided_by: str | None = None
    two_sided: str | None = None
    final: str | None = None
    standardized: bool = False

    def require_kind(self, kinds: Iterable[Kind], who: str, instead: str) -> None:
        """Refuse targets of a kind that `who` cannot work with.

        Raises:
            ValueError: Naming who, the kind, and what to use instead.
        """
        kinds = tuple(kinds)
        if self.kind not in kinds:
            raise ValueError(f"{who} must have {_listed(kinds)} targets, got {self.kind} ones. {instead}")

    def require_statistic(self, name: str, who: str) -> None:
        """Refuse a store that lacks a figure; dense targets have them all.

        Raises:
            ValueError: Naming who and the figure.
        """
        if self.kind != "dense" and self.statistics is not None and name not in self.statistics:
            raise ValueError(
                f"{who} must have the teacher's {name} at each position, got "
                f"{', '.join(sorted(self.statistics)) or 'none of its figures'}. Record the logits again if the store "
                "lacks that column, or leave out Clip, after which it is not known."
            )


class Targets(Protocol):
    """Targets of N positions; `rows` gives those of a slice of them, ready for transforms and losses."""

    @property
    def missing(self) -> Tensor | None:
        """Where there are none, bool `[N]`; None for nowhere."""
        ...

    def __len__(self) -> int: ...

    def rows(self, rows: slice) -> "SparseTargets | DenseTargets":
        """Give the targets of a slice of positions."""
        ...


@dataclass(kw_only=True)
class _Treatment:
    """What transforms ask of the loss.

    Args:
        temperature: What the teacher's log-probabilities are still to be divided by before they are compared: a
            number, or one of each position, float `[N]`.
        student_temperature: The same for the student's logits; None for the teacher's.
        compensation: What a loss with `temperature_squared` is multiplied by, since gradients shrink as
            1/temperature²: a number, or one of each position, float `[N]`.
        weight: Factor of each position's loss, float `[N]`; None for 1.
        missing: Where the teacher said nothing, bool `[N]`: such positions hold targets of no meaning, and are trained
            on the LM loss alone. None for nowhere.
        standardized: Whether a loss on logits shall compare them less their mean.
        dropped: Probability that the teacher gives to ids that the student lacks, float `[N]`; None for 0.
        statistics: The teacher's figures for each position over its whole vocabulary, float `[N]` each.
        origin: The dense targets that these were made of by truncation or smoothing, for figures not among
            `statistics`; None where there are none.
    """

    temperature: AnyTemperature = 1.0
    student_temperature: AnyTemperature | None = None
    compensation: AnyTemperature = 1.0
    weight: Tensor | None = None
    missing: Tensor | None = None
    standardized: bool = False
    dropped: Tensor | None = None
    statistics: dict[str, Tensor] = field(default_factory=dict)
    origin: "DenseTargets | None" = None


@dataclass
class SparseTargets(_Treatment):
    """The teacher's log-probabilities of a few ids at each position.

    Args:
        ids: Token ids, int64 `[N, K]`. An unused slot repeats an id of its row.
        logprobs: Their log-probabilities in nats, float `[N, K]`; -inf in unused slots.
        log_tail: Log of the probability of all other ids together, float `[N]`, where `kind` is `bucket`; else None.
        kind: What is known of the other ids.
    """

    ids: Tensor
    logprobs: Tensor
    log_tail: Tensor | None = None
    kind: Kind = "bucket"

    def __post_init__(self) -> None:
        assert (self.log_tail is not None) == (self.kind == "bucket"), f"{self.kind} targets and their tail"

    def __len__(self) -> int:
        return self.ids.shape[0]

    def rows(self, rows: slice) -> "SparseTargets":
        """Give the targets of a slice of positions; the tensors are views."""
        return _sliced(self, rows)

    def top1(self) -> Tensor:
        """Give the most probable id of each position, int64 `[N]`."""
        best = self.logprobs.argmax(dim=-1, keepdim=True)
        return self.ids.gather(-1, best).squeeze(-1)

    def spread(self, vocab_size: int) -> "DenseTargets":
        """Spread the tail evenly over all V ids that are not kept; the rest of the targets goes along."""
        assert self.log_tail is not None
        empty = self.logprobs.new_full((len(self), vocab_size), -torch.inf)
        kept = empty.scatter_reduce(-1, self.ids, self.logprobs, "amax")  # an unused slot repeats a kept id
        others = (kept == -torch.inf).sum(dim=-1).clamp(min=1)
        each = (self.log_tail - others.to(self.log_tail).log()).unsqueeze(-1)
        return DenseTargets(torch.where(kept > -torch.inf, kept, each), **_treatment(self))

    def statistic(self, name: str, labels: Tensor | None = None) -> Tensor:
        """Give one of `STATISTICS` for each position, float `[N]`.

        Raises:
            ValueError: If the targets came without it.
        """
        if name in self.statistics:
            return self.statistics[name]
        if self.origin is None:
            Form(self.kind, frozenset(self.statistics)).require_statistic(name, "These transforms")
        assert self.origin is not None
        return self.origin.statistic(name, labels)

    def knows(self, name: str) -> bool:
        """Tell whether `statistic` has a figure."""
        return name in self.statistics or self.origin is not None


@dataclass
class DenseTargets(_Treatment):
    """The teacher's log-probabilities over the whole vocabulary.

    Args:
        logprobs: Log-probabilities in nats at temperature 1, float `[N, V]`.
    """

    logprobs: Tensor

    kind: Kind = field(default="dense", init=False)

    def __len__(self) -> int:
        return self.logprobs.shape[0]

    def rows(self, rows: slice) -> "DenseTargets":
        """Give the targets of a slice of positions; the tensor is a view."""
        return _sliced(self, rows)

    def top1(self) -> Tensor:
        """Give the most probable id of each position, int64 `[N]`."""
        return argmax(self.logprobs)

    def keep(self, ids: Tensor, logprobs: Tensor) -> SparseTargets:
        """Keep a few ids, int64 `[N, K]`, with their log-probabilities, float `[N, K]`; the others are not known."""
        return SparseTargets(ids, logprobs, kind="none", **{**_treatment(self), "origin": self.source})

    @property
    def source(self) -> "DenseTargets":
        """The targets that `statistic` computes figures of: these, or those that they were made of."""
        return self if self.origin is None else self.origin

    def statistic(self, name: str, labels: Tensor | None = None) -> Tensor:
        """Give one of `STATISTICS` for each position, float `[N]`; `label_logprob` asks for the labels, int64 `[N]`."""
        if name in self.statistics:
            return self.statistics[name]
        if self.origin is not None:
            return self.origin.statistic(name, labels)
        if name == "label_logprob":
            assert labels is not None
            return self.logprobs.gather(-1, labels.clamp(min=0).unsqueeze(-1)).squeeze(-1)
        assert name in ("mean", "std", "entropy"), f"{name} is not to be had from log-probabilities"
        if name == "entropy":
            return entropy(self.logprobs)
        return self.logprobs.mean(dim=-1) if name == "mean" else self.logprobs.std(dim=-1, correction=0)


@dataclass
class HiddenTargets:
    """A teacher's hidden states and head, from which one slice of dense targets at a time is made.

    Args:
        hidden: Last hidden states, float `[N, D]`.
        head: Maps hidden states `[n, D]` to logits `[n, V]`.
    """

    hidden: Tensor
    head: Head

    missing: None = field(default=None, init=False)

    def __len__(self) -> int:
        return self.hidden.shape[0]

    @torch.no_grad()
    def rows(self, rows: slice, workspace: Workspace | None = None, by_column: bool = False) -> DenseTargets:
        """Make the dense targets of a slice of positions, so that no `[N, V]` tensor need exist.

        Args:
            rows: The slice.
            workspace: Where to make them; they hold until the next slice is asked for. By default they are kept.
            by_column: Whether positions, not ids, shall lie side by side in memory.
        """
        hidden, linear, out = self.hidden[rows], self.head.linear, None
        if workspace is None or linear is None:
            logits = self.head(hidden)
            logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        else:
            shape, wide = (len(hidden), len(linear.weight)), torch.promote_types(linear.weight.dtype, torch.float32)
            logits = linear.write(hidden, workspace.take("teacher's logits", *shape, wide, by_column))
            if by_column:
                return DenseTargets(logits, statistics={"log_z": log_softmax_(logits)})
            out = workspace.take("teacher", *shape, wide)
        # Not logits less log Z: where both are large, their difference is off by more than float32 can tell.
        logprobs = torch.log_softmax(logits, dim=-1, out=out)
        # What logsumexp gives, without another tensor of this size.
        log_z = logits.amax(dim=-1) - logprobs.amax(dim=-1)
        return DenseTargets(logprobs, statistics={"log_z": log_z})


_T = TypeVar("_T", SparseTargets, DenseTargets)


def _sliced(targets: _T, rows: slice) -> _T:
    values = {f.name: getattr(targets, f.name) for f in fields(targets) if f.init}
    return replace(targets, **{name: _part(value, rows) for name, value in values.items()})


def _treatment(targets: _Treatment) -> dict[str, Any]:
    return {f.name: getattr(targets, f.name) for f in fields(_Treatment)}


def _part(value: Any, rows: slice) -> Any:
    if isinstance(value, dict):
        return {name: part[rows] for name, part in value.items()}
    if isinstance(value, DenseTargets):
        return value.rows(rows)
    return value[rows] if isinstance(value, Tensor) else value


def _listed(kinds: tuple[Kind, ...]) -> str:
    return kinds[0] if len(kinds) == 1 else f"{', '.join(kinds[:-1])} or {kinds[-1]}"
