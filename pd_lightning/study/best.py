"""The best configuration of a study, as a YAML to run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pd_lightning.composition.yaml_files import as_yaml, read_yaml
from pd_lightning.redaction import redact
from pd_lightning.store.durable import write_durably
from pd_lightning.study.compared import Compared, Result
from pd_lightning.study.results import COMPLETE
from pd_lightning.study.trial import TRIAL

BEST = "best.yaml"


def write_best(compared: Compared) -> str | None:
    """Write `best.yaml`: the settings of the best point's first seed, for a run folder of its own.

    Args:
        compared: The study's results.

    Returns:
        What it says, or None where no point has a result for every seed, or its settings are gone.
    """
    best = compared.ranked(compared.study.points)[:1]
    settings = _settings(compared.folder, compared.result(best[0])) if best else None
    if settings is None:
        return None
    trainer = {**(settings.get("trainer") or {}), "default_root_dir": _new_folder(compared.folder).as_posix()}
    file = compared.folder / BEST
    text = f"# pd-lightning fit --config {file.as_posix()}\n{as_yaml(redact({**settings, 'trainer': trainer}))}"
    write_durably(file, text.encode())
    return text


def _settings(folder: Path, result: Result) -> dict[str, Any] | None:
    runs = {row.seed: folder / row.run / TRIAL for row in result.rows if row.state == COMPLETE}
    path = runs[min(runs)]
    return read_yaml(str(path)) if path.is_file() else None


def _new_folder(study: Path) -> Path:
    names = ["best", *(f"best-{number}" for number in range(2, 1000))]
    return next(folder for name in names if not (folder := study / name).exists())
