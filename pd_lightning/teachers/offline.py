"""The offline teacher: targets that a logit store keeps beside the tokens."""

import torch

from pd_lightning.targets import Form, SparseTargets
from pd_lightning.teachers.base import Batch, Surroundings, Teacher

_PREFIX = "teacher_"
_TARGETS = ("teacher_ids", "teacher_logprobs", "teacher_log_tail")


class OfflineTeacher(Teacher):
    """Reads the targets that came with the batch, from a logit store."""

    def __init__(self) -> None:
        self._form = Form("bucket", statistics=None)

    @property
    def form(self) -> Form:
        """The kept ids, with the probability of all others; the statistics are those that the store has."""
        return self._form

    def setup(self, surroundings: Surroundings) -> None:
        """Check that the data are a logit store over the student's vocabulary.

        Raises:
            ValueError: If they are plain token blocks, or the store's teacher has another vocabulary.
        """
        if surroundings.data_kind == "blocks":
            raise ValueError(
                "OfflineTeacher must have a logit store to read, got plain token blocks. Set data.init_args.path, and "
                "val_path where it is set, to a store that `pd-lightning record` wrote, or model.teacher to "
                "pd_lightning.teachers.FrozenTeacher."
            )
        self.shared_vocab_size = surroundings.shared_with(surroundings.data_vocab_size)
        columns = frozenset(surroundings.columns) if surroundings.data_kind == "logits" else None
        vocab_size = self.shared_vocab_size or surroundings.data_vocab_size
        self._form = Form("bucket", columns, vocab_size, surroundings.selection)

    def __call__(self, batch: Batch) -> SparseTargets:
        """Give the batch's stored targets.

        Args:
            batch: `teacher_ids`, int64 `[B, T, K]`, `teacher_logprobs`, float `[B, T, K]`, `teacher_log_tail`, float
                `[B, T]`, and a float `[B, T]` for each further column of the store.

        Raises:
            ValueError: If the batch has no targets.
        """
        missing = [name for name in _TARGETS if name not in batch]
        if missing:
            raise ValueError(
                f"OfflineTeacher must find stored targets in each batch, got none of {', '.join(missing)}. "
                "Set data to pd_lightning.data.TokenBlocks with the path of a logit store."
            )
        ids, logprobs = batch["teacher_ids"].flatten(0, 1), batch["teacher_logprobs"].flatten(0, 1)
        # Padding slots come with id 0, which need not be among the row's ids: see SparseTargets.
        ids = torch.where(logprobs > -torch.inf, ids, ids[:, :1])
        further = [name for name in batch if name.startswith(_PREFIX) and name not in _TARGETS]
        return SparseTargets(
            ids=ids,
            logprobs=logprobs,
            log_tail=batch["teacher_log_tail"].flatten(),
            statistics={name.removeprefix(_PREFIX): batch[name].flatten() for name in further},
        )
