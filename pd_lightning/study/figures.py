"""The figures of a run: its summary, with what its teacher cost."""

from __future__ import annotations

from os.path import normpath
from pathlib import Path
from typing import Any

from pd_lightning.store.json_files import read_json
from pd_lightning.study.controls import has_teacher
from pd_lightning.study.points import Settings
from pd_lightning.study.settings import Controls, StudySettings

FACTS = ("params", "params_non_embedding", "tokens", "loss", "flops_per_token")
TRAINING = 3.0  # a training step is a forward pass, and a backward one that costs two


def figures_of(summary: dict[str, Any], settings: Settings, study: StudySettings) -> dict[str, Any]:
    """The figures of a run, by the names of `results.Row`.

    Args:
        summary: Its `summary.json`.
        settings: What it was given.
        study: Which says who taught which store, and what of the teacher counts.
    """
    student, tokens = summary["student"], summary["tokens"]
    live = _known(summary["teacher"])
    figures: dict[str, Any] = {
        "steps": summary["steps"],
        "student_tokens": tokens,
        "student_params": student["params"],
        "student_params_non_embedding": student["params_non_embedding"],
        "student_flops": student["flops_per_token"] * tokens,
        "train_seconds": summary["train_seconds"],
        "figures": {name: value for name, value in summary["metrics"].items() if value is not None},
    }
    return priced(figures | _of_teacher(live, tokens), settings, study)


def priced(figures: dict[str, Any], settings: Settings, study: StudySettings) -> dict[str, Any]:
    """The figures of a run with its teacher's, as the study tells them now.

    Args:
        figures: As `figures_of` gave them when the run ended.
        settings: What it was given.
        study: Which says who taught which store, and what of the teacher counts.
    """
    if has_teacher(settings):
        told = _of_teacher(teacher_facts(settings, study.teachers), figures["student_tokens"])
        figures = {**told, **_known(figures), **_known(told)}
    else:
        figures = {**figures, **_of_teacher({}, 0), "teacher_flops": 0.0, "teacher_training_flops": 0.0}
    return {**figures, "total_flops": _total(figures, study.controls)}


def _of_teacher(facts: dict[str, Any], tokens: int) -> dict[str, Any]:
    forward = facts.get("flops_per_token")
    return {
        "teacher_params": facts.get("params"),
        "teacher_params_non_embedding": facts.get("params_non_embedding"),
        "teacher_tokens": facts.get("tokens"),
        "teacher_loss": facts.get("loss"),
        "teacher_flops": _times(forward, tokens),
        "teacher_training_flops": _times(forward, facts.get("tokens"), TRAINING),
    }


def ratio_of(figures: dict[str, Any], controls: Controls) -> float | None:
    """FLOPs of a run in all over those of its student; None where its teacher's are not known.

    Args:
        figures: Of the run.
        controls: Say what of the teacher counts.
    """
    total = _total(figures, controls)
    return None if total is None else total / figures["student_flops"]


def teacher_facts(settings: Settings, teachers: dict[str, Any]) -> dict[str, Any]:
    """What is known of the teacher of a run.

    Args:
        settings: Of the run.
        teachers: By the folder of its targets or its model: its figures, or the run folder in which it was trained.

    Raises:
        ValueError: A teacher is neither.
    """
    data = settings["data"].get("init_args") or {}
    teacher = settings["model"]["teacher"]
    model = (teacher.get("init_args") or {}).get("model") if isinstance(teacher, dict) else None
    known = {normpath(name): facts for name, facts in teachers.items()}  # runs/x/ and ./runs/x are one folder
    found = next((known[key] for key in map(normpath, map(str, (model, data.get("path")))) if key in known), None)
    if isinstance(found, str):
        return _of_run(Path(found))
    return _known(found)


def check_teachers(teachers: dict[str, Any]) -> None:
    """Refuse what can't be read later.

    Args:
        teachers: As for `teacher_facts`.

    Raises:
        ValueError: An entry is neither a folder nor known figures.
    """
    for name, facts in teachers.items():
        wrong = set(facts) - set(FACTS) if isinstance(facts, dict) else set()
        if not isinstance(facts, dict | str) or wrong:
            raise ValueError(
                f"teachers.{name} must be the run folder of a fit, or figures named {', '.join(FACTS)}, got "
                f"{', '.join(wrong) or facts!r}. Mend teachers.{name}."
            )


def check_trained(teachers: dict[str, Any]) -> None:
    """Refuse teachers whose run folder does not tell what they are, once `prepare` has run.

    Args:
        teachers: As for `teacher_facts`.

    Raises:
        ValueError: A run folder has no summary.
    """
    for facts in teachers.values():
        if isinstance(facts, str):
            _of_run(Path(facts))


def _of_run(run: Path) -> dict[str, Any]:
    if not (run / "summary.json").exists():
        raise ValueError(
            f"teachers must name run folders with a summary.json, got {run}, which has none. Train it under prepare, "
            "or add pd_lightning.callbacks.RunSummary to its trainer.callbacks."
        )
    summary = read_json(run / "summary.json")
    student = summary["student"]
    return {
        "params": student["params"],
        "params_non_embedding": student["params_non_embedding"],
        "flops_per_token": student["flops_per_token"] / TRAINING,
        "tokens": summary["tokens"],
        "loss": summary["metrics"].get("val/lm_loss"),
    }


def _known(facts: dict[str, Any] | None) -> dict[str, Any]:
    return {name: value for name, value in (facts or {}).items() if value is not None}


def _times(*factors: float | None) -> float | None:
    product = 1.0
    for factor in factors:
        if factor is None:
            return None
        product *= factor
    return product


def _total(figures: dict[str, Any], controls: Controls) -> float | None:
    total = float(figures["student_flops"])
    for name, share in (
        ("teacher_flops", controls.teacher_forward),
        ("teacher_training_flops", controls.teacher_training),
    ):
        if share and figures[name] is None:
            return None
        total += share * (figures[name] or 0.0)
    return total
