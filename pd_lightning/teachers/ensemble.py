"""Several teachers as one: the weighted mean of what they say."""

import hashlib
import json
import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial, reduce
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from pd_lightning.targets import Form, HiddenTargets
from pd_lightning.targets.heads import Head
from pd_lightning.teachers.base import Batch, Surroundings, Teacher

_KEY = "model.teacher.init_args"


class TeacherEnsemble(Teacher):
    """Asks several live teachers, and gives the weighted mean of their distributions.

    The mean is made of a chunk of positions at a time, as one teacher's targets are. Its logits, for a loss on logits,
    are its log-probabilities for an `arithmetic` mean, and the mean logits for a `geometric` one.

    Args:
        teachers: The teachers, by a name of your own: FrozenTeacher, or another that computes its logits. All use the
            data's tokenizer.
        weights: How much each counts, by name, for instance 2 and 1; by default all the same. A teacher of weight 0 is
            left out.
        mean: `arithmetic` for Σ w·p, which gives an id what any teacher gives it; `geometric` for Π p^w, normalised,
            which gives an id little where one teacher does.

    Raises:
        ValueError: If there is no teacher, a teacher does not compute its logits, or weights don't fit.
    """

    def __init__(
        self,
        teachers: dict[str, Teacher],
        weights: dict[str, float] | None = None,
        mean: Literal["arithmetic", "geometric"] = "arithmetic",
    ) -> None:
        for name, teacher in teachers.items():
            if teacher.form is None or teacher.form.kind != "dense":
                raise ValueError(
                    f"teachers of TeacherEnsemble must compute their logits, got {type(teacher).__name__} as {name}. "
                    f"Set {_KEY}.teachers.{name} to pd_lightning.teachers.FrozenTeacher."
                )
        self.weights = _normalized(teachers, weights)
        self.teachers = {name: teachers[name] for name in self.weights}
        self.mean = mean
        self._is_set_up = False

    @property
    def name(self) -> str:
        """Names and weights of the teachers."""
        return " + ".join(f"{weight:.4g} {name}" for name, weight in self.weights.items())

    @property
    def form(self) -> Form:
        """All ids, and all statistics."""
        return Form("dense", vocab_size=self.shared_vocab_size or self.vocab_size if self._is_set_up else None)

    @property
    def vocab_size(self) -> int | None:
        """Ids that all teachers have logits for, or None where none of them tells."""
        known = [width for teacher in self.teachers.values() if (width := teacher.vocab_size) is not None]
        return min(known, default=None)

    def setup(self, surroundings: Surroundings) -> None:
        """Set each teacher up, and check that all have the same vocabulary.

        Raises:
            ValueError: If their logits differ by more than padding, or one does not fit; see FrozenTeacher.
        """
        for name, teacher in self.teachers.items():
            with _named(name):
                teacher.setup(surroundings)
        self._check_vocabulary(surroundings)

    def rehearse(self, surroundings: Surroundings) -> None:
        """Check what `setup` checks, without weights.

        Raises:
            ValueError: As of `setup`.
        """
        for name, teacher in self.teachers.items():
            with _named(name):
                teacher.rehearse(surroundings)
        self._check_vocabulary(surroundings)

    def _check_vocabulary(self, surroundings: Surroundings) -> None:
        self._is_set_up = True
        widths = {name: teacher.vocab_size for name, teacher in self.teachers.items()}
        known, tokens = {width for width in widths.values() if width is not None}, surroundings.tokenizer_vocab_size
        if len(known) > 1 and (tokens is None or tokens > min(known)):
            found = " and ".join(f"{width} ids ({name})" for name, width in widths.items())
            raise ValueError(
                f"teachers of TeacherEnsemble must share a vocabulary, got {found}"
                f"{'' if tokens is None else f' for {tokens} tokens'}. Set {_KEY}.teachers to models of the data's "
                "tokenizer."
            )
        self.shared_vocab_size = surroundings.shared_with(self.vocab_size)

    @torch.no_grad()
    def __call__(self, batch: Batch) -> HiddenTargets:
        """Run the teachers over a batch.

        Args:
            batch: As of FrozenTeacher.

        Returns:
            Dense targets of N = B·T positions: the hidden states of all teachers side by side, from which the mean is
            made as it is needed.
        """
        started = time.perf_counter()
        targets = [self._ask(name, batch) for name in self.teachers]
        if len(targets) > 1:
            targets = [self._side_by_side(targets)]
        self.forward_seconds += time.perf_counter() - started
        return targets[0]

    def describe(self) -> dict[str, object]:
        """What each teacher says of itself, the weights, and a digest of it all."""
        parts = {name: teacher.describe() for name, teacher in self.teachers.items()}
        what = [self.mean, self.weights, {name: part.get("weights_digest") for name, part in parts.items()}]
        digest = hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()
        return {
            "kind": type(self).__name__,
            "name": self.name,
            "mean": self.mean,
            "weights": self.weights,
            "teachers": parts,
            "vocab_size": self.vocab_size,
            "weights_digest": f"sha256:{digest}",
        }

    def _ask(self, name: str, batch: Batch) -> HiddenTargets:
        targets = self.teachers[name](batch)
        if not isinstance(targets, HiddenTargets):
            raise ValueError(
                f"teachers of TeacherEnsemble must give hidden states and a head, got {type(targets).__name__} from "
                f"{name}. Set {_KEY}.teachers.{name} to pd_lightning.teachers.FrozenTeacher."
            )
        return targets

    def _side_by_side(self, targets: list[HiddenTargets]) -> HiddenTargets:
        parts = [_Part(t.head, t.hidden.shape[-1], t.hidden.dtype, t.hidden.device) for t in targets]
        # A wider type holds any narrower number as it is; each head is given its own back.
        dtype = reduce(torch.promote_types, (part.dtype for part in parts))
        hidden = torch.cat([t.hidden.to(targets[0].hidden.device, dtype) for t in targets], dim=-1)
        return HiddenTargets(hidden, Head(partial(self._mean, parts), vocab_size=self.vocab_size))

    @torch.no_grad()
    def _mean(self, parts: list["_Part"], hidden: Tensor) -> Tensor:
        """Give logits of the mean, float32 `[n, V]`, from the teachers' hidden states side by side."""
        started = time.perf_counter()
        total: Tensor | None = None
        own = torch.split(hidden, [part.width for part in parts], dim=-1)
        for part, states, weight in zip(parts, own, self.weights.values(), strict=True):
            logits = part.head(states.to(part.device, part.dtype))[:, : self.vocab_size]
            logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
            if self.mean == "geometric":
                total = logits * weight if total is None else total.add_(logits, alpha=weight)
            else:
                logprobs = torch.log_softmax(logits, dim=-1).add_(math.log(weight))
                total = logprobs if total is None else torch.logaddexp(total, logprobs, out=total)
        assert total is not None
        self.forward_seconds += time.perf_counter() - started
        return total


@contextmanager
def _named(name: str) -> Iterator[None]:
    """Has a teacher's complaint name the key that it has here."""
    try:
        yield
    except (ValueError, FileNotFoundError) as error:
        raise type(error)(str(error).replace(_KEY, f"{_KEY}.teachers.{name}.init_args")) from error


class _Part(NamedTuple):
    """What it takes to give a teacher's head its own hidden states back."""

    head: Head
    width: int
    dtype: torch.dtype
    device: torch.device


def _normalized(teachers: Mapping[str, Any], weights: dict[str, float] | None) -> dict[str, float]:
    if not teachers:
        raise ValueError(f"TeacherEnsemble must have a teacher, got none. Set {_KEY}.teachers.")
    weights = dict.fromkeys(teachers, 1.0) if weights is None else weights
    if weights.keys() != teachers.keys():
        raise ValueError(
            f"weights of TeacherEnsemble must name its teachers {', '.join(teachers)}, got {', '.join(weights)}. "
            f"Correct {_KEY}.weights."
        )
    total = sum(weights.values())
    if min(weights.values()) < 0 or not 0 < total < math.inf:
        raise ValueError(
            f"weights of TeacherEnsemble must be 0 or more, one of them above, got {list(weights.values())}. Correct "
            f"{_KEY}.weights."
        )
    return {name: weights[name] / total for name in teachers if weights[name] > 0}
