"""The interface of a teacher."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh

from pd_lightning.targets import Form, Targets

Batch = Mapping[str, Tensor]


@dataclass
class Surroundings:
    """What a teacher has to fit to.

    Args:
        device: Where the student computes.
        vocab_size: Width of the student's logits, or None where it does not tell.
        data_kind: `blocks` or `logits`, or None where the data are no folder of ours.
        data_vocab_size: Vocabulary of the data: of a store, the width of its teacher's logits.
        tokenizer_vocab_size: One more than the tokenizer's largest id, or None where that is not known.
        tokenizer_dir: Folder of the data's tokenizer, or None where the data have none.
        block_size: Positions of a block, or None where the data do not tell.
        document_attention: `isolated` where models must keep to one document, else `full`.
        columns: Names of the per-position columns of a logit store.
        selection: The p and k up to which a logit store kept ids, and the fewest; None where it does not tell.
        device_mesh: Where the strategy shards the models; None where they are whole on each device.
    """

    device: torch.device
    vocab_size: int | None = None
    data_kind: str | None = None
    data_vocab_size: int | None = None
    tokenizer_vocab_size: int | None = None
    tokenizer_dir: Path | None = None
    block_size: int | None = None
    document_attention: str = "full"
    columns: tuple[str, ...] = ()
    selection: tuple[float, int, int] | None = None
    device_mesh: DeviceMesh | None = None

    def shared_with(self, teacher: int | None) -> int | None:
        """Decide which ids teacher and student have in common where the widths of their logits differ.

        Many models pad their vocabulary to a round number; ids that the tokenizer does not have are padding.

        Args:
            teacher: Width of the teacher's logits, or None where it is not known.

        Returns:
            The number of ids, from 0 on, that both have; None where there is nothing to cut.

        Raises:
            ValueError: If the difference is more than padding, or nothing tells that it is no more.
        """
        student, tokens = self.vocab_size, self.tokenizer_vocab_size
        if teacher is None or student is None or teacher == student:
            return None
        shared = min(teacher, student)
        if tokens is not None and tokens <= shared:
            return shared
        if tokens is None:
            reason = ", and no number of tokens that would make the difference padding"
            remedy = f"model.student.init_args.config.vocab_size to {teacher}, or tokenize and record the data anew"
        else:
            reason = f" for {tokens} tokens"
            remedy = "model.teacher, or the data's store, and model.student to models of the data's tokenizer"
        raise ValueError(
            f"Teacher and student must share a vocabulary, got {teacher} and {student} ids{reason}. Set {remedy}."
        )


class Teacher(ABC):
    """Gives targets for a batch.

    No `nn.Module`, so that a teacher held by a LightningModule is in none of its checkpoints, optimizers and gradient
    buckets; it moves and casts itself in `setup`.

    Attributes:
        forward_seconds: Time spent computing targets, in seconds; on a GPU, where work is queued, that of queueing it.
        shared_vocab_size: Ids, from 0 on, that teacher and student have in common, where the widths of their logits
            differ by padding; None where they are equal. Known after `setup`.
    """

    forward_seconds: float = 0.0
    shared_vocab_size: int | None = None

    def setup(self, surroundings: Surroundings) -> None:
        """Get ready: load weights, and check that teacher, student and data fit. May be called more than once.

        Raises:
            ValueError: If they do not fit.
        """

    def rehearse(self, surroundings: Surroundings) -> None:
        """Check what `setup` checks, without weights where there would be any, for `pd-lightning plan`.

        Raises:
            ValueError: If teacher, student and data do not fit.
        """
        self.setup(surroundings)

    @abstractmethod
    def __call__(self, batch: Batch) -> Targets | None:
        """Give the targets of a batch's positions.

        Args:
            batch: `input_ids`, int64 `[B, T]`, and whatever else the data give.

        Returns:
            Targets of N = B·T positions, or None where there is no teacher.
        """

    @property
    def form(self) -> Form | None:
        """Form of the targets, that transforms and losses are checked against; None where it is not known."""
        return None

    @property
    def vocab_size(self) -> int | None:
        """Width of the teacher's logits, or None where it is not known."""
        return None

    def describe(self) -> dict[str, object]:
        """Say who the teacher is, in plain values, for manifests, checkpoints and model cards."""
        return {"kind": type(self).__name__}
