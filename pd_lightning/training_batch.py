"""What a module in training says of one batch, taken while it says it."""

from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pd_lightning.data.batch import LABELLED
from pd_lightning.heads import Head
from pd_lightning.recording_batches import as_blocks
from pd_lightning.recording_targets import Encoded
from pd_lightning.store_format import StoreFormat
from pd_lightning.targets import SparseTargets


class TrainingBatch:
    """Takes logits as they come, whole or slice after slice of the positions, and keeps what the selection keeps.

    Args:
        batch: The batch that is trained on, with `input_ids`, int64 `[B, T]`, and maybe `labels`, int64 `[B, T]`,
            shifted already.
        step: Optimizer steps that the module has taken.
        form: What is kept at each position, and how.

    Raises:
        ValueError: If the batch has no token ids.
    """

    def __init__(self, batch: Any, step: int, form: StoreFormat) -> None:
        ids = batch.get("input_ids") if isinstance(batch, Mapping) else None
        if not isinstance(ids, Tensor) or ids.dim() != 2:
            found = ", ".join(map(str, batch)) if isinstance(batch, Mapping) else type(batch).__name__
            raise ValueError(
                f"Batches must be dictionaries with token ids `input_ids` of shape [B, T] to be recorded, got {found}. "
                "Let the data give them, or leave out LogitsRecorder."
            )
        self.vocab_size = 0
        self._batch = batch
        self.step = step
        self._form = form
        labels = batch["labels"] if "labels" in batch else ids.roll(-1, 1)
        self._labels = labels.flatten().clamp(min=0)
        self._parts: list[SparseTargets] = []
        self._taken = 0

    @torch.no_grad()
    def take(self, output: Any, head: Head | None = None) -> None:
        """Take the logits of the next positions; what comes after the last one is disregarded.

        Args:
            output: Logits, float `[..., V]`, or an output of transformers that has them; with a head, hidden states.
            head: Maps hidden states to logits.

        Raises:
            ValueError: If there are no logits in it, or they are not of these positions.
        """
        if self._taken == len(self._labels):
            return  # checkpointed activations: the backward pass computes them once more
        tensor = getattr(output, "last_hidden_state" if head else "logits", output)
        if not isinstance(tensor, Tensor) or tensor.dim() < 2 or not tensor.is_floating_point():
            raise ValueError(
                f"Logits must be a tensor of shape [..., V], got {type(tensor).__name__}. Set module or output of "
                "LogitsRecorder to where the logits are."
            )
        rows = tensor.detach().flatten(0, -2)
        labels = self._labels[self._taken : self._taken + len(rows)]
        self._taken += len(rows)
        if self._taken > len(self._labels):
            raise ValueError(self._other_positions())
        head = head or Head(lambda logits: logits)
        with _uncached_autocast(rows.device.type):
            selected, _ = self._form.selection.select(rows, head, labels, [])
            self.vocab_size = self.vocab_size or head(rows[:1]).shape[-1]
        self._parts.append(selected)

    def blocks(self, eos_token_id: int, plain: bool) -> Iterator[Encoded]:
        """Encode the blocks of the batch, but for those without a label.

        Args:
            eos_token_id: Stored as the label of a last position that has none.
            plain: Whether labels are missing in padding blocks alone, so that no column need tell where.

        Raises:
            ValueError: If there were no logits of some positions, or the batch is none that a store can hold.
        """
        if self._taken < len(self._labels):
            raise ValueError(self._other_positions())
        keys = ("input_ids", "labels") if plain else tuple(self._batch)
        tensors = as_blocks({key: self._batch[key] for key in keys}, self.vocab_size, eos_token_id)
        labelled = tensors.get(LABELLED)
        T = self._batch["input_ids"].shape[1]
        for row, (ids, labels) in enumerate(zip(tensors["input_ids"], tensors["labels"], strict=True)):
            if labelled is not None and not labelled[row].any():
                continue
            columns = {} if plain or labelled is None else {LABELLED: labelled[row].float().numpy()}
            block = np.concatenate([ids[:1].numpy(), labels.numpy()])
            yield self._encode(block, slice(row * T, row * T + len(labels)), columns)

    def _encode(self, block: np.ndarray, rows: slice, columns: dict[str, np.ndarray]) -> Encoded:
        said = self._selected
        logprobs = said["logprobs"][rows]
        kept = logprobs > -np.inf
        columns = columns | {name: said[name][rows] for name in self._form.columns}
        arrays = (block, kept.sum(axis=-1), said["ids"][rows][kept], logprobs[kept], columns)
        return Encoded(*self._form.encode(*arrays, vocab_size=self.vocab_size, teacher_step=self.step))

    @cached_property
    def _selected(self) -> dict[str, np.ndarray]:
        """What was kept at all positions, off its device."""
        parts: list[dict[str, Any]] = [{**vars(part), **part.statistics} for part in self._parts]
        names = ("ids", "logprobs", *self._form.columns)
        return {name: torch.cat([part[name] for part in parts]).cpu().numpy() for name in names}

    def _other_positions(self) -> str:
        return (
            f"There must be logits of each of the batch's {len(self._labels)} positions, got {self._taken}. Set module "
            "of LogitsRecorder to a submodule that gives them once, and in order."
        )


def _uncached_autocast(device: str) -> torch.autocast:
    """The autocast that there is, without its cache: weights cast here would be used in training, without gradients."""
    enabled, dtype = torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)
    return torch.autocast(device, dtype=dtype, enabled=enabled, cache_enabled=False)
