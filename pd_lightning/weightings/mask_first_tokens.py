"""Masks where there is too little context to predict from."""

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from pd_lightning.weightings.base import Positions, Weighting, Weights

Losses = Literal["both", "lm", "kd"]


class MaskFirstTokens(Weighting):
    """Leave out the first predictions of each block.

    Args:
        count: Predictions to leave out.
        losses: Which losses leave them out.

    Raises:
        ValueError: If `count` is no positive number.
    """

    def __init__(self, count: int = 1, losses: Losses = "both") -> None:
        if count < 1:
            raise ValueError(
                f"count must be at least 1, got {count}. Set init_args.count of {type(self).__name__}, or leave its "
                "entry out of model.weighting."
            )
        self.count = count
        self.losses = losses

    def __call__(self, weights: Weights, positions: Positions) -> Weights:
        """Set the weights of the first positions to 0."""
        first = self.first(positions)
        lm = weights.lm if self.losses == "kd" else weights.lm.masked_fill(first, 0.0)
        kd = weights.kd if self.losses == "lm" else weights.kd.masked_fill(first, 0.0)
        return Weights(lm, kd)

    def first(self, positions: Positions) -> Tensor:
        """Find the positions to leave out, bool `[B, T]`.

        Raises:
            ValueError: If nothing would be left of a block.
        """
        counted = positions.counted
        if self.count >= counted.shape[-1]:
            raise ValueError(
                f"count must be below the {counted.shape[-1]} positions of a block, got {self.count}. Lower "
                "init_args.count of MaskFirstTokens."
            )
        return (torch.arange(counted.shape[-1], device=counted.device) < self.count).expand_as(counted)


class MaskDocumentStarts(MaskFirstTokens):
    """Leave out the predictions of the first tokens of each document, the first of which nothing foretells.

    A block that begins in the middle of a document has no start there.

    Args:
        count: Tokens of each document whose predictions are left out.
        losses: Which losses leave them out.

    Raises:
        ValueError: If `count` is no positive number.
    """

    def first(self, positions: Positions) -> Tensor:
        """Find the positions whose next token is among the first of its document, bool `[B, T]`.

        Raises:
            ValueError: If the data don't tell documents apart.
        """
        ids = positions.document_ids
        if ids is None:
            raise ValueError(
                "MaskDocumentStarts must know where documents begin, got batches without document_ids. Let the data "
                "give document_ids, int64 [B, T+1], as pd_lightning.data.TokenBlocks does, or leave it out of "
                "model.weighting."
            )
        # The last position of a document, its end-of-text, is the one that predicts the next one's first token.
        first = ends = ids[:, 1:] != ids[:, :-1]
        for offset in range(1, min(self.count, ends.shape[-1])):
            first = first | F.pad(ends[:, :-offset], (offset, 0))
        return first
