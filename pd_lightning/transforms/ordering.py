"""Which transforms can follow which, and what it means to set a temperature."""

import warnings
from dataclasses import replace

from pd_lightning.targets import AnyTemperature, Form
from pd_lightning.transforms.base import AnyTargets


def before_temperatures(before: Form, who: str, what: str) -> None:
    """Refuse a transform of probabilities after one that sets a temperature: the loss tempers what comes out of all.

    Args:
        before: Form of the targets that the transform is given.
        who: Name of the transform.
        what: What it does, as the subject of a sentence.

    Raises:
        ValueError: If a temperature was set.
    """
    if before.tempered:
        raise ValueError(
            f"{what} must come before temperature, as in softmax(truncate(z) / temperature), got {who} after it. Name "
            f"the entry of {who} before that of the temperature in model.transforms."
        )


def tempered(before: Form, who: str, adaptive: bool = False) -> Form:
    """Say what becomes of targets that get a temperature.

    Args:
        before: Their form.
        who: Name of the transform, for messages.
        adaptive: Whether it finds the temperature of each position by itself; there can be one such transform.

    Raises:
        ValueError: If they cannot have one.
    """
    if before.kind == "none":
        raise ValueError(
            f"{who} must have the tail of truncated targets, or renormalised ones, got tail none before it: what does "
            "not sum to 1 cannot be tempered. Set init_args.tail of the truncation to bucket or renormalize."
        )
    if before.kind == "sampled":
        raise ValueError(
            f"{who} must have the teacher's probabilities, got estimates from samples: a temperature over them is "
            f"biased. Leave {who} out of model.transforms, or set init_args.target of SampleTokens to probabilities."
        )
    if adaptive and before.divided_by is not None:
        raise ValueError(
            f"{who} must be the one transform that finds temperatures, got {before.divided_by} before it. Keep one of "
            "them in model.transforms."
        )
    if before.final is not None:
        raise ValueError(
            f"{who} must not follow {before.final}, which leaves the student at temperature 1. Keep one of them in "
            "model.transforms."
        )
    return replace(before, tempered=True, divided_by=who if adaptive else before.divided_by)


def say_that_a_bucket_is_no_id(before: Form, who: str) -> None:
    """Warn of a deviation of single ids as the temperature of many: it gives the bucket nearly all the probability."""
    if before.kind == "bucket":
        warnings.warn(
            f"{who} divides the bucket, all other ids together, by the deviation of single ids: losses are then large, "
            "and students poor. Set init_args.tail of the truncation to uniform or renormalize.",
            stacklevel=1,
        )


def divided(targets: AnyTargets, teacher: AnyTemperature, student: AnyTemperature | None = None) -> AnyTargets:
    """Divide both sides by a temperature more than before.

    Args:
        targets: Targets of n positions.
        teacher: The teacher's temperature: a number, or one of each position, float `[n]`.
        student: The student's, likewise; None for the teacher's.

    Returns:
        The targets with their temperatures multiplied; `compensation` is left as it is.
    """
    own = targets.student_temperature
    if student is not None or own is not None:
        own = (targets.temperature if own is None else own) * (teacher if student is None else student)
    return replace(targets, temperature=targets.temperature * teacher, student_temperature=own)
