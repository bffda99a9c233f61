"""Sizes of the teacher of a run: of one that computes, or of one whose targets are recorded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pd_lightning.plan.settings import Assumptions, Described
from pd_lightning.plan.sizes import Size, size_of, size_of_model
from pd_lightning.teachers import FrozenTeacher, Teacher, TeacherEnsemble


def size_of_teacher(teacher: Teacher, assume: Assumptions) -> Size:
    """Count a teacher that computes its targets; of several, all together.

    Args:
        teacher: The teacher, rehearsed.
        assume: Block size.

    Raises:
        ValueError: If it is of a kind that does not show its model.
    """
    if isinstance(teacher, TeacherEnsemble):
        sizes = [size_of_teacher(member, assume) for member in teacher.teachers.values()]
        together = {
            name: sum(getattr(size, name) for size in sizes)
            for name in ("params", "params_non_embedding", "forward_flops")
        }
        return replace(max(sizes, key=lambda size: size.params), source="model.teacher", **together)
    if isinstance(teacher, FrozenTeacher):
        return size_of_model(teacher.model, assume.block_size, "model.teacher")
    raise ValueError(
        f"The teacher's size must be known, got a {type(teacher).__name__}, which does not tell. Set --teacher.params."
    )


def size_of_recorded(recorded: Mapping[str, Any], assume: Assumptions) -> Size | None:
    """Size up the teacher that a store's manifest describes: by its folder where that is here, else by its parameters.

    Args:
        recorded: What the manifest says of the teacher.
        assume: Block and vocabulary size.

    Returns:
        Its size, or None where the store tells neither.
    """
    name, params = recorded.get("name"), recorded.get("num_parameters")
    if isinstance(name, str) and (Path(name) / "config.json").is_file():
        return size_of(Described(model=name), "teacher", assume)[0]
    if params:
        width = recorded.get("vocab_size")
        known = replace(assume, vocab_size=width) if width else assume
        return size_of(Described(params=float(params)), "teacher", known)[0]
    return None
