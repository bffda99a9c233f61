"""The offline teacher: targets that a logit store keeps beside the tokens."""

import torch

from pd_lightning.targets import Form, SparseTargets
from pd_lightning.teachers.base import Batch, Surroundings, Teacher

_PREFIX = "teacher_"
_TARGETS = frozenset(f"{_PREFIX}{name}" for name in ("ids", "logprobs", "draws", "log_tail", "missing", "step"))


class OfflineTeacher(Teacher):
    """Reads the targets that came with the batch, from a logit store."""

    def __init__(self) -> None:
        self._form = Form("bucket", statistics=None)
        self._has_store = False

    @property
    def form(self) -> Form:
        """The kept ids, with the probability of all others, or sampled ids; the statistics are those of the store."""
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
        self._has_store = surroundings.data_kind == "logits"
        self.shared_vocab_size = surroundings.shared_with(surroundings.data_vocab_size)
        columns = frozenset(surroundings.columns) if surroundings.data_kind == "logits" else None
        vocab_size = self.shared_vocab_size or surroundings.data_vocab_size
        sampled = self._has_store and "log_tail" not in surroundings.columns
        self._form = Form(
            "sampled" if sampled else "bucket", columns, vocab_size, surroundings.selection, has_logits=not sampled
        )

    def __call__(self, batch: Batch) -> SparseTargets | None:
        """Give the batch's stored targets.

        Args:
            batch: `teacher_ids`, int64 `[B, T, K]`, with `teacher_logprobs`, float `[B, T, K]`, and
                `teacher_log_tail`, float `[B, T]`; of a sampled store with `teacher_draws`, int64 `[B, T, K]`, or the
                `teacher_logprobs` of its estimates, and no tail; a float `[B, T]` for each further column of the
                store; `teacher_missing`, bool `[B, T]`, where some positions have no targets.

        Returns:
            Targets of N = B·T positions; None for a batch of plain token blocks, which a store may be validated on.

        Raises:
            ValueError: If the batch has no targets.
        """
        if "teacher_ids" not in batch:
            if self._has_store:
                return None
            raise ValueError(
                "OfflineTeacher must find stored targets in each batch, got none of teacher_ids. Set data to "
                "pd_lightning.data.TokenBlocks with the path of a logit store."
            )
        draws, log_tail = batch.get("teacher_draws"), batch.get("teacher_log_tail")
        logprobs = batch["teacher_logprobs"] if draws is None else (draws / draws.sum(dim=-1, keepdim=True)).log()
        ids, logprobs = batch["teacher_ids"].flatten(0, 1), logprobs.flatten(0, 1)
        # Padding slots come with id 0, which need not be among the row's ids: see SparseTargets.
        ids = torch.where(logprobs > -torch.inf, ids, ids[:, :1])
        further = [name for name in batch if name.startswith(_PREFIX) and name not in _TARGETS]
        return SparseTargets(
            ids=ids,
            logprobs=logprobs,
            log_tail=None if log_tail is None else log_tail.flatten(),
            kind="sampled" if log_tail is None else "bucket",
            missing=batch["teacher_missing"].flatten() if "teacher_missing" in batch else None,
            statistics={name.removeprefix(_PREFIX): batch[name].flatten() for name in further},
        )
