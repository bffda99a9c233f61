"""What is kept of a teacher's logits: the most probable ids, and figures over the whole vocabulary."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pd_lightning.targets import STATISTICS, SparseTargets
from pd_lightning.targets.heads import Head
from pd_lightning.transforms.top_pk import cut

COLUMNS = STATISTICS
Place = tuple[str, int]  # split, number of the block in it
# On a CPU small buffers are used again and again, where fresh large ones cost a page fault every 4 kB; a GPU wants
# large ones.
_CHUNK_BYTES = {"cpu": 4 * 2**20}
_LARGE_CHUNK_BYTES = 256 * 2**20


@dataclass
class Selection:
    """Which ids of a position are kept: the fewest whose probability reaches p, at least min_k and at most k.

    Args:
        p: Probability to reach, in (0, 1]; 1 keeps k ids everywhere.
        k: Most ids to keep at a position; the size of the vocabulary keeps all.
        min_k: Fewest ids to keep at a position.

    Raises:
        ValueError: If p is outside (0, 1], or not 1 <= min_k <= k.
    """

    p: float = 0.95
    k: int = 100
    min_k: int = 1

    def __post_init__(self) -> None:
        if not 0 < self.p <= 1:
            raise ValueError(f"p must be in (0, 1], got {self.p}. Set model.selection.p, to 0.95 say.")
        if not 1 <= self.min_k <= self.k:
            raise ValueError(
                f"k and min_k must satisfy 1 <= min_k <= k, got k {self.k} and min_k {self.min_k}. Set "
                "model.selection.k and model.selection.min_k."
            )

    def select(
        self, hidden: Tensor, head: Head, labels: Tensor, places: Sequence[Place] = ()
    ) -> tuple[SparseTargets, Tensor]:
        """Select from the logits of N positions, a chunk of them at a time.

        Args:
            hidden: The teacher's hidden states, float `[N, D]`.
            head: Maps hidden states `[n, D]` to logits `[n, V]`.
            labels: The next token of each position, int64 `[N]`.
            places: Where the positions' blocks are: of no consequence here, where nothing is drawn at random.

        Returns:
            The kept ids, most probable first, with true log-probabilities, the tail and a statistic for each of
            `COLUMNS`; and the number kept at each position, int64 `[N]`.
        """
        size = rows_at_a_time(hidden, head)
        parts = [self._chunk(head(hidden[i : i + size]), labels[i : i + size]) for i in range(0, len(hidden), size)]
        tails = [part.log_tail for part in parts if part.log_tail is not None]
        targets = SparseTargets(
            ids=torch.cat([part.ids for part in parts]),
            logprobs=torch.cat([part.logprobs for part in parts]),
            log_tail=torch.cat(tails),
            statistics={name: torch.cat([part.statistics[name] for part in parts]) for name in COLUMNS},
        )
        return targets, (targets.logprobs > -torch.inf).sum(dim=-1)

    def _chunk(self, logits: Tensor, labels: Tensor) -> SparseTargets:
        logits = logits.float()
        statistics = statistics_of(logits, labels)
        values, ids = logits.topk(min(self.k, logits.shape[-1]), dim=-1)
        log_z = statistics["log_z"]
        ids, logprobs = cut(ids, values - log_z.unsqueeze(-1), self.p, self.min_k)
        # Not 1 - Σ p, of which rounding leaves nothing where the teacher is sure.
        log_tail = logits.scatter(-1, ids, -torch.inf).logsumexp(dim=-1) - log_z
        return SparseTargets(ids, logprobs, log_tail, statistics=statistics)


def rows_at_a_time(hidden: Tensor, head: Head) -> int:
    """Give how many positions to compute the logits of at a time: a pure function of the vocabulary and the device."""
    vocab_size = head(hidden[:1]).shape[-1]
    return max(1, _CHUNK_BYTES.get(hidden.device.type, _LARGE_CHUNK_BYTES) // (4 * vocab_size))


def statistics_of(logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Compute each of `COLUMNS` for n positions.

    Args:
        logits: The teacher's logits, float32 `[n, V]`.
        labels: The next token of each position, int64 `[n]`.

    Returns:
        Figures in nats, float32 `[n]`, by name; `mean` and `std` are those of the possible ids, whose logits are not
        -inf.
    """
    log_z = logits.logsumexp(dim=-1)
    mean, std = _moments(logits)
    return {
        "log_z": log_z,
        "mean": mean - log_z,
        "std": std,
        "entropy": log_z - _expected(logits, log_z),
        "label_logprob": logits.gather(-1, labels.unsqueeze(-1)).squeeze(-1) - log_z,
    }


def _moments(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of the logits that are not -inf, as some models have them at padding ids."""
    mean = logits.mean(dim=-1)
    # One wait for the device costs less than a mask of all logits, which hardly any model needs.
    if not mean.isneginf().any():
        return mean, (logits - mean.unsqueeze(-1)).square_().mean(dim=-1).sqrt()
    impossible = logits.isneginf()
    count = logits.shape[-1] - impossible.sum(dim=-1)
    mean = logits.masked_fill(impossible, 0.0).sum(dim=-1) / count
    squares = (logits - mean.unsqueeze(-1)).masked_fill_(impossible, 0.0).square_()
    return mean, (squares.sum(dim=-1) / count).sqrt()


def _expected(logits: Tensor, log_z: Tensor) -> Tensor:
    """Expected logit under the softmax: entropy is log Z minus it."""
    probs = (logits - log_z.unsqueeze(-1)).exp_()
    # An impossible id has logit -inf and probability 0, and counts for nothing.
    return torch.linalg.vecdot(probs, logits.clamp(min=torch.finfo(logits.dtype).min))
