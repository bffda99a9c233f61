"""What a study asks: its axes, seeds and controls, as its YAML states them."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Literal

Design = Literal["one_factor", "grid", "search"]
Preparation = Literal["tokenize", "fit", "export", "record", "select", "import-logits"]
# Plain dict and list: what is typed more closely, jsonargparse would take apart, and make objects of class_paths.
Layer = str | dict  # a YAML file, or settings
SEARCH_ONLY = ("low", "high", "log", "step")


@dataclass
class Axis:
    """One axis of the design space: a setting with its values, or named overlays, or a range to search in.

    Args:
        path: The setting of `fit` that is varied, with dots, as on the command line.
        values: Its values.
        options: Overlays by name, in place of path and values: each a mapping of settings, a YAML file, or a list of
            these; an empty mapping changes nothing. For what changes more than one number, a class say.
        base: The value, or the option's name, that the base has. Default: the option that changes nothing; else none
            of them, and the base is what `fit` says.
        title: What reports call it. Default: its name.
        low: Smallest value to search; in place of values.
        high: Largest value to search.
        log: Whether to search between them on a logarithmic scale.
        step: Distance of the values to search.
    """

    path: str | None = None
    values: list | None = None
    options: dict | None = None
    base: str | int | float | bool | None = None
    title: str = ""
    low: float | int | None = None
    high: float | int | None = None
    log: bool = False
    step: float | int | None = None

    def __post_init__(self) -> None:
        if self.options is not None:  # YAML reads names such as 0.5 and no as numbers and truth values
            self.options = {option_name(name): overlay for name, overlay in self.options.items()}

    @property
    def is_range(self) -> bool:
        """Whether values are drawn from a range."""
        return self.low is not None


@dataclass
class Controls:
    """Which students on the text alone each point is compared with.

    Args:
        lm: The same run without a teacher: the same learning-rate schedule, tokens and order.
        equal_flops: The same student without a teacher, trained for longer: as many FLOPs in all as the point takes,
            those of its teacher included.
        blocks: Token blocks that the stores were recorded from. Controls read them instead of a store with the same
            tokens: so several stores share their controls, and the longer runs find fresh tokens.
        teacher_forward: Share of the teacher's forward pass that counts for equal_flops: 1 where the store is made
            for one student, 1/n where n students share it.
        teacher_training: Share of the teacher's own training that counts: 0 where it is there already.
    """

    lm: bool = True
    equal_flops: bool = True
    blocks: str | None = None
    teacher_forward: float = 1.0
    teacher_training: float = 0.0


@dataclass
class Step:
    """A command that is run once, before any trial.

    Args:
        command: The command of `pd-lightning`.
        config: Its settings: YAML files and mappings, laid one over the other.
    """

    command: Preparation
    config: list[Layer] = field(default_factory=list)


@dataclass
class Slurm:
    """How workers are submitted as SLURM jobs, through submitit.

    Args:
        timeout_min: Minutes that a job may take; a study goes on where its jobs ended.
        parameters: Further parameters of submitit's executor: slurm_partition, gpus_per_node, cpus_per_task, mem_gb,
            slurm_account, slurm_setup …
        cluster: slurm, or local to try it without one.
    """

    timeout_min: int = 24 * 60
    parameters: dict = field(default_factory=dict)
    cluster: Literal["slurm", "local"] = "slurm"


@dataclass
class StudySettings:
    """All that a worker needs to know; `study.yaml` in the study's folder holds them."""

    fit: list[Layer]
    output_dir: str
    axes: dict[str, Axis]
    name: str
    title: str = ""
    design: Design = "one_factor"
    crosses: list[list[str]] = field(default_factory=list)
    seeds: list[int] = field(default_factory=lambda: [1])
    seed_settings: list[str] = field(default_factory=lambda: ["seed_everything", "data.init_args.seed"])
    controls: Controls = field(default_factory=Controls)
    prepare: dict[str, Step] = field(default_factory=dict)
    teachers: dict[str, Layer] = field(default_factory=dict)
    metric: str = "val/lm_loss"
    direction: Literal["minimize", "maximize"] = "minimize"
    n_trials: int | None = None
    sampler: Literal["tpe", "gp", "qmc", "random"] = "tpe"
    sampler_seed: int = 1
    threads: int | None = None

    def __post_init__(self) -> None:
        for name, axis in self.axes.items():
            _check_axis(name, axis, self.design)
        _check_paths(self.axes)
        for cross in self.crosses:
            _check_cross(cross, self.axes)
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds must be different whole numbers, one or more, got {self.seeds}. Set seeds.")
        if not self.fit:
            raise ValueError("fit must name the YAML files of the base run, got none. Set fit, as in fit: [run.yaml].")
        if (self.n_trials or 0) < 1 if self.design == "search" else self.n_trials is not None:
            raise ValueError(
                f"n_trials must be set for design search, and for no other, got {self.n_trials} for {self.design}. Set "
                "n_trials to the number of points, or change design."
            )
        if self.design != "one_factor" and self.crosses:
            raise ValueError(f"crosses must be of design one_factor, got them for {self.design}. Remove crosses.")
        _check_direction(self.metric, self.direction)
        for setting in ("teacher_forward", "teacher_training"):
            if getattr(self.controls, setting) < 0:
                raise ValueError(f"controls.{setting} must not be negative, got {getattr(self.controls, setting)}.")


def _check_direction(metric: str, direction: str) -> None:
    """Metrics whose names tell which way is better; of others the user knows."""
    words = set(re.split(r"[^a-z0-9]+", metric.lower()))
    higher, lower = words & {"acc", "accuracy", "agreement"}, words & {"loss", "perplexity"}
    better = "maximize" if higher and not lower else "minimize" if lower and not higher else direction
    if direction != better:
        raise ValueError(f"direction must be {better} for {metric}, got {direction}. Set direction: {better}.")


def _check_axis(name: str, axis: Axis, design: str) -> None:
    where = f"axes.{name}"
    given = [key for key in ("values", "options", "low") if getattr(axis, key) is not None]
    if len(given) != 1:
        raise ValueError(
            f"{where} must have values, options, or low and high, got {' and '.join(given) or 'none of them'}. Set one."
        )
    if (axis.path is None) != (axis.options is not None):
        raise ValueError(f"{where}.path must be given with values and ranges, and not with options. Mend {where}.")
    if axis.is_range:
        if design != "search":
            raise ValueError(f"{where} must have values for design {design}, got a range. Set {where}.values.")
        assert axis.low is not None
        if axis.high is None or not axis.low < axis.high or (axis.log and (axis.low <= 0 or axis.step)):
            raise ValueError(
                f"{where} must be a range with low below high, above 0 and without step where log is true, got low "
                f"{axis.low}, high {axis.high}, step {axis.step}. Mend {where}."
            )
    elif axis.high is not None or axis.log or axis.step is not None:
        raise ValueError(f"{where} must have high, log and step with low alone, got them with {given[0]}. Remove them.")
    elif not (axis.values or axis.options):
        raise ValueError(f"{where} must have one value or more, got none. Fill {where}.{given[0]}.")
    names = option_names(axis)
    if len(set(names)) < len(names):
        raise ValueError(f"{where}.values must differ, got {names}. Remove what is there twice.")
    if axis.base is not None and not axis.is_range and option_name(axis.base) not in names:
        raise ValueError(f"{where}.base must be one of {', '.join(names)}, got {axis.base}. Mend {where}.base.")


def _check_paths(axes: dict[str, Axis]) -> None:
    """Two axes of one setting would have one of them report values that no run had."""
    first: dict[str, str] = {}
    for name, axis in axes.items():
        if axis.path is not None:
            path = ".".join(part for part in axis.path.split(".") if part != "init_args")
            if path in first:
                raise ValueError(
                    f"axes.{name}.path must be a setting that no other axis varies, got {axis.path}, which is that of "
                    f"axes.{first[path]}. Put the values of both into one axis."
                )
            first[path] = name


def _check_cross(cross: list[str], axes: dict[str, Axis]) -> None:
    for name in cross:
        if name not in axes:
            raise ValueError(f"crosses must name axes, which are {', '.join(axes)}, got {name}. Mend crosses.")
    if len(set(cross)) < max(2, len(cross)):
        raise ValueError(f"crosses must each have two different axes or more, got {cross}. Mend crosses.")


def option_names(axis: Axis) -> list[str]:
    """The names of an axis's options, in their order; none for a range.

    Args:
        axis: The axis.
    """
    return list(axis.options) if axis.options is not None else [option_name(value) for value in axis.values or []]


def option_name(value: Any) -> str:
    """What reports call a value: numbers as YAML's users type them.

    Args:
        value: A value of a setting.
    """
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    return f"{value:g}" if isinstance(value, float) and not value.is_integer() else str(value)
