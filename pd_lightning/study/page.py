"""The report of a study, ``report.html``, and its best configuration, ``best.yaml``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pd_lightning.redaction import redact_text
from pd_lightning.report import Code, Section, Table, write_report
from pd_lightning.study.best import BEST, write_best
from pd_lightning.study.compared import Compared
from pd_lightning.study.curves import curves_section
from pd_lightning.study.outline import SEARCH, STUDY
from pd_lightning.study.page_axes import axis_section
from pd_lightning.study.page_costs import costs_section
from pd_lightning.study.page_crosses import cross_sections
from pd_lightning.study.page_search import search_sections
from pd_lightning.study.page_summary import introduction, summary_section
from pd_lightning.study.results import FAILED, RESULTS
from pd_lightning.study.texts import places
from pd_lightning.version import __version__

REPORT = "report.html"

METHOD = """
Every point and control is trained with the same seeds. ± is half of the 95% interval of the mean over seeds, by
Student's t. Differences are taken seed by seed, ours less theirs, so that what a seed does to both drops out; a seed
that one side lacks is left out.

A difference is better or worse only where its interval leaves out 0; else it is within noise. That is not proof of no
difference: more seeds make the interval narrower. One seed has no interval, and no verdict.

LM only is plain pre-training under the same learning rate schedule, tokens and order. LM only at equal FLOPs trains
longer, on more tokens, until it has cost what the point cost with its teacher.

The best of several options is chosen by the same runs that measure it, so its mean flatters it a little.
"""


def write_study_report(folder: Path) -> Path:
    """Write `report.html` and `best.yaml` of a study, finished or not.

    Args:
        folder: The study's folder, with `study.json`.

    Returns:
        The report's path.

    Raises:
        FileNotFoundError: There is no `study.json`.
        ValueError: It or `results.csv` is not as a study writes it, or scipy is missing.
    """
    folder = Path(folder)
    compared = Compared(folder)
    decimals = places(result.mean for result in compared.results())
    write_report(
        folder / REPORT,
        compared.study.title,
        introduction(compared, decimals),
        sections=list(_sections(compared, decimals)),
        footer=f"Made by pd-lightning {__version__} from {STUDY} and {RESULTS} of the study {compared.study.name}. "
        "The same command with --report_only=true makes it again.",
    )
    return folder / REPORT


def _sections(compared: Compared, decimals: int) -> Iterator[Section]:
    study = compared.study
    if study.design == SEARCH:
        yield from search_sections(compared, decimals)
    else:
        yield summary_section(compared, decimals)
        yield from (axis_section(compared, axis, decimals) for axis in study.axes)
        yield from cross_sections(compared, decimals)
    yield curves_section(compared)
    yield costs_section(compared, decimals)
    yield from _failed(compared)
    yield from _best(compared)
    yield Section("How this report is made", [METHOD])


def _failed(compared: Compared) -> Iterator[Section]:
    failed = [(row, redact_text(row.error).strip()) for row in compared.rows if row.state == FAILED]
    if not failed:
        return
    rows = [[row.point, row.seed, error.rpartition("\n")[2] or None, row.run] for row, error in failed]
    table = Table("", ("run", "seed", "error", "folder"), rows, "The whole output is in fit.log of a run's folder.")
    whole = [Code(error, f"The error of {row.point}, seed {row.seed}") for row, error in failed if "\n" in error]
    yield Section("Failed runs", [table, *whole])


def _best(compared: Compared) -> Iterator[Section]:
    text = write_best(compared)
    if text is None:
        return
    (best, *_) = compared.ranked(compared.study.points)
    path = compared.folder / BEST
    yield Section(
        "Best configuration",
        [
            f"{best.name}, by its mean over seeds. It trains in a folder of its own, with the first seed:",
            Code(f"pd-lightning fit --config {path.as_posix()}"),
            Code(text, "All of its settings"),
        ],
    )
