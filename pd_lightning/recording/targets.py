"""From a batch of tokens to the encoded blocks of a store: the teacher, the selection, the codec."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from pd_lightning.data.batch import LABELLED
from pd_lightning.recording.data import RecordingBatch
from pd_lightning.recording.store_format import StoreFormat
from pd_lightning.targets import HiddenTargets
from pd_lightning.teachers import Teacher

Item = dict[str, np.ndarray]


class Encoded(NamedTuple):
    """A block as the store keeps it.

    Args:
        item: Its arrays.
        figures: Sums over its positions, for the manifest's statistics.
    """

    item: Item
    figures: dict[str, float]


@dataclass
class Selected:
    """What the teacher said of a batch, off its device.

    Args:
        blocks: Token ids, int64 `[B, T+1]`.
        counts: Kept entries of each position, int64 `[B·T]`.
        ids: Kept ids, position after position, most probable first, int64 `[S]`.
        logprobs: Their log-probabilities in nats, float32 `[S]`.
        columns: Per-position figures, float32 `[B·T]`, by name.
    """

    blocks: np.ndarray
    counts: np.ndarray
    ids: np.ndarray
    logprobs: np.ndarray
    columns: dict[str, np.ndarray]


class TargetEncoder:
    """Runs a teacher over batches, and encodes what is kept of it.

    Args:
        teacher: The teacher, set up.
        form: What is kept at each position, and how.
    """

    def __init__(self, teacher: Teacher, form: StoreFormat) -> None:
        self.teacher = teacher
        self.form = form

    def width(self, batch: RecordingBatch) -> int:
        """Run the teacher to see how many logits it gives, V: not every model tells.

        Raises:
            ValueError: If the teacher does not compute logits.
        """
        targets = self._run(batch)
        return targets.head(targets.hidden[:1]).shape[-1]

    def select(self, batch: RecordingBatch) -> Selected:
        """Run the teacher and keep what the selection keeps.

        Raises:
            ValueError: If the teacher does not compute logits.
        """
        tensors = batch.tensors
        targets = self._run(batch)
        labels = tensors["labels"]
        places = [(batch.split, (batch.start or 0) + row) for row in range(len(labels))]
        selected, counts = self.form.selection.select(targets.hidden, targets.head, labels.flatten(), places)
        kept = selected.logprobs > -torch.inf
        columns = dict(selected.statistics)
        if selected.log_tail is not None:
            columns["log_tail"] = selected.log_tail
        if LABELLED in tensors:
            columns[LABELLED] = tensors[LABELLED].flatten().float()
        return Selected(
            blocks=_numpy(torch.cat([tensors["input_ids"][:, :1], labels], dim=1)),
            counts=_numpy(counts),
            ids=_numpy(selected.ids[kept]),
            logprobs=_numpy(selected.logprobs[kept]),
            columns={name: _numpy(values) for name, values in columns.items()},
        )

    def encode(self, selected: Selected, vocab_size: int) -> list[Encoded]:
        """Encode each block of a batch.

        Args:
            selected: What is kept of it.
            vocab_size: Width of the teacher's logits, V.

        Raises:
            ValueError: If a figure is not a number.
        """
        B, T = selected.blocks.shape[0], selected.blocks.shape[1] - 1
        ends = selected.counts.cumsum()[T - 1 :: T]
        encoded = []
        for row, (start, end) in enumerate(zip([0, *ends[:-1]], ends, strict=True)):
            rows = slice(row * T, (row + 1) * T)
            columns = {name: values[rows] for name, values in selected.columns.items()}
            kept = slice(start, end)
            arrays = (selected.blocks[row], selected.counts[rows], selected.ids[kept], selected.logprobs[kept])
            encoded.append(Encoded(*self.form.encode(*arrays, columns, vocab_size=vocab_size)))
        assert len(encoded) == B
        return encoded

    def _run(self, batch: RecordingBatch) -> HiddenTargets:
        targets = self.teacher(batch.tensors)
        if not isinstance(targets, HiddenTargets):
            raise ValueError(
                f"record must have a teacher that computes its logits, got {type(self.teacher).__name__}. Set "
                "model.teacher to pd_lightning.teachers.FrozenTeacher."
            )
        return targets


def _numpy(tensor: Tensor) -> np.ndarray:
    array: np.ndarray = tensor.cpu().numpy()
    return array
