"""What a teacher says of each position: the one currency between teachers, transforms and losses."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Protocol

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Head:
    """The last step of a language model, from hidden states to logits.

    Args:
        project: Maps hidden states `[n, D]` to logits `[n, V]`, each row by itself.
        parameters: The parameters that it uses, to be trained or not.
        vocab_size: V, or None where it is not known beforehand.
    """

    project: Callable[[Tensor], Tensor]
    parameters: tuple[nn.Parameter | Tensor, ...] = ()
    vocab_size: int | None = None

    def __call__(self, hidden: Tensor) -> Tensor:
        """Map hidden states `[n, D]` to logits `[n, V]`."""
        return self.project(hidden)


class Targets(Protocol):
    """Targets of N positions; `rows` gives those of a slice of them, ready for transforms and losses."""

    def __len__(self) -> int: ...

    def rows(self, rows: slice) -> "SparseTargets | DenseTargets":
        """Give the targets of a slice of positions."""
        ...


@dataclass
class SparseTargets:
    """The teacher's log-probabilities of a few ids at each position.

    Args:
        ids: Token ids, int64 `[N, K]`. An unused slot repeats an id of its row.
        logprobs: Their log-probabilities in nats, float `[N, K]`; -inf in unused slots.
        log_tail: Log of the probability of all other ids together, float `[N]`. None where nothing is known or
            wanted of them: the kept probabilities stand alone then.
        temperature: What log-probabilities are still to be divided by, on both sides, before they are compared.
        statistics: The teacher's figures for each position over its whole vocabulary, float `[N]` each.
    """

    ids: Tensor
    logprobs: Tensor
    log_tail: Tensor | None = None
    temperature: float = 1.0
    statistics: dict[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return self.ids.shape[0]

    def rows(self, rows: slice) -> "SparseTargets":
        """Give the targets of a slice of positions; the tensors are views."""
        return replace(
            self,
            ids=self.ids[rows],
            logprobs=self.logprobs[rows],
            log_tail=None if self.log_tail is None else self.log_tail[rows],
            statistics={name: values[rows] for name, values in self.statistics.items()},
        )

    def top1(self) -> Tensor:
        """Give the most probable id of each position, int64 `[N]`."""
        best = self.logprobs.argmax(dim=-1, keepdim=True)
        return self.ids.gather(-1, best).squeeze(-1)


@dataclass
class DenseTargets:
    """The teacher's log-probabilities over the whole vocabulary.

    Args:
        logprobs: Log-probabilities in nats at temperature 1, float `[N, V]`.
        temperature: What they are still to be divided by, on both sides, before they are compared.
    """

    logprobs: Tensor
    temperature: float = 1.0

    def __len__(self) -> int:
        return self.logprobs.shape[0]

    def rows(self, rows: slice) -> "DenseTargets":
        """Give the targets of a slice of positions; the tensor is a view."""
        return replace(self, logprobs=self.logprobs[rows])

    def top1(self) -> Tensor:
        """Give the most probable id of each position, int64 `[N]`."""
        return self.logprobs.argmax(dim=-1)


@dataclass
class HiddenTargets:
    """A teacher's hidden states and head, from which one slice of dense targets at a time is made.

    Args:
        hidden: Last hidden states, float `[N, D]`.
        head: Maps hidden states `[n, D]` to logits `[n, V]`.
    """

    hidden: Tensor
    head: Head

    def __len__(self) -> int:
        return self.hidden.shape[0]

    @torch.no_grad()
    def rows(self, rows: slice) -> DenseTargets:
        """Make the dense targets of a slice of positions, so that no `[N, V]` tensor need exist."""
        logits = self.head(self.hidden[rows])
        dtype = torch.promote_types(logits.dtype, torch.float32)
        return DenseTargets(logits.log_softmax(dim=-1, dtype=dtype))
