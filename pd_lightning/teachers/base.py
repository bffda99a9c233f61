"""The interface of a teacher."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from pd_lightning.targets import Targets

Batch = Mapping[str, Tensor]


@dataclass
class Surroundings:
    """What a teacher has to fit to.

    Args:
        device: Where the student computes.
        vocab_size: Width of the student's logits, or None where it does not tell.
        data_kind: `blocks` or `logits`, or None where the data are no folder of ours.
        data_vocab_size: Vocabulary of the data: of a store, the width of its teacher's logits.
        tokenizer_dir: Folder of the data's tokenizer, or None where the data have none.
        block_size: Positions of a block, or None where the data do not tell.
    """

    device: torch.device
    vocab_size: int | None = None
    data_kind: str | None = None
    data_vocab_size: int | None = None
    tokenizer_dir: Path | None = None
    block_size: int | None = None


class Teacher(ABC):
    """Gives targets for a batch.

    No `nn.Module`, so that a teacher held by a LightningModule is in none of its checkpoints, optimizers and gradient
    buckets; it moves and casts itself in `setup`.

    Attributes:
        forward_seconds: Time spent computing targets, in seconds; on a GPU, where work is queued, that of queueing it.
    """

    forward_seconds: float = 0.0

    def setup(self, surroundings: Surroundings) -> None:
        """Get ready: load weights, and check that teacher, student and data fit. May be called more than once.

        Raises:
            ValueError: If they do not fit.
        """

    @abstractmethod
    def __call__(self, batch: Batch) -> Targets | None:
        """Give the targets of a batch's positions.

        Args:
            batch: `input_ids`, int64 `[B, T]`, and whatever else the data give.

        Returns:
            Targets of N = B·T positions, or None where there is no teacher.
        """

    @property
    def vocab_size(self) -> int | None:
        """Width of the teacher's logits, or None where it is not known."""
        return None

    def describe(self) -> dict[str, object]:
        """Say who the teacher is, in plain values, for manifests, checkpoints and model cards."""
        return {"kind": type(self).__name__}
