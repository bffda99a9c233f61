"""Several folders of blocks as one: which of their blocks to read, and what the folders have in common."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pd_lightning.data.limit import Limit
from pd_lightning.store.manifest import Manifest, SplitInfo

TEACHER_STEPS = "teacher_steps"


@dataclass
class MixedIn:
    """A folder whose training blocks are mixed in with those of `data.path`.

    Args:
        path: A folder of token blocks, whose positions are trained on the LM loss alone, or a logit store.
        weight: Blocks of it for each block of `data.path`. Default: as many as make one pass over it in each epoch.
        skip_blocks: Leave out the first so many training blocks, those that `data.path` was recorded from say.

    Raises:
        ValueError: A number is out of range.
    """

    path: str
    weight: float | None = None
    skip_blocks: int = 0

    def __post_init__(self) -> None:
        if self.weight is not None and not 0 < self.weight < float("inf"):
            raise ValueError(f"weight must be above 0, got {self.weight}. Set data.mix.<name>.weight to 0.5, say.")
        if self.skip_blocks < 0:
            raise ValueError(
                f"skip_blocks must be at least 0, got {self.skip_blocks}. Raise data.mix.<name>.skip_blocks."
            )

    def blocks(self, available: int) -> range:
        """The blocks to read out of those available.

        Raises:
            ValueError: None is left.
        """
        if self.skip_blocks >= available:
            raise ValueError(
                f"skip_blocks must leave some of the training blocks, got {self.skip_blocks} of {available} in "
                f"{self.path}. Lower data.mix.<name>.skip_blocks."
            )
        return range(self.skip_blocks, available)

    def per_epoch(self, available: int, first: int) -> int:
        """How many of `available` blocks an epoch takes in which `data.path` has `first` blocks."""
        return available if self.weight is None else max(1, round(self.weight * first))


def check_mixture(manifests: dict[Path, Manifest]) -> None:
    """Refuse folders whose blocks can't stand in one batch with those of the first.

    Args:
        manifests: Manifest of each folder, that of `data.path` first.

    Raises:
        ValueError: Naming the folder and what is different.
    """
    (path, first), *others = manifests.items()
    stores = [(folder, manifest) for folder, manifest in manifests.items() if manifest.kind == "logits"]
    for folder, manifest in others:
        for what, one, other, remedy in (
            ("the tokenizer", first.tokenizer.digest, manifest.tokenizer.digest, "Tokenize it with the tokenizer"),
            ("the block_size", first.block_size, manifest.block_size, "Tokenize it with the block_size"),
            ("the document_attention", first.document_attention, manifest.document_attention, "Tokenize it with that"),
        ):
            if one != other:
                raise ValueError(
                    f"data.mix must name folders with {what} of data.path, got {folder} with {other} and {path} with "
                    f"{one}. {remedy} of data.path."
                )
    for folder, manifest in stores[1:]:
        one, other = _targets(stores[0][1]), _targets(manifest)
        if one != other:
            raise ValueError(
                f"data.mix must name stores of one kind of targets, got {one} in {stores[0][0]} and {other} in "
                f"{folder}. Leave one out."
            )


def _targets(manifest: Manifest) -> str:
    if not manifest.sampled:
        return "the most probable ids"
    return "counted draws" if manifest.counted else "estimates from draws"


def in_common(manifests: Sequence[Manifest]) -> Manifest:
    """What several folders have in common.

    Args:
        manifests: Their manifests, that of `data.path` first.

    Returns:
        The first manifest; where there are logit stores, that of the first store, with the columns that all of them
        have, the selection that all of them keep to, and the widest vocabulary.
    """
    stores = [manifest for manifest in manifests if manifest.kind == "logits"]
    if len(manifests) == 1 or not stores:
        return manifests[0]
    selections = [store.selection or {} for store in stores]
    return replace(
        stores[0],
        splits=manifests[0].splits,
        vocab_size=max(store.vocab_size for store in stores),
        columns=tuple(name for name in stores[0].columns if all(name in store.columns for store in stores)),
        selection={key: min(s[key] for s in selections) for key in selections[0] if all(key in s for s in selections)},
        teacher_steps=False,
    )


def teacher_steps(split: SplitInfo) -> NDArray[np.int64] | None:
    """The teacher's optimizer steps when each block of a split was recorded.

    Args:
        split: Of a store that was recorded while its teacher trained: it lists runs of steps in the order of the
            blocks, each the first step, the blocks of each step, the number of steps, and their distance.

    Returns:
        int64 `[num_blocks]`, or None where the store does not tell.
    """
    runs = split.extra.get(TEACHER_STEPS)
    if runs is None:
        return None
    first, blocks, steps, distance = np.array(runs, dtype=np.int64).reshape(-1, 4).T
    if (found := int((blocks * steps).sum())) != split.num_blocks:
        raise ValueError(
            f"{TEACHER_STEPS} of a manifest must tell of {split.num_blocks} blocks, got {found}. Record the store "
            "again."
        )
    run = np.repeat(np.arange(len(runs)), steps)
    nth = np.arange(len(run)) - (steps.cumsum() - steps)[run]
    return np.repeat(first[run] + nth * distance[run], blocks[run])


def chosen_blocks(
    split: SplitInfo, limit: Limit, min_teacher_step: int, shuffle: bool
) -> Sequence[int] | NDArray[np.int64]:
    """The blocks of `data.path` to read, in the order that is shuffled or not.

    Args:
        split: The training split.
        limit: How many, after those of early teachers are left out.
        min_teacher_step: The teacher's first step to learn from; 0 for all.
        shuffle: Whether they will be shuffled; otherwise they come in the order of the teacher's steps.

    Raises:
        ValueError: The store does not tell the teacher's steps, or has none so late.
    """
    steps = teacher_steps(split)
    if steps is None:
        if min_teacher_step:
            raise ValueError(
                f"data.min_teacher_step must be 0 where the store does not tell the teacher's step, got "
                f"{min_teacher_step}. Set data.path to a store that LogitsRecorder wrote, or leave it out."
            )
        return range(limit.of(split.num_blocks))
    late = np.flatnonzero(steps >= min_teacher_step)
    if len(late) == 0:
        raise ValueError(
            f"data.min_teacher_step must be at most the teacher's last recorded step, {steps.max(initial=0)}, got "
            f"{min_teacher_step}. Lower data.min_teacher_step."
        )
    if not shuffle:
        late = late[np.argsort(steps[late], kind="stable")]
    return late[: limit.of(len(late))]
