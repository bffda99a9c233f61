"""Tensors `[n, V]` that are made once, and reductions of them over V without another tensor of their size."""

from collections.abc import Iterator

import torch
from torch import Tensor

# What lies between two operations stays in the cache of a CPU; elsewhere fewer and larger operations count for more.
_CPU_ELEMENTS = 2**18
_DEVICE_ELEMENTS = 2**24


class Workspace:
    """Tensors that one chunk of positions after another uses again: fresh large ones cost page faults on a CPU.

    Args:
        device: Where they lie.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._flat: dict[tuple[str, torch.dtype], Tensor] = {}

    def take(self, name: str, rows: int, width: int, dtype: torch.dtype, by_column: bool = False) -> Tensor:
        """Give a tensor of no particular values; it holds until the same name is taken again.

        Args:
            name: What for.
            rows: Positions.
            width: Ids.
            dtype: Data type.
            by_column: Whether positions, not ids, lie side by side in memory.

        Returns:
            `[rows, width]`.
        """
        flat, size = self._flat.get((name, dtype)), rows * width
        if flat is None or flat.numel() < size:
            flat = self._flat[name, dtype] = torch.empty(size, dtype=dtype, device=self.device)
        return flat[:size].view(width, rows).t() if by_column else flat[:size].view(rows, width)


def lies_by_column(values: Tensor) -> bool:
    """Whether it is positions, not ids, that lie side by side in memory."""
    return values.stride(-1) != 1 and values.stride(0) == 1


def dot(one: Tensor, other: Tensor) -> Tensor:
    """Give Σ one · other over ids, float `[n]`."""
    total = one.new_zeros(len(one))
    for part in _parts(one):
        total += (one[:, part] * other[:, part]).sum(dim=-1)
    return total


def exponentials(logprobs: Tensor, out: Tensor) -> Tensor:
    """Write p into `out`, and give Σ p log p, float `[n]`, from log-probabilities; 0 log 0 is 0."""
    total = logprobs.new_zeros(len(logprobs))
    for part in _parts(logprobs):
        finite = logprobs[:, part].clamp(min=torch.finfo(logprobs.dtype).min)
        total += (torch.exp(finite, out=out[:, part]) * finite).sum(dim=-1)
    return total


def entropy(logits: Tensor) -> Tensor:
    """Give the entropy in nats, float `[n]`, of the distribution of logits that are all about 0 or below it."""
    total, weighted = logits.new_zeros(2, len(logits))
    for part in _parts(logits):
        finite = logits[:, part].clamp(min=torch.finfo(logits.dtype).min)
        exps = finite.exp()
        total += exps.sum(dim=-1)
        weighted += exps.mul_(finite).sum(dim=-1)
    return total.log() - weighted / total


def log_softmax_(logits: Tensor) -> Tensor:
    """Turn logits into log-probabilities, in place; gives log Z, float `[n]`."""
    largest = logits.amax(dim=-1, keepdim=True)
    # Not logits less log Z: where both are large, their difference is off by more than float32 can tell.
    logits.sub_(largest)
    total = logits.new_zeros(len(logits))
    for part in _parts(logits):
        total += logits[:, part].exp().sum(dim=-1)
    log_total = total.log_()
    logits.sub_(log_total.unsqueeze(-1))
    return largest.squeeze(-1) + log_total


def argmax(values: Tensor) -> Tensor:
    """Give the id of the largest value of each position, int64 `[n]`: the first of several."""
    n, V = values.shape
    size = max(1, _CPU_ELEMENTS // max(1, n))
    whole = V // size
    if not lies_by_column(values) or whole < 2:
        return values.argmax(dim=-1)
    # Over ids that don't lie side by side argmax takes ten times as long as amax: so it looks at one block alone.
    blocks = values[:, : whole * size].t().reshape(whole, size, n)
    largest, best = blocks.amax(dim=1).max(dim=0)
    ids = best * size + blocks[best, :, torch.arange(n, device=values.device)].argmax(dim=-1)
    if whole * size < V:
        rest, at = values[:, whole * size :].max(dim=-1)
        ids = torch.where(rest > largest, whole * size + at, ids)
    return ids


def _parts(values: Tensor) -> Iterator[slice]:
    elements = _CPU_ELEMENTS if values.device.type == "cpu" else _DEVICE_ELEMENTS
    size = max(1, elements // max(1, len(values)))
    for start in range(0, values.shape[-1], size):
        yield slice(start, start + size)
