"""A study's state as its files tell it: rows of `results.csv`, and `study.json`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pd_lightning.study import outline
from pd_lightning.study.points import Point
from pd_lightning.study.results import COMPLETE, FAILED, RUNNING, WAITING, Row
from pd_lightning.study.roster import Ratio, Roster, Run
from pd_lightning.study.settings import Axis, StudySettings, option_name

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

STATES = {"COMPLETE": COMPLETE, "FAIL": FAILED, "PRUNED": FAILED, "RUNNING": RUNNING, "WAITING": WAITING}


def rows_of(
    runs: list[Run], trials: list[FrozenTrial], figures: Mapping[str, Mapping[str, Any]], metric: str
) -> list[Row]:
    """The rows of `results.csv`.

    Args:
        runs: What is asked for.
        trials: All there are; of several of the same run the last one counts.
        figures: Of what is done, by key.
        metric: What is compared now: what Optuna was told of a run may be another figure.
    """
    latest = {trial.user_attrs.get("key"): trial for trial in trials}
    return [_row(run, latest.get(run.key), figures.get(run.key, {}), metric) for run in runs]


def is_withdrawn(trial: FrozenTrial) -> bool:
    """Whether it was given up without a result or an error, and runs anew if it is asked for again."""
    return trial.state.name == "FAIL" and "error" not in trial.user_attrs


def _row(run: Run, trial: FrozenTrial | None, figures: Mapping[str, Any], metric: str) -> Row:
    state = WAITING if trial is None or is_withdrawn(trial) else STATES[trial.state.name]
    attributes: Mapping[str, Any] = {} if trial is None else trial.user_attrs
    return Row(
        run.name,
        run.role,
        run.seed,
        state,
        value=figures["figures"].get(metric) if state == COMPLETE else None,
        error=attributes.get("error", "") if state == FAILED else "",
        axes={axis: option_name(choice) for axis, choice in run.choices.items()},
        run=attributes.get("run", run.folder),  # settings that have another name now were trained under the old one
        **figures,
    )


def outline_of(
    study: StudySettings, base: Mapping[str, Any], points: list[Point], roster: Roster, ratio: Ratio
) -> outline.Study:
    """What `study.json` holds.

    Args:
        study: What is asked.
        base: Options of the base.
        points: The points.
        roster: Their runs.
        ratio: FLOPs of a point over those of its student.
    """
    controls = roster.controls(points, ratio)
    of = {(control.kind, point): control.name for control in controls for point in control.of}
    return outline.Study(
        title=study.title or study.name,
        name=study.name,
        metric=study.metric,
        direction=study.direction,
        design=study.design,
        seeds=study.seeds,
        axes=[
            outline.Axis(name, axis.title or name, option_name(base[name]), _options(name, axis, points))
            for name, axis in study.axes.items()
        ],
        points=[
            outline.Point(
                point.name,
                {axis: option_name(choice) for axis, choice in point.choices.items()},
                point.varied,
                of.get((outline.LM, point.name)),
                of.get((outline.EQUAL_FLOPS, point.name)),
                point.slug,
            )
            for point in points
        ],
        controls=controls,
        crosses=study.crosses,
        costs={key: getattr(study.controls, key) for key in ("teacher_forward", "teacher_training")},
    )


def _options(name: str, axis: Axis, points: list[Point]) -> list[outline.Option]:
    """Options in the YAML's order; of a range, the values that were drawn."""
    if axis.options is not None:
        return [outline.Option(option, _as_number(option)) for option in axis.options]
    drawn = sorted({point.choices[name] for point in points if point.choices[name] != ""}) if axis.is_range else []
    return [outline.Option(option_name(value), _as_number(value)) for value in axis.values or drawn]


def _as_number(value: Any) -> float | None:
    """A value's place on a scale; an option called 0.5, 2M or 64k has one too."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    text = str(value)
    unit = {"k": 1e3, "M": 1e6, "B": 1e9}.get(text[-1:], 1.0)
    try:
        return float(text if unit == 1.0 else text[:-1]) * unit
    except ValueError:
        return None
