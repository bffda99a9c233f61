"""`pd-lightning scaling-law predict`."""

from __future__ import annotations

import json as json_format
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from pd_lightning.scaling.law_file import SavedLaw, load_law
from pd_lightning.scaling.laws import Sizes
from pd_lightning.scaling.published import RANGES, SOURCE, distilled_loss, supervised_loss, teacher_doubts


def predict_loss(
    student_params: float,
    student_tokens: float,
    teacher_params: float | None = None,
    teacher_tokens: float | None = None,
    teacher_loss: float | None = None,
    law_file: str | None = None,
    json: bool = False,
) -> dict[str, Any]:
    """Predict a student's loss, with and without a teacher, from sizes.

    Without `law_file` the coefficients are those of Busbridge et al. (arXiv 2502.08606): for their data and tokenizer,
    and for students that learn from the teacher alone.

    Args:
        student_params: Non-embedding parameters of the student.
        student_tokens: Tokens that it is trained on.
        teacher_params: Non-embedding parameters of the teacher, from which and from `teacher_tokens` its loss follows.
        teacher_tokens: Tokens that the teacher was trained on.
        teacher_loss: The teacher's validation loss in nats per token, instead of its sizes.
        law_file: A law.json of `pd-lightning scaling-law fit`.
        json: Print JSON.

    Returns:
        `teacher_loss`, `supervised_loss`, `distilled_loss` and `interval` in nats per token, None for what is not
        known, and `warnings`.

    Raises:
        FileNotFoundError: There is no such law file.
        ValueError: A size is not positive, or the teacher's loss can't be told.
    """
    given = {"student_params": student_params, "student_tokens": student_tokens, "teacher_params": teacher_params}
    for name, value in {**given, "teacher_tokens": teacher_tokens, "teacher_loss": teacher_loss}.items():
        if value is not None and not 0 < value < float("inf"):
            raise ValueError(f"{name} must be positive, got {value}. Set --{name}.")
    law = load_law(law_file) if law_file else None
    teacher = _teacher_loss(teacher_params, teacher_tokens, teacher_loss, law)
    found = (
        _by_law(law, student_params, student_tokens, teacher)
        if law
        else _published(student_params, student_tokens, teacher)
    )
    if law is None:
        found["warnings"] += _range_warnings(RANGES, {"params": teacher_params, "tokens": teacher_tokens}, "teacher")
    for name in ("teacher_loss", "supervised_loss", "distilled_loss"):
        if found[name] is not None and not math.isfinite(found[name]):
            raise ValueError(f"{name} must be finite, got {found[name]} by the law. Give sizes that models have.")
    print(json_format.dumps(found, indent=1) if json else _text(found))
    return found


def _teacher_loss(params: float | None, tokens: float | None, loss: float | None, law: SavedLaw | None) -> float | None:
    if loss is not None:
        if params is not None or tokens is not None:
            raise ValueError(
                f"a teacher must be given by its loss or by its sizes, got both (teacher_loss {loss}). Leave out "
                "--teacher_params and --teacher_tokens, or --teacher_loss."
            )
        return loss
    if params is None and tokens is None:
        return None
    if params is None or tokens is None:
        missing = "teacher_params" if params is None else "teacher_tokens"
        raise ValueError(f"a teacher's sizes must be given together, got none for {missing}. Set --{missing}.")
    if law is None:
        return float(supervised_loss(params, tokens))
    alone = law.supervised or (law.fitted if law.role == "supervised" else None)
    if alone is None:
        raise ValueError(
            "a teacher's loss must be given where the law file has no law for models without a teacher, got sizes. "
            "Set --teacher_loss."
        )
    return float(alone.predict(Sizes(np.array([params]), np.array([tokens])))[0])


def _published(params: float, tokens: float, teacher: float | None) -> dict[str, Any]:
    alone = float(supervised_loss(params, tokens))
    return {
        "source": SOURCE,
        "teacher_loss": teacher,
        "supervised_loss": alone,
        "distilled_loss": None if teacher is None else float(distilled_loss(params, tokens, teacher)),
        "interval": None,
        "warnings": [
            *_range_warnings(RANGES, {"params": params, "tokens": tokens}, "student"),
            *(f"{text}." for text in teacher_doubts(teacher, alone)),
        ],
    }


def _by_law(law: SavedLaw, params: float, tokens: float, teacher: float | None) -> dict[str, Any]:
    of_law = law.fitted.law
    if of_law.needs_teacher and teacher is None:
        raise ValueError(f"the law {of_law.name} must know the teacher, got none. Set --teacher_loss.")
    one = Sizes(np.array([params]), np.array([tokens]), None if teacher is None else np.array([teacher]))
    given = {"params": params, "tokens": tokens, "teacher_loss": teacher}
    losses, ends = law.predict(one)
    loss, distilled = float(losses[0]), law.role == "distilled"
    alone = None if law.supervised is None else float(law.supervised.predict(one)[0])
    supervised = alone if distilled else loss
    return {
        "source": f"{of_law.name}, fitted to {law.role} students",
        "teacher_loss": teacher,
        "supervised_loss": supervised,
        "distilled_loss": loss if distilled else None,
        "interval": None if ends is None else [float(ends[0][0]), float(ends[1][0])],
        "warnings": [
            *_law_warnings(law, given),
            *(f"{text}." for text in teacher_doubts(teacher, supervised, floor=None)),
        ],
    }


def _law_warnings(law: SavedLaw, given: Mapping[str, float | None]) -> list[str]:
    found = _range_warnings(law.ranges, given, "student")
    if found and law.open:
        found.append(f"the runs of the law do not fix {', '.join(law.open)}: beyond them its interval is too narrow.")
    if law.role == "supervised" and given["teacher_loss"] is not None:
        found.append("the law was fitted to students without a teacher, and says nothing of one with this teacher.")
    return found


def _range_warnings(
    ranges: Mapping[str, tuple[float, float]], given: Mapping[str, float | None], whose: str
) -> list[str]:
    named = [
        (f"{whose}_{name}" if name in ("params", "tokens") else name, given.get(name), ends)
        for name, ends in ranges.items()
    ]
    return [
        f"{name} {value:.4g} is outside the runs of the law, {low:.4g} to {high:.4g}: this is an extrapolation."
        for name, value, (low, high) in named
        if value is not None and not low <= value <= high
    ]


def _text(found: dict[str, Any]) -> str:
    labels = {"teacher_loss": "teacher", "supervised_loss": "student alone", "distilled_loss": "student, distilled"}
    lines = [f"{label:<20}{found[key]:.4f}" for key, label in labels.items() if found[key] is not None]
    if found["interval"]:
        lines.append(f"{'95% interval':<20}{found['interval'][0]:.4f} to {found['interval'][1]:.4f}")
    lines = ["loss in nats per token", *lines, f"by {found['source']}"]
    return "\n".join([*lines, *(f"warning: {text}" for text in found["warnings"])])
