"""How a search draws its next point."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pd_lightning.study.settings import Axis, StudySettings, option_names

if TYPE_CHECKING:
    from optuna import Trial
    from optuna.samplers import BaseSampler


def make_sampler(study: StudySettings, drawn: int) -> BaseSampler:
    """The sampler for one draw, whose randomness follows from what was drawn before: a study that goes on draws alike.

    Args:
        study: What is asked.
        drawn: Trials before this one.
    """
    from optuna import samplers

    seed = study.sampler_seed * 1_000_003 + drawn
    if study.sampler == "tpe":
        return samplers.TPESampler(seed=seed, constant_liar=True)
    if study.sampler == "qmc":
        return samplers.QMCSampler(seed=study.sampler_seed)  # its points are a sequence; Optuna counts them
    return {"random": samplers.RandomSampler, "gp": samplers.GPSampler}[study.sampler](seed=seed)


def draw(trial: Trial, study: StudySettings) -> dict[str, Any]:
    """Draw a value of each axis.

    Args:
        trial: Of Optuna; one that has its values already keeps them.
        study: What is asked.

    Returns:
        An option, or a value of the range, for each axis.

    Raises:
        ValueError: An axis has other options than in the trials before.
    """
    return {name: _draw(trial, name, axis) for name, axis in study.axes.items()}


def _draw(trial: Trial, name: str, axis: Axis) -> Any:
    if not axis.is_range:
        try:
            return trial.suggest_categorical(name, option_names(axis))
        except ValueError as error:
            raise ValueError(
                f"axes.{name} must keep its options during a search, got others ({error}). Take another output_dir."
            ) from error
    assert axis.low is not None
    assert axis.high is not None
    if all(isinstance(bound, int) for bound in (axis.low, axis.high, axis.step or 1)):
        return trial.suggest_int(name, int(axis.low), int(axis.high), step=int(axis.step or 1), log=axis.log)
    return trial.suggest_float(name, axis.low, axis.high, step=axis.step, log=axis.log)
