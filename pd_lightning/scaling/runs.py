"""Runs that a law is fitted to."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pd_lightning.scaling.laws import Array, Sizes


@dataclass(frozen=True)
class Runs:
    """Runs with their sizes and losses; one entry a run.

    Args:
        sizes: What laws predict from.
        losses: Measured, in nats per token.
        flops: Operations of the student's training, by which runs are ordered.
    """

    sizes: Sizes
    losses: Array
    flops: Array

    def __len__(self) -> int:
        return len(self.losses)

    def take(self, rows: Array) -> Runs:
        """Give some of the runs, by number or by mask."""
        return Runs(self.sizes.take(rows), self.losses[rows], self.flops[rows])

    @property
    def points(self) -> Array:
        """A number `[R]` for each run: runs that differ in nothing but their seed share it."""
        columns = [self.sizes.params, self.sizes.tokens]
        if self.sizes.teacher_loss is not None:
            columns.append(self.sizes.teacher_loss)
        return np.unique(np.stack(columns), axis=1, return_inverse=True)[1].reshape(-1)
