"""A progress bar of the whole run, counted in optimizer steps as pre-training is planned."""

import time
from datetime import timedelta
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import RichProgressBar
from lightning.pytorch.callbacks.progress.rich_progress import CustomBarColumn, RichProgressBarTheme
from rich.progress import ProgressColumn, Task, TextColumn
from rich.table import Column
from rich.text import Text

SHORT_NAMES = {"train/loss": "loss", "val/lm_loss": "val", "train/tokens_per_second": "tok/s"}
THEME = RichProgressBarTheme(
    progress_bar="bar.complete",
    progress_bar_finished="bar.finished",
    progress_bar_pulse="bar.pulse",
    metrics="",
    metrics_text_delimiter="  ",
)
SECONDS_BETWEEN_METRICS = 0.5
SECONDS_BETWEEN_LINES = 30.0


class RunProgress(RichProgressBar):
    """Shows one bar for the whole run: optimizer steps, elapsed • remaining time, steps a second, metrics.

    A resumed run's bar starts at the step it goes on from; its remaining time follows from the speed since. Metrics
    are those that the module logs with `prog_bar=True`. Validation, test and predict keep bars of their own. Where
    output is no terminal, a plain line every 30 seconds and one after each validation take the bar's place.

    Args:
        refresh_rate: Redraws a second, at most; 0 switches the display off.
        console_kwargs: Arguments of `rich.console.Console`.
    """

    def __init__(self, refresh_rate: int = 10, console_kwargs: dict[str, Any] | None = None) -> None:
        super().__init__(refresh_rate=refresh_rate, theme=THEME, console_kwargs=console_kwargs)
        self._metrics_time = self._line_time = 0.0

    def configure_columns(self, trainer: pl.Trainer) -> list[ProgressColumn]:
        """Give description, bar and status; Lightning adds the metrics. The bar yields where the terminal is narrow."""
        assert self._console is not None
        bar = CustomBarColumn(
            bar_width=min(40, max(8, self._console.width - 90)),
            complete_style=self.theme.progress_bar,
            finished_style=self.theme.progress_bar_finished,
            pulse_style=self.theme.progress_bar_pulse,
            table_column=Column(no_wrap=True),
        )
        return [TextColumn("{task.description}"), bar, StatusColumn()]

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Add the run's bar, at the step it starts from."""
        super().on_train_start(trainer, pl_module)
        self._line_time = time.monotonic()
        if self.progress is not None and self.is_enabled:
            self.train_progress_bar_id = self.progress.add_task(
                f"{'Training':{len(self.validation_description)}}",
                total=run_steps(trainer),
                completed=trainer.global_step,
                first=trainer.global_step,
            )

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Leave the bar alone: Lightning's starts anew here."""

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Move the bar; read the metrics now and then, since each reading waits for the device."""
        if self.is_disabled:
            return
        now = time.monotonic()
        if now - self._metrics_time >= SECONDS_BETWEEN_METRICS:
            self._update_metrics(trainer, pl_module)
            self._metrics_time = now
        self._update(self.train_progress_bar_id, trainer.global_step)
        if now - self._line_time >= SECONDS_BETWEEN_LINES:
            self._print_line(trainer, pl_module)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Show the new validation metrics."""
        super().on_validation_end(trainer, pl_module)
        if trainer.state.fn == "fit" and not trainer.sanity_checking and self.is_enabled:
            self._print_line(trainer, pl_module)

    def get_metrics(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule
    ) -> dict[str, int | str | float | dict[str, float]]:
        """Give the metrics that modules log with `prog_bar=True`, under short names, ours first."""
        logged = trainer.progress_bar_metrics
        names = [name for name in SHORT_NAMES if name in logged] + [name for name in logged if name not in SHORT_NAMES]
        return {SHORT_NAMES.get(name, name): figure(logged[name]) for name in names}

    def _print_line(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the bar's figures as a line of text, for logs."""
        self._line_time = time.monotonic()
        assert self._console is not None
        if self._console.is_terminal or self._console.is_jupyter:
            return
        metrics = [f"{name}: {value}" for name, value in self.get_metrics(trainer, pl_module).items()]
        line = "  ".join([f"step {status(self.train_progress_bar)}", *metrics])
        self._console.print(line, soft_wrap=True, highlight=False, markup=False)


class StatusColumn(ProgressColumn):
    """Done/total, elapsed • remaining time, speed."""

    def __init__(self) -> None:
        super().__init__(Column(no_wrap=True))

    def render(self, task: Task) -> Text:
        """Give a bar's figures as one piece of text."""
        return Text(status(task))


def run_steps(trainer: pl.Trainer) -> float:
    """Give the optimizer steps of the whole run, infinity where its length is not known."""
    total = trainer.estimated_stepping_batches
    return total if total > 0 else float("inf")


def status(task: Task) -> str:
    """Give done/total, elapsed • remaining time and speed of a bar; a run's bar has a `first` step and counts steps."""
    total = "--" if task.total in (None, float("inf")) else f"{task.total:.0f}"
    elapsed = task.finished_time if task.finished else task.elapsed
    times = f"{clock(elapsed)} • {clock(remaining_seconds(task))}"
    unit = "steps" if "first" in task.fields else "it"
    return f"{task.completed:.0f}/{total}  {times}  {task.speed or 0.0:.2f} {unit}/s"


def remaining_seconds(task: Task) -> float | None:
    """Give the seconds left, at a run's mean speed since it was started: validation slows it, and it counts."""
    done = task.completed - task.fields.get("first", task.completed)
    if done <= 0 or task.elapsed is None or task.remaining in (None, float("inf")):
        return task.time_remaining
    return task.elapsed / done * task.remaining


def clock(seconds: float | None) -> str:
    """Give m:ss, or h:mm:ss from an hour on."""
    return "-:--" if seconds is None else str(timedelta(seconds=int(seconds))).removeprefix("0:").removeprefix("0")


def figure(value: float) -> str:
    """Give a metric in six characters or so: 4.186, 950, 4.1k, 1.2M, 0.0006."""
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.1f}{unit}"
    if abs(value) >= 100:
        return f"{value:.0f}"
    return f"{value:.3f}" if abs(value) >= 0.1 else f"{value:.2g}"
