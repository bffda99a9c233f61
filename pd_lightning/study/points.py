"""The points of a study: which options of its axes are trained together, and the settings that they make."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from pd_lightning.composition.compose import merge, override
from pd_lightning.composition.yaml_files import read_yaml
from pd_lightning.study.settings import Axis, StudySettings, option_name, option_names

BASE = "base"
Settings = dict[str, Any]


@dataclass(frozen=True)
class Point:
    """One choice of options.

    Args:
        name: What reports call it: `base`, `k=10`, `student=large, tokens=4M`.
        choices: Option of each axis, or its value in a range; an empty name where the axis is left as `fit` has it.
        varied: Axes whose option is not the base's.
        settings: Those of `fit`, but for seeds and the run folder.
        slug: Name of its folder: one for all points of the same settings.
    """

    name: str
    choices: Mapping[str, Any]
    varied: tuple[str, ...]
    settings: Settings
    slug: str

    @property
    def digest(self) -> str:
        """The same for points with the same settings, whatever they are called."""
        return digest(self.settings)[:8]


class DesignSpace:
    """The settings that any choice of options makes.

    Args:
        study: What is asked.

    Raises:
        FileNotFoundError: A YAML file that it names does not exist.
        ValueError: An axis names a setting that the base does not have.
    """

    def __init__(self, study: StudySettings) -> None:
        self.axes = study.axes
        self._fit = merged(study.fit)
        for section in ("model", "data"):
            if not isinstance(self._fit.get(section), dict):
                raise ValueError(
                    f"fit must have {section} as a mapping of settings, got {self._fit.get(section)!r}. Add {section} "
                    "to fit, with class_path and init_args where it is a class."
                )
        self._first_names: dict[str, str] = {}  # by settings
        self._overlays = {name: _overlays(name, axis, self._fit) for name, axis in study.axes.items()}
        self.base = {name: _base(axis, self._fit, self._overlays[name]) for name, axis in study.axes.items()}

    def point(self, choices: Mapping[str, Any]) -> Point:
        """The point of a choice: what is varied is laid over the base, a single setting over an option of many.

        Args:
            choices: Option of some axes, or a value of a range; the others have the base's.

        Raises:
            ValueError: An axis has no such option: a search had other ones when it drew it.
        """
        chosen = {**self.base, **choices}
        varied = tuple(axis for axis in self.axes if chosen[axis] != self.base[axis])
        settings = deepcopy(self._fit)
        for axis in sorted(chosen, key=lambda name: (name in varied, self.axes[name].path is not None)):
            choice = chosen[axis]
            if self.axes[axis].is_range:
                settings = override(settings, str(self.axes[axis].path), choice) if axis in varied else settings
            elif choice:
                if choice not in self._overlays[axis]:
                    raise ValueError(
                        f"axes.{axis} must keep its options during a search, got none called {choice}. Put it back, or "
                        "take another output_dir."
                    )
                settings = _laid(settings, self._overlays[axis][choice])
        name = ", ".join(f"{axis}={option_name(chosen[axis])}" for axis in varied) or BASE
        first = self._first_names.setdefault(digest(settings), name)
        return Point(name, chosen, varied, settings, slug(first, settings))

    def points(self, study: StudySettings) -> list[Point]:
        """The points that are known beforehand: all, but for a search.

        Args:
            study: What is asked.
        """
        if study.design == "search":
            return []
        if study.design == "grid":
            return self._distinct(self._grid(list(self.axes)))
        chosen: list[dict[str, str]] = [{}]
        for name, axis in self.axes.items():
            chosen += [{name: option} for option in option_names(axis)]
        for cross in study.crosses:
            chosen += self._grid(cross)
        return self._distinct(chosen)

    def _grid(self, names: list[str]) -> Iterator[dict[str, str]]:
        for options in product(*(option_names(self.axes[name]) for name in names)):
            yield dict(zip(names, options, strict=True))

    def _distinct(self, choices: Iterable[dict[str, str]]) -> list[Point]:
        points = {point.name: point for point in map(self.point, choices)}
        return list(points.values())


def merged(layers: list[Any], below: Settings | None = None) -> Settings:
    """Lay YAML files and mappings one over the other, as repeated --config does.

    Args:
        layers: Files and mappings.
        below: What they are laid over.

    Raises:
        FileNotFoundError: A file does not exist.
        ValueError: A layer is neither.
    """
    settings: Settings = below or {}
    for layer in layers:
        if not isinstance(layer, str | dict):
            raise ValueError(f"fit, options and config must be YAML files or mappings of settings, got {layer!r}.")
        if isinstance(layer, str) and not Path(layer).is_file():
            raise FileNotFoundError(
                f"fit, options and config of a study must name YAML files, got {layer}, which does not exist. Paths "
                "are relative to the folder in which the command is given."
            )
        settings = merge(settings, read_yaml(layer) if isinstance(layer, str) else layer)
    return settings


def slug(name: str, settings: Settings) -> str:
    """A folder's name: readable, and another one where settings are others.

    Args:
        name: What reports call the point.
        settings: Its settings.
    """
    readable = re.sub(r"[^A-Za-z0-9.]+", "-", name).strip("-.")[:60]
    return f"{readable}-{digest(settings)[:8]}"


def digest(settings: Any) -> str:
    """A name for settings.

    Args:
        settings: JSON values.
    """
    return hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()


Overlay = list[Any] | tuple[str, Any]  # layers of settings, or one setting and its value


def _overlays(name: str, axis: Axis, fit: Settings) -> dict[str, Overlay]:
    if axis.options is not None:
        return {
            option: layers if isinstance(layers, list) else [layers or {}] for option, layers in axis.options.items()
        }
    assert axis.path is not None
    try:
        override(fit, axis.path, None)
    except ValueError as error:
        raise ValueError(f"axes.{name}.path: {error}") from None
    return {option_name(value): (axis.path, value) for value in axis.values or []}


def _laid(settings: Settings, overlay: Overlay) -> Settings:
    return override(settings, *overlay) if isinstance(overlay, tuple) else merged(overlay, settings)


def _base(axis: Axis, fit: Settings, overlays: dict[str, Overlay]) -> Any:
    """The option that the base has: the one that is named, else the one that changes nothing."""
    if axis.base is not None:
        return axis.base if axis.is_range else option_name(axis.base)
    return next((option for option, overlay in overlays.items() if _laid(fit, overlay) == fit), "")
