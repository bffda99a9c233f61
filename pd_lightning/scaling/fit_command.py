"""`pd-lightning scaling-law fit`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from rich.console import Console

from pd_lightning.scaling.analysis import Analysis, analyse
from pd_lightning.scaling.fitting import Fit, fit, scientific
from pd_lightning.scaling.law_file import load_law, published_supervised, save_law
from pd_lightning.scaling.laws import LAWS
from pd_lightning.scaling.page import print_tables, write_page
from pd_lightning.scaling.reading import Role, Row, as_runs, read_rows


def fit_law(
    results: str | list[str],
    output_dir: str,
    law: Literal["chinchilla", "generalized", "chinchilla_kd", "apple"] = "chinchilla",
    role: Role | None = None,
    axes: list[str] | None = None,
    metric: str = "val/lm_loss",
    supervised_law: str = "chinchilla",
    hold_out: int = 1,
    folds: int = 5,
    bootstrap: int = 200,
    seed: int = 0,
    huber_delta: float = 1e-3,
    starts: int = 16,
) -> Analysis:
    """Fit a scaling law to the runs of a study: coefficients with intervals, held-out errors, a page with plots.

    Args:
        results: The results.csv or the folder of a study, or folders of runs; several as a list.
        output_dir: Where law.json and report.html go.
        law: Its form. `chinchilla`, `generalized` and their formulas are for students with or without a teacher;
            `chinchilla_kd` and `apple` need the teacher's loss.
        role: Fit to `distilled` or to `supervised` students (the controls of a study); by default to distilled ones
            where the law needs a teacher, else to supervised ones.
        axes: Keep the points of a study that differ from its base in these axes alone, as [student, tokens, teacher].
        metric: The validation figure that is the loss, in nats per token.
        supervised_law: For laws with a teacher, what the same student's loss is without: `chinchilla` or `generalized`,
            fitted to the supervised runs of the results; `published`; or a law.json.
        hold_out: How many of the largest students, by operations, a second fit does without and predicts, with all
            their teachers and seeds; 0 for none.
        folds: In how many parts the points are split, each predicted from the others; 0 for none.
        bootstrap: How many times the points are drawn again for the intervals; 0 for no intervals.
        seed: Of bootstrap and folds.
        huber_delta: Where the Huber loss on log losses turns from squares to absolute values.
        starts: From how many points the optimizer descends.

    Returns:
        What was found.

    Raises:
        FileNotFoundError: There are no results at a path.
        ValueError: A setting is out of its range, runs are too few, or figures are missing.
    """
    _check(hold_out, folds, bootstrap, huber_delta, starts)
    scientific("scipy.optimize")
    folder = Path(output_dir)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"output_dir must be a folder, got {folder}, which is a file. Set --output_dir.")
    paths = [results] if isinstance(results, str) else results
    if not paths:
        raise ValueError("results must name runs or a study's folder, got none. Set --results.")
    if "perplexity" in metric:
        raise ValueError(f"metric must be a loss in nats, got {metric}. Set --metric to val/lm_loss, say.")
    chosen = LAWS[law]
    role = role or ("distilled" if chosen.needs_teacher else "supervised")
    if chosen.needs_teacher and role == "supervised":
        raise ValueError(f"role must be distilled for {law}, got supervised. Leave --role out, or name another --law.")
    rows = read_rows(paths, metric, axes)
    runs = as_runs(rows, role, chosen.needs_teacher)
    supervised = _supervised(supervised_law, rows, chosen.needs_supervised) if chosen.needs_teacher else None
    found = analyse(chosen, runs, supervised, hold_out, folds, bootstrap, seed, huber_delta, starts)
    folder.mkdir(parents=True, exist_ok=True)
    save_law(folder / "law.json", found, role, metric, paths)
    write_page(folder / "report.html", found, f"Made by pd-lightning scaling-law fit from {', '.join(paths)}.")
    print_tables(found, Console())
    print(f"Wrote {folder / 'law.json'} and {folder / 'report.html'}.")
    return found


def _check(hold_out: int, folds: int, bootstrap: int, delta: float, starts: int) -> None:
    least = {"hold_out": (hold_out, 0), "bootstrap": (bootstrap, 0), "starts": (starts, 1)}
    for name, (value, low) in least.items():
        if value < low:
            raise ValueError(f"{name} must be {low} or more, got {value}. Set --{name}.")
    if folds < 0 or folds == 1:
        raise ValueError(f"folds must be 0 or 2 and more, got {folds}. Set --folds.")
    if not delta > 0:
        raise ValueError(f"huber_delta must be positive, got {delta}. Set --huber_delta, as to 1e-3.")


def _supervised(name: str, rows: Sequence[Row], needed: bool) -> Fit | None:
    """The law for students without a teacher; None where there are no runs for it, and the law does without."""
    if name == "published":
        return published_supervised()
    if name not in ("chinchilla", "generalized"):
        return load_law(name).fitted
    if not needed and all(row["distilled"] for row in rows):
        return None
    try:
        return fit(LAWS[name], as_runs(rows, "supervised"))
    except ValueError as error:
        if needed:
            raise
        print(f"Without a law for students without a teacher: {error}")
        return None
