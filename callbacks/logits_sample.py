"""A bounded sample of positions: figures of them, taken while the logits are made."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from pd_lightning.context import IGNORE_INDEX, Progress
from pd_lightning.distiller.student_output import aligned
from pd_lightning.objective.logits_figures import UNKNOWN, WIDTHS, Asked, logits_figures
from pd_lightning.recording.training_batch import uncached_autocast
from pd_lightning.targets import Targets
from pd_lightning.targets.heads import Head

POSITION = "position"
_COLUMNS = {**WIDTHS, POSITION: 1}
_RUN = 128  # positions that are looked at together: targets come in slices


class Sample:
    """Runs of adjoining positions of a batch, drawn at random.

    Args:
        labels: The next token of each position, int64 `[B, T]`; -100 where there is none.
        targets: What the teacher says of them, if there is a teacher.
        asked: What is compared how; what is not known before there are logits may be set then.
        size: Positions to take; all where there are no more.
        progress: How far the run has come; its `draw` decides on the positions.
    """

    def __init__(self, labels: Tensor, targets: Targets | None, asked: Asked, size: int, progress: Progress) -> None:
        self._labels, self._targets, self._progress = labels.clone(), targets, progress  # a step may change its batch
        self.asked = asked
        self._size = size
        self._runs = _drawn(labels.numel(), size, progress.draw)
        self._taken = 0
        self._cut = False
        self._parts: list[Tensor] = []

    def take(self, output: Any, head: Head | None = None) -> None:
        """Take the logits of the next positions, whole or slice after slice; what comes after the last is disregarded.

        Whole ones `[B, T', V]` or `[B · T', V]` may lack the last position of each row, which then counts for nothing;
        and `[B, T', V]` may have one more.

        Args:
            output: Logits, float `[..., V]`, or an output of transformers that has them; with a head, hidden states.
            head: Maps hidden states to logits.

        Raises:
            ValueError: If there are no logits in it.
        """
        tensor = _tensor(output, head)
        if self._taken >= self._labels.numel():
            # What looked like a batch without the last position of each row was the first of two slices.
            rest = tensor.shape[:-1].numel()
            self._taken += rest if self._cut and rest <= len(self._labels) else 0
            return
        rows = self._aligned(tensor).flatten(0, -2)
        start, self._taken = self._taken, self._taken + len(rows)
        with undisturbed(rows.device), torch.no_grad():
            for run in self._runs:
                begin, end = max(run.start, start), min(run.stop, self._taken)
                if begin < end:
                    part = rows[begin - start : end - start]
                    self._look(slice(begin, end), part if head is None else head(part))

    def width(self, output: Any, head: Head | None = None) -> int:
        """Give V, the width of the logits that `take` is given.

        Args:
            output: As of `take`.
            head: As of `take`.

        Raises:
            ValueError: If there are no logits in it, or they are not of the whole vocabulary.
        """
        tensor = _tensor(output, head)
        with undisturbed(tensor.device), torch.no_grad():
            V = tensor.shape[-1] if head is None else head(tensor.flatten(0, -2)[:1]).shape[-1]
        _check_width(self._labels, V)
        return V

    def table(self) -> Tensor:
        """Give the figures, float32 `[size, columns]`; rows beyond the positions of the batch are `UNKNOWN`.

        Raises:
            ValueError: If there were no logits of some positions, or of more than there are.
        """
        if self._taken != self._labels.numel():
            raise ValueError(
                f"There must be logits of each of the batch's {self._labels.numel()} positions, got {self._taken}. Set "
                "module of LogitsStatistics to a submodule that gives them once, and in order, or batch_map to a "
                "function that gives the batch's input_ids as the model takes them."
            )
        return padded(torch.cat(self._parts), self._size)

    def _aligned(self, tensor: Tensor) -> Tensor:
        """Give each position its row, where the logits are whole."""
        B, T = self._labels.shape
        flat = tensor.dim() == 2 and self._taken == 0 and len(tensor) == B * (T - 1)
        if not flat and tensor.shape[:-1] not in ((B, T - 1), (B, T + 1)):
            return tensor
        _, tensor = aligned({"input_ids": self._labels}, tensor)
        if tensor.shape[1] == T:
            return tensor
        self._cut, self._labels[:, -1] = flat, IGNORE_INDEX
        return F.pad(tensor, (0, 0, 0, 1))

    def _look(self, rows: slice, logits: Tensor) -> None:
        labels = self._labels.flatten()[rows]
        _check_width(labels, logits.shape[-1])
        said = None if self._targets is None else self._targets.rows(rows)
        figures = logits_figures(self.asked, logits, labels, said, self._progress)
        at = torch.arange(rows.start, rows.stop, device=logits.device) % self._labels.shape[1]
        figures[POSITION] = at.float()
        empty = logits.new_full((len(labels), max(_COLUMNS.values())), UNKNOWN, dtype=torch.float32)
        columns = [
            figures[name].float().view(len(labels), width) if name in figures else empty[:, :width]
            for name, width in _COLUMNS.items()
        ]
        self._parts.append(torch.cat(columns, dim=1))


def _check_width(labels: Tensor, V: int) -> None:
    largest = int(labels.max())
    if largest >= V:
        raise ValueError(
            f"Logits must be of the whole vocabulary, got {V} of each position for a label {largest}. Set module of "
            "LogitsStatistics to the submodule that makes them."
        )


def _tensor(output: Any, head: Head | None) -> Tensor:
    tensor = getattr(output, "last_hidden_state" if head else "logits", output)
    if not isinstance(tensor, Tensor) or tensor.dim() < 2 or not tensor.is_floating_point():
        raise ValueError(
            f"Logits must be a tensor of shape [..., V], got {type(tensor).__name__}. Set module of LogitsStatistics "
            "to the submodule that makes them."
        )
    return tensor.detach()


def padded(table: Tensor | None, size: int, device: torch.device | None = None) -> Tensor:
    """Give a table of a size, cut or filled up with rows of `UNKNOWN`; all of them where there is none."""
    if table is None:
        table = torch.empty((0, sum(_COLUMNS.values())), device=device)
    return F.pad(table[:size], (0, 0, 0, max(0, size - len(table))), value=UNKNOWN)


def columns(table: Tensor) -> dict[str, Tensor]:
    """Give the figures of a table by name, float `[n]` or `[n, width]`, without those that no position has."""
    parts = dict(zip(_COLUMNS, torch.split(table, list(_COLUMNS.values()), dim=1), strict=True))
    return {name: part.squeeze(1) for name, part in parts.items() if (part != UNKNOWN).any()}


@contextmanager
def undisturbed(device: torch.device) -> Iterator[None]:
    """Leave random numbers and autocast as they are: the training shall not notice what is computed here."""
    gpus = [device.index if device.index is not None else torch.cuda.current_device()] if device.type == "cuda" else []
    with torch.random.fork_rng(gpus), uncached_autocast(device.type):
        yield


def _drawn(N: int, size: int, draw: tuple[int, ...]) -> list[slice]:
    """Draw runs of adjoining positions, of `size` positions together or a few more, in order."""
    width = min(_RUN, size)
    starts = torch.arange(0, N, width)
    generator = torch.Generator().manual_seed(hash(draw) % 2**63)
    chosen = torch.randperm(len(starts), generator=generator)[: -(-size // width)]
    return [slice(start, min(start + width, N)) for start in starts[chosen].sort().values.tolist()]
