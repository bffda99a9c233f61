"""What is kept of a teacher's logits where ids are drawn at random: an unbiased estimate in a few ids (RS-KD)."""

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pd_lightning.context import Context, Progress
from pd_lightning.selection import COLUMNS, Place, rows_at_a_time, statistics_of
from pd_lightning.targets import DenseTargets, SparseTargets
from pd_lightning.targets.heads import Head
from pd_lightning.transforms.sample_tokens import SampleTokens


@dataclass
class Sampling:
    """Ids drawn with replacement from q ∝ t^s, t the teacher's probabilities.

    The draws are those of the seed, the split and the number of the block, whatever the rank and the batch.

    Args:
        samples: Draws at each position. 50 leave about 12 different ids.
        s: Exponent of the proposal, above 0: 1 draws from the teacher itself, and only how often each id was drawn is
            stored; less draws rare ids more often.
        seed: Seed of the draws.

    Raises:
        ValueError: If `samples` or `s` is not positive, or `seed` is negative.

    Source: Anshumann et al., Sparse Logit Sampling (arXiv 2503.16870).
    """

    samples: int = 50
    s: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise ValueError(f"samples must be at least 1, got {self.samples}. Set model.sampling.samples, to 50 say.")
        if not 0 < self.s < float("inf"):
            raise ValueError(f"s must be positive, got {self.s}. Set model.sampling.s, to 1.0 say.")
        if self.seed < 0:
            raise ValueError(f"seed must be at least 0, got {self.seed}. Set model.sampling.seed.")

    def select(
        self, hidden: Tensor, head: Head, labels: Tensor, places: Sequence[Place]
    ) -> tuple[SparseTargets, Tensor]:
        """Draw from the logits of N positions, a chunk of them at a time.

        Args:
            hidden: The teacher's hidden states, float `[N, D]`.
            head: Maps hidden states `[n, D]` to logits `[n, V]`.
            labels: The next token of each position, int64 `[N]`.
            places: Split and number of each of the blocks that the positions make up.

        Returns:
            The ids drawn with the log of their estimated probabilities, at s = 1 that of c/samples for c draws, and a
            statistic for each of `COLUMNS`; and the number of ids at each position, int64 `[N]`.
        """
        parts = list(self._parts(hidden, head, labels, places))
        targets = SparseTargets(
            ids=torch.cat([part.ids for part in parts]),
            logprobs=torch.cat([part.logprobs for part in parts]),
            kind="sampled",
            statistics={name: torch.cat([part.statistics[name] for part in parts]) for name in COLUMNS},
        )
        return targets, (targets.logprobs > -torch.inf).sum(dim=-1)

    def _parts(self, hidden: Tensor, head: Head, labels: Tensor, places: Sequence[Place]) -> Iterator[SparseTargets]:
        draw = SampleTokens(n=self.samples, s=self.s, seed=self.seed)
        T, size = len(hidden) // len(places), rows_at_a_time(hidden, head)
        for number, (split, block) in enumerate(places):
            for start in range(0, T, size):
                rows = slice(number * T + start, number * T + min(start + size, T))
                logits = head(hidden[rows]).float()
                statistics = statistics_of(logits, labels[rows])
                dense = DenseTargets(logits.log_softmax(dim=-1), statistics=statistics)
                place = Progress(draw=(zlib.crc32(split.encode()), block, start))
                drawn = draw.teacher(dense, Context(logits, labels[rows], place))
                assert isinstance(drawn, SparseTargets)
                yield drawn
