"""Stored blocks in the layout of a project's own batches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils._pytree import tree_leaves

BatchMap = Callable[[dict[str, Tensor]], Any]


class OwnLayout:
    """Gives batches in another layout, once they are on their device, and keeps the one in use as it was.

    Args:
        batch_map: Gives the project's batch for one of ours, see `collate`.
        data: The data, which shall give such batches.
    """

    def __init__(self, batch_map: BatchMap, data: LightningDataModule) -> None:
        self._map = batch_map
        self._batch: dict[str, Tensor] | None = None
        self._mapped: Any = None
        # No method of their class: Lightning would then ask no module for its own.
        data.on_after_batch_transfer = self._transferred  # type: ignore[method-assign]

    def origin(self, batch: Any) -> dict[str, Tensor]:
        """Give the batch that the one in use was made of.

        Args:
            batch: The one in use, or a part of it: containers are made anew on the way to a step.

        Raises:
            ValueError: If it has no tensor of the batch in use: its targets could then not be found.
        """
        if self._batch is None or (batch is not self._mapped and not _tensors(batch) & _tensors(self._mapped)):
            raise ValueError(
                "A batch to distil on must be the one that the data gave, got another. Give the Distiller the batch of "
                "the step as it came, or leave batch_map out of the data and map batches in the step."
            )
        return self._batch

    def _transferred(self, batch: dict[str, Tensor], dataloader_idx: int) -> Any:
        self._batch, self._mapped = batch, self._map(batch)
        return self._mapped


def _tensors(batch: Any) -> set[int]:
    return {id(leaf) for leaf in tree_leaves(batch) if isinstance(leaf, Tensor)}


def as_next_tokens(batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Give token ids and the next tokens, int64 `[B, T]` each: the layout of nanoGPT and its kin.

    Args:
        batch: As TokenBlocks give it.
    """
    return batch["input_ids"], batch["labels"]


def as_hugging_face(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Give `input_ids` and `labels` of the same T positions, int64 `[B, T]`: Hugging Face models shift them.

    Args:
        batch: As TokenBlocks give it. The label of the last position is no input, and is not trained on.
    """
    input_ids, labels = batch["input_ids"], batch["labels"]
    same = input_ids.clone()
    same[:, 1:] = labels[:, :-1]
    return {"input_ids": input_ids, "labels": same}
