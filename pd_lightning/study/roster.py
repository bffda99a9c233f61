"""Every run of a study: each point and each control with each seed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import yaml

from pd_lightning.composition.compose import override
from pd_lightning.study.controls import check_length, equal_flops_control, has_teacher, lm_control
from pd_lightning.study.outline import EQUAL_FLOPS, LM, POINT, Control
from pd_lightning.study.points import DesignSpace, Point, Settings, digest
from pd_lightning.study.settings import StudySettings, option_name, option_names

Ratio = Callable[[str], float | None]  # by digest, FLOPs of a point over those of its student, once known
SUMMARY = yaml.safe_load("class_path: pd_lightning.callbacks.RunSummary")


@dataclass(frozen=True)
class Run:
    """One run of `fit`.

    Args:
        role: `point`, `lm` or `equal_flops`.
        name: Of the point or control.
        seed: Its seed.
        choices: Options of the point; of a control those of its first point that matter to it.
        slug: Name of the folder of its seeds.
        settings: What `fit` is given, but for the run folder.
    """

    role: str
    name: str
    seed: int
    choices: Mapping[str, Any]
    slug: str
    settings: Settings

    @property
    def key(self) -> str:
        """The same for runs that are the same."""
        return digest([self.role, self.settings, self.seed])

    @property
    def folder(self) -> str:
        """The run folder, below the study's."""
        return f"runs/{self.slug}/seed-{self.seed}"


def digest_of(folder: str) -> str:
    """The digest of a point's settings, which its run folder's name holds."""
    return folder.split("/")[1].rpartition("-")[2]


class Roster:
    """The runs that a study's points ask for.

    Args:
        study: What is asked.
        space: Makes settings of options.
    """

    def __init__(self, study: StudySettings, space: DesignSpace) -> None:
        self.study = study
        self.space = space
        self._lm: dict[str, Settings] = {}

    def runs(self, points: list[Point], ratio: Ratio) -> list[Run]:
        """All runs, in the order in which they are made: seed by seed, controls behind their first point.

        Args:
            points: The points.
            ratio: Gives FLOPs of a point over those of its student, or None where they are not known yet.
        """
        asked = [*self._of_points(points), *self._longer(points, ratio)]
        return [self._seeded(run, seed) for seed in self.study.seeds for run in asked]

    def controls(self, points: list[Point], ratio: Ratio) -> list[Control]:
        """The controls, each with its points.

        Args:
            points: The points.
            ratio: As for `runs`.
        """
        found: dict[tuple[str, str], list[str]] = {}
        for point in points:
            for run in self._controls(point, ratio):
                found.setdefault((run.role, run.slug), []).append(point.name)
        names = {(run.role, run.slug): run.name for run in self.runs(points, ratio)}
        return [Control(names[role, slug], role, slug, of) for (role, slug), of in found.items()]

    def _of_points(self, points: list[Point]) -> list[Run]:
        """Points and their LM controls; equal controls once, and none where a point has no teacher itself."""
        runs: dict[str, Run] = {}
        for point in points:
            check_length(point.name, point.settings)
            runs[point.name] = Run(POINT, point.name, 0, point.choices, point.slug, point.settings)
            for run in self._controls(point, lambda _: None):
                runs.setdefault(f"{run.role} {run.slug}", run)
        return list(runs.values())

    def _longer(self, points: list[Point], ratio: Ratio) -> list[Run]:
        runs = [run for point in points for run in self._controls(point, ratio) if run.role == EQUAL_FLOPS]
        return list({run.slug: run for run in reversed(runs)}.values())[::-1]

    def _controls(self, point: Point, ratio: Ratio) -> list[Run]:
        controls = self.study.controls
        if not has_teacher(point.settings):
            return []
        lm = self._lm_of(point.choices)
        runs = []
        if controls.lm:
            runs.append(self._control(LM, point, lm))
        factor = ratio(point.digest) if controls.equal_flops else None
        if factor is not None and factor > 1:
            runs.append(self._control(EQUAL_FLOPS, point, equal_flops_control(lm, factor, controls.blocks)))
        return runs

    def _control(self, role: str, point: Point, settings: Settings) -> Run:
        mine = self._lm_of(point.choices)
        base = self.space.base
        changed = [axis for axis in point.varied if self._lm_of({**point.choices, axis: base[axis]}) != mine]
        if self._lm_of({axis: point.choices[axis] for axis in changed}) != mine:  # several that do the same
            changed = list(point.varied)
        options = ", ".join(f"{axis}={option_name(point.choices[axis])}" for axis in changed)
        what = "lm" if role == LM else f"equal flops, {settings['trainer']['max_steps']:,} steps"
        matter = {axis: point.choices[axis] for axis in self.space.axes if axis in changed or self._matters(axis)}
        # Another name for the same settings is no other control.
        slug = f"{role.replace('_', '-')}-{digest(settings)[:8]}"
        return Run(role, f"{what}: {options}" if options else what, 0, matter, slug, settings)

    @cache  # noqa: B019 - there is one roster in a process
    def _matters(self, axis: str) -> bool:
        """Whether an option of the axis changes the control of the base."""
        return any(self._lm_of({axis: option}) != self._lm_of({}) for option in option_names(self.space.axes[axis]))

    def _lm_of(self, choices: Mapping[str, Any]) -> Settings:
        key = digest(dict(choices))
        if key not in self._lm:
            self._lm[key] = lm_control(self.space.point(choices).settings, self.study.controls.blocks)
        return self._lm[key]

    def _seeded(self, run: Run, seed: int) -> Run:
        settings = run.settings
        for name in self.study.seed_settings:
            settings = override(settings, name, seed)
        return replace(run, seed=seed, settings=settings)


def with_folder(settings: Settings, folder: str) -> Settings:
    """Settings for `fit`, with their run folder and a summary at the end.

    Args:
        settings: Of a run.
        folder: The run folder.
    """
    trainer = settings.get("trainer") or {}
    callbacks = trainer.get("callbacks") or []
    callbacks = [*(callbacks if isinstance(callbacks, list) else [callbacks]), SUMMARY]
    return {**settings, "trainer": {**trainer, "default_root_dir": folder, "callbacks": callbacks}}
