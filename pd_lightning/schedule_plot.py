"""The schedules of a run over its optimizer steps, as a figure and as a table: ``pd-lightning plot-schedules``."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, StrMethodFormatter
from rich.table import Table

from pd_lightning.module import DistillationModule
from pd_lightning.schedules import Schedule, check_schedules, grid
from pd_lightning.teachers import NoTeacher

FORMATS = (".png", ".pdf", ".svg")
# Okabe and Ito's colours, which colour-blind readers tell apart: blue, green, vermilion.
KD_WEIGHT, TEMPERATURE, LR = "#0072b2", "#009e73", "#d55e00"
GREY = "#555555"
STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "axes.grid": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.6,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "xtick.labelcolor": "black",
    "ytick.labelcolor": "black",
    "svg.fonttype": "none",
    "pdf.fonttype": 42,
}
WIDTH, HEIGHT = 6.5, 1.55  # inches, of the figure and of a panel: the text width of a paper
SETTINGS_WIDTH = 80  # characters that fit beside a panel's name


@dataclass(frozen=True)
class Curve:
    """A schedule over a run.

    Args:
        key: Its YAML key.
        label: What is scheduled, with its symbol.
        color: Colour of the curve.
        schedule: The schedule.
        steps: Optimizer steps, ascending.
        values: Value at each of them.
        top: Value that its axis must show.
    """

    key: str
    label: str
    color: str
    schedule: Schedule
    steps: Sequence[int]
    values: Sequence[float]
    top: float


def curves(module: DistillationModule, total_steps: int) -> list[Curve]:
    """Evaluate the schedules that a module trains with: KD weight and temperatures, if it has a teacher, and lr.

    Args:
        module: The module; its weights are not needed.
        total_steps: Optimizer steps of the run.

    Returns:
        One curve for each schedule.

    Raises:
        ValueError: If a value is not allowed, naming the YAML key.
    """
    check_schedules(module.kd_weight, module.objective.schedules(), module.lr, total_steps)
    found = []
    if not isinstance(module.teacher, NoTeacher):
        found.append(_curve("model.kd_weight", "KD weight α", KD_WEIGHT, module.kd_weight, total_steps, high=1.0))
        for name, schedule in module.objective.schedules().items():
            key = f"model.transforms.{name}"
            label = f"{name.removesuffix('.value')} τ"
            found.append(_curve(key, label, TEMPERATURE, schedule, total_steps))
    return [*found, _curve("model.lr", "learning rate", LR, module.lr, total_steps)]


def _curve(key: str, label: str, color: str, schedule: Schedule, total_steps: int, high: float = inf) -> Curve:
    steps = grid(total_steps)
    values = [schedule(step, total_steps) for step in steps]
    return Curve(key, label, color, schedule, steps, values, top=max(values) or 1.0 if high == inf else high)


def table(curves: Sequence[Curve]) -> Table:
    """Tabulate where each schedule starts and ends, and its extremes.

    Args:
        curves: The schedules.

    Returns:
        One row for each.
    """
    rows = Table(title=f"{curves[0].steps[-1] + 1:,} optimizer steps", title_justify="left")
    rows.add_column("schedule")
    for name in ("start", "min", "max", "end"):
        rows.add_column(name, justify="right")
    for curve in curves:
        values = (curve.values[0], min(curve.values), max(curve.values), curve.values[-1])
        rows.add_row(curve.key, *(f"{value:.4g}" for value in values))
    return rows


def draw(curves: Sequence[Curve], path: Path) -> None:
    """Draw one panel for each schedule, over the same steps.

    Args:
        curves: The schedules.
        path: The file to write, a PNG, PDF or SVG by its ending.

    Raises:
        ValueError: If the ending is another one.
    """
    check_format(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 0.4 + HEIGHT * len(curves)), dpi=200, layout="constrained")
        panels = figure.subplots(len(curves), sharex=True, squeeze=False)[:, 0]
        for panel, curve in zip(panels, curves, strict=True):
            _draw_panel(panel, curve)
        panels[-1].set_xlabel("optimizer step")
        panels[-1].xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        panels[-1].xaxis.set_major_locator(MaxNLocator(8, integer=True))
        figure.savefig(path)


def check_format(path: Path) -> None:
    """Refuse a file that would be no picture.

    Raises:
        ValueError: If the ending is not among `FORMATS`.
    """
    if path.suffix not in FORMATS:
        raise ValueError(f"--output_path must end in .png, .pdf or .svg, got {path}. Change --output_path.")


def _draw_panel(panel: Axes, curve: Curve) -> None:
    total_steps = curve.steps[-1] + 1
    # A value holds for its whole step: in a run of few steps, one sees the steps.
    steps, values = [*curve.steps, total_steps], [*curve.values, curve.values[-1]]
    panel.plot(steps, values, color=curve.color, linewidth=1.6, drawstyle="steps-post", clip_on=False, zorder=3)
    panel.fill_between(steps, values, step="post", color=curve.color, alpha=0.12, linewidth=0)
    panel.set_xlim(0, total_steps)
    panel.set_ylim(0, 1.05 * curve.top)
    panel.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
    panel.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    panel.set_title(curve.label, loc="left", fontsize=9, fontweight="bold")
    panel.set_title(_settings(curve.schedule), loc="right", fontsize=7, color=GREY)


def _settings(schedule: Schedule) -> str:
    """The settings in two lines at most."""
    return "\n".join(textwrap.wrap(repr(schedule), SETTINGS_WIDTH, max_lines=2, placeholder=" …"))
