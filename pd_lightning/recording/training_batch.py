"""What a module in training says of one batch, taken while it says it."""

from collections.abc import Iterator
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from pd_lightning.data.batch import LABELLED
from pd_lightning.data.inputs import as_mapping
from pd_lightning.recording.batches import KEYS, as_blocks
from pd_lightning.recording.store_format import StoreFormat
from pd_lightning.recording.targets import Encoded
from pd_lightning.targets import SparseTargets
from pd_lightning.targets.heads import Head

# Where data say themselves that they attend to whole blocks.
_PLAIN_KEYS = ("input_ids", "labels")


class TrainingBatch:
    """Takes logits as they come, whole or slice after slice of the positions, and keeps what the selection keeps.

    Args:
        batch: The batch that is about to be trained on, see `as_blocks`. It is copied: a training step may change it.
        step: Optimizer steps that the module has taken.
        form: What is kept at each position, and how.
        eos_token_id: Stored as the label of a last position that has none.
        plain: Whether labels are missing in padding blocks alone, so that no column need tell where.

    Raises:
        ValueError: If the batch has no token ids.
    """

    def __init__(self, batch: Any, step: int, form: StoreFormat, eos_token_id: int, plain: bool) -> None:
        batch = as_mapping(batch)
        given = {key: batch[key] for key in (_PLAIN_KEYS if plain else KEYS) if key in batch}
        self._batch = {key: value.clone() if isinstance(value, Tensor) else value for key, value in given.items()}
        self._labelled = not plain and not {"labels", "attention_mask"}.isdisjoint(given)
        self._vocab_size = 0
        self.step = step
        self._form = form
        self._eos_token_id = eos_token_id
        self._shape = batch["input_ids"].shape
        self._parts: list[SparseTargets] = []
        self._taken = 0

    @torch.no_grad()
    def take(self, output: Any, head: Head | None = None) -> None:
        """Take the logits of the next positions; what comes after the last one is disregarded.

        Args:
            output: Logits, float `[..., V]`, or an output of transformers that has them; with a head, hidden states.
            head: Maps hidden states to logits.

        Raises:
            ValueError: If there are no logits in it, they are not of these positions, or the batch is none that a store
                can hold.
        """
        if self._taken == self._shape.numel():
            return  # another pass over the batch, of an optimizer that looks twice say
        tensor = getattr(output, "last_hidden_state" if head else "logits", output)
        if not isinstance(tensor, Tensor) or tensor.dim() < 2 or not tensor.is_floating_point():
            raise ValueError(
                f"Logits must be a tensor of shape [..., V], got {type(tensor).__name__}. Set module or output of "
                "LogitsRecorder to where the logits are."
            )
        rows = tensor.detach().flatten(0, -2)
        start, self._taken = self._taken, self._taken + len(rows)
        if self._taken > self._shape.numel():
            raise ValueError(self._other_positions())
        head = head or Head(lambda logits: logits)
        with uncached_autocast(rows.device.type):
            self._vocab_size = self._vocab_size or head(rows[:1]).shape[-1]
            labels = self._labels[start : self._taken].to(rows.device)
            selected, _ = self._form.selection.select(rows, head, labels, [])
        self._parts.append(selected)

    def blocks(self) -> Iterator[Encoded]:
        """Encode the blocks of the batch, but for those without a label.

        Raises:
            ValueError: If there were no logits of some positions, or a figure is not a number.
        """
        if self._taken < self._shape.numel():
            raise ValueError(self._other_positions())
        labelled = self._tensors.get(LABELLED)
        T = self._shape[1]
        for row, (ids, labels) in enumerate(zip(self._tensors["input_ids"], self._tensors["labels"], strict=True)):
            if labelled is not None and not labelled[row].any():
                continue
            columns = {LABELLED: self._tensors[LABELLED][row].float().numpy()} if self._labelled else {}
            block = np.concatenate([ids[:1].numpy(), labels.numpy()])
            yield self._encode(block, slice(row * T, row * T + len(labels)), columns)

    @property
    def shape(self) -> tuple[int, int, bool]:
        """Positions of a block, width of the vocabulary, and whether there is a column of what has a label."""
        return self._tensors["labels"].shape[1], self._vocab_size, self._labelled

    @cached_property
    def _tensors(self) -> dict[str, Tensor]:
        """The batch as a store holds it; looked at when the first logits have told how wide the vocabulary is."""
        return as_blocks(self._batch, self._vocab_size, self._eos_token_id)

    @cached_property
    def _labels(self) -> Tensor:
        """The token that is stored as next of each position `[N]`; one that belongs to no block may have any."""
        labels = self._tensors["labels"]
        return F.pad(labels, (0, self._shape[1] - labels.shape[1])).flatten()

    def _encode(self, block: np.ndarray, rows: slice, columns: dict[str, np.ndarray]) -> Encoded:
        said = self._selected
        logprobs = said["logprobs"][rows]
        kept = logprobs > -np.inf
        columns = columns | {name: said[name][rows] for name in self._form.columns}
        arrays = (block, kept.sum(axis=-1), said["ids"][rows][kept], logprobs[kept], columns)
        return Encoded(*self._form.encode(*arrays, vocab_size=self._vocab_size, teacher_step=self.step))

    @cached_property
    def _selected(self) -> dict[str, np.ndarray]:
        """What was kept at all positions, off its device."""
        parts: list[dict[str, Any]] = [{**vars(part), **part.statistics} for part in self._parts]
        names = ("ids", "logprobs", *self._form.columns)
        return {name: torch.cat([part[name] for part in parts]).cpu().numpy() for name in names}

    def _other_positions(self) -> str:
        return (
            f"There must be logits of each of the batch's {self._shape.numel()} positions, got {self._taken}. Set "
            "module of LogitsRecorder to a submodule that gives them once, and in order."
        )


def uncached_autocast(device: str) -> torch.autocast:
    """The autocast that there is, without its cache: weights cast here would be used in training, without gradients.

    Args:
        device: Kind of the device, `cuda` say.
    """
    enabled, dtype = torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)
    return torch.autocast(device, dtype=dtype, enabled=enabled, cache_enabled=False)
