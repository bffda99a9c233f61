"""The students on the text alone that a point is compared with, made from the point's own settings."""

from __future__ import annotations

import math
from collections.abc import Mapping
from copy import deepcopy
from functools import lru_cache
from pathlib import Path
from typing import Any

from pd_lightning.store.manifest import MANIFEST_FILE, read_manifest
from pd_lightning.store.reader import BlockReader
from pd_lightning.study.points import Settings

NO_TEACHER = "NoTeacher"
OF_A_TEACHER = ("transforms", "loss", "kd_weight", "weighting")
OF_ONE_FOLDER = {"min_teacher_step", "train_fraction", "val_path"}  # what would choose other blocks of another folder
COMPARED_BLOCKS = 16


def has_teacher(settings: Settings) -> bool:
    """Whether a run is taught at all.

    Args:
        settings: Of a run.
    """
    teacher = settings["model"].get("teacher") or NO_TEACHER
    name = teacher.get("class_path", NO_TEACHER) if isinstance(teacher, dict) else str(teacher)
    return str(name).rpartition(".")[2] != NO_TEACHER


def lm_control(settings: Settings, blocks: str | None) -> Settings:
    """The run without a teacher: the same schedule of the learning rate, the same tokens in the same order.

    Args:
        settings: Of a point.
        blocks: Token blocks to read in place of a store with the same tokens.
    """
    control = deepcopy(settings)
    model = control["model"]
    control["model"] = {key: value for key, value in model.items() if key not in OF_A_TEACHER}
    control["model"]["teacher"] = {"class_path": NO_TEACHER}
    data = _data(control)
    if blocks is not None and data.get("path") not in (None, blocks) and _both_there(str(data["path"]), blocks):
        counts = _common_blocks(str(data["path"]), blocks)
        if counts and OF_ONE_FOLDER.isdisjoint(data):
            train, val = counts
            data |= {
                "path": blocks,
                "max_train_blocks": min(train, data.get("max_train_blocks") or train),
                "max_val_blocks": min(val, data.get("max_val_blocks") or val),
            }
    return control


def equal_flops_control(lm: Settings, ratio: float, blocks: str | None) -> Settings:
    """The control without a teacher that is trained for longer, on further tokens where there are any.

    It ends with a validation, like any run. So that this costs it at most a step more for each, they come evenly.

    Args:
        lm: Settings of the control at equal tokens.
        ratio: FLOPs of the point, those of its teacher included, over those of its student.
        blocks: Token blocks with further tokens, which are read where those at hand would be read again.
    """
    control = deepcopy(lm)
    trainer = control["trainer"]
    every = _steps_between_validations(trainer)
    least = math.ceil(trainer["max_steps"] * ratio - 1e-9)
    validations = math.ceil(least / every)
    closer = math.ceil(least / validations)  # as many validations, evenly: the last one costs no further steps
    steps = validations * closer
    if closer < every:
        trainer["val_check_interval"] = closer * _batches_in_a_step(trainer)
    data = _data(control)
    most = data.get("max_train_blocks")
    if most is not None and _blocks_read(control, steps) > most:
        longest = math.inf if blocks is None else read_manifest(blocks).splits["train"].num_blocks
        data["max_train_blocks"] = min(longest, math.ceil(most * steps / trainer["max_steps"]))
    trainer["max_steps"] = steps
    return control


def check_length(name: str, settings: Settings) -> None:
    """Refuse a run whose length or last validation is not known beforehand.

    Args:
        name: The point.
        settings: Of its run.

    Raises:
        ValueError: It is not counted in steps, or does not end with a validation.
    """
    trainer = settings.get("trainer") or {}
    steps = trainer.get("max_steps")
    if not isinstance(steps, int) or steps < 1:
        raise ValueError(f"trainer.max_steps of {name} must be a number of steps, got {steps}. Set it in fit.")
    every = _steps_between_validations(trainer)
    if steps % every:
        raise ValueError(
            f"trainer.max_steps of {name} must be a multiple of the {every} steps between validations, so that every "
            f"run ends with one, got {steps}. Set trainer.max_steps or trainer.val_check_interval."
        )


def _steps_between_validations(trainer: Mapping[str, Any]) -> int:
    interval = trainer.get("val_check_interval")
    if trainer.get("check_val_every_n_epoch", 1) is not None or not isinstance(interval, int):
        raise ValueError(
            "trainer must validate every so many batches, whatever the epoch, got val_check_interval "
            f"{interval} and check_val_every_n_epoch {trainer.get('check_val_every_n_epoch', 1)}. Set "
            "trainer.val_check_interval to a number of batches and trainer.check_val_every_n_epoch to null."
        )
    # The fewest steps whose batches are whole intervals: the two need not divide one another.
    return max(1, interval // math.gcd(interval, _batches_in_a_step(trainer)))


def _batches_in_a_step(trainer: Mapping[str, Any]) -> int:
    return int(trainer.get("accumulate_grad_batches") or 1)


def _blocks_read(settings: Settings, steps: int) -> int:
    """Training blocks that a run reads, on one device where the number of devices is left open."""
    trainer = settings["trainer"]
    together = [trainer.get(name) for name in ("devices", "num_nodes", "accumulate_grad_batches")]
    copies = math.prod(number for number in together if isinstance(number, int) and number > 0)
    return steps * copies * int(_data(settings).get("batch_size") or 8)


def _data(settings: Settings) -> dict[str, Any]:
    data: dict[str, Any] = settings["data"].setdefault("init_args", {})
    return data


def _both_there(store: str, blocks: str) -> bool:
    """Whether both are finished folders here; before `prepare` has run, they are not."""
    return all(Path(folder, MANIFEST_FILE).exists() for folder in (store, blocks))


@lru_cache(maxsize=64)
def _common_blocks(store: str, blocks: str) -> tuple[int, int] | None:
    """Numbers of training and validation blocks of a store whose tokens are the first ones of token blocks."""
    train, val = (_first_of(split, store, blocks) for split in ("train", "val"))
    return None if train is None or val is None else (train, val)


def _first_of(split: str, store: str, blocks: str) -> int | None:
    if not all(split in read_manifest(folder).splits for folder in (store, blocks)):
        return None
    ours, theirs = BlockReader(store, split), BlockReader(blocks, split)
    if not 0 < len(ours) <= len(theirs):
        return None
    chosen = {round(i * (len(ours) - 1) / (COMPARED_BLOCKS - 1)) for i in range(COMPARED_BLOCKS)}
    same = all((ours[i]["block"] == theirs[i]["block"]).all() for i in chosen)
    return len(ours) if same else None
