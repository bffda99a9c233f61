"""What a study asks, as its folder keeps it in ``study.json``: axes, points, controls, seeds."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pd_lightning.store.durable import write_durably
from pd_lightning.store.json_files import read_json

STUDY = "study.json"
BASE = "base"
POINT, LM, EQUAL_FLOPS = "point", "lm", "equal_flops"
ONE_FACTOR, GRID, SEARCH = "one_factor", "grid", "search"
MINIMIZE, MAXIMIZE = "minimize", "maximize"


@dataclass(frozen=True)
class Option:
    """One value of an axis.

    Args:
        name: Its name in tables.
        value: Its place on a scale, or None where it is no number.
    """

    name: str
    value: float | None = None


@dataclass(frozen=True)
class Axis:
    """One axis of the design space.

    Args:
        name: Its name in the YAML.
        title: Its name in the report.
        base: The option's name that the other axes are varied around; empty for none.
        options: Its options, in the order of the YAML.
    """

    name: str
    title: str
    base: str
    options: Sequence[Option] = ()


@dataclass(frozen=True)
class Point:
    """One combination of options, trained with every seed.

    Args:
        name: Its name, `base` or what it changes of it.
        axes: The option of every axis, by name.
        varied: The axes in which it differs from the base.
        lm: Its LM-only control under the same schedule, tokens and order; None for none.
        equal_flops: Its LM-only control at equal total FLOPs; None for none.
        slug: Its folder below `runs`.
    """

    name: str
    axes: Mapping[str, str]
    varied: Sequence[str]
    lm: str | None
    equal_flops: str | None
    slug: str


@dataclass(frozen=True)
class Control:
    """Plain pre-training that points are compared with.

    Args:
        name: Its name.
        kind: `lm` or `equal_flops`.
        slug: Its folder below `runs`.
        of: The points that it is the control of.
    """

    name: str
    kind: str
    slug: str
    of: Sequence[str]


@dataclass(frozen=True)
class Study:
    """What was asked.

    Args:
        title: Heading of the report.
        name: The study's name.
        metric: The validation figure that is compared, such as `val/lm_loss`.
        direction: `minimize` or `maximize`.
        design: `one_factor`, `grid` or `search`.
        seeds: Seeds of each point.
        axes: The axes, in the order of the YAML.
        points: The points, in the order in which they are tried.
        controls: The controls.
        crosses: Groups of axes that are varied together, beside one at a time.
        costs: The shares of the teacher's FLOPs that count for `equal_flops`: `teacher_forward`, `teacher_training`.
    """

    title: str
    name: str
    metric: str
    direction: str
    design: str
    seeds: Sequence[int]
    axes: Sequence[Axis]
    points: Sequence[Point]
    controls: Sequence[Control] = ()
    crosses: Sequence[Sequence[str]] = ()
    costs: Mapping[str, float] = field(default_factory=dict)

    @property
    def base(self) -> Point | None:
        """The point that varies nothing; a search has none."""
        points = () if self.design == SEARCH else self.points
        return next((point for point in points if not point.varied), None)

    def along(self, axis: Axis) -> Iterator[tuple[Option, Point]]:
        """The points that differ from the base in this axis at most, in the order of its options.

        A base that is none of the options, because it leaves the setting as `fit` has it, comes first, as `base`.
        """
        found = {point.axes.get(axis.name): point for point in self.points if set(point.varied) <= {axis.name}}
        named = {option.name for option in axis.options}
        if self.base is not None and self.base.axes.get(axis.name) not in named:
            yield Option(BASE), self.base
        yield from ((option, found[option.name]) for option in axis.options if option.name in found)

    def slugs(self) -> dict[tuple[str, str], str]:
        """Folders below `runs` by role and name."""
        points = {(POINT, point.name): point.slug for point in self.points}
        return points | {(control.kind, control.name): control.slug for control in self.controls}


def write_study(folder: Path, study: Study) -> None:
    """Write `study.json`, whole or not at all.

    Args:
        folder: The study's folder.
        study: What was asked.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_durably(folder / STUDY, (json.dumps(asdict(study), indent=1) + "\n").encode())


def read_study(folder: Path) -> Study:
    """Read `study.json`.

    Args:
        folder: The study's folder.

    Returns:
        What was asked.

    Raises:
        FileNotFoundError: There is none.
        ValueError: It is no study.
    """
    path = folder / STUDY
    if not path.is_file():
        raise FileNotFoundError(
            f"a study's folder must hold {STUDY}, got {folder}. Give the output_dir of a `pd-lightning study`."
        )
    found = read_json(path)
    try:
        return _study(found)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path} must be as `pd-lightning study` writes it, got {type(error).__name__}: {error}. Start the study "
            "again with its --config: finished runs are kept."
        ) from error


def _study(found: dict[str, Any]) -> Study:
    axes = [Axis(**{**axis, "options": [Option(**option) for option in axis["options"]]}) for axis in found["axes"]]
    points = [Point(**point) for point in found["points"]]
    controls = [Control(**control) for control in found.get("controls", ())]
    return Study(**{**found, "axes": axes, "points": points, "controls": controls})
