"""Where Optuna keeps a study: a file in its folder, or a database that all its workers reach."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pd_lightning.study.settings import StudySettings

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.storages import BaseStorage
    from optuna.trial import FrozenTrial

SQLITE, JOURNAL = "study.db", "study.journal"


def open_studies(study: StudySettings, storage: str | None) -> tuple[Study, Study]:
    """Open Optuna's studies of the points and of the controls, or make them.

    Args:
        study: What is asked.
        storage: None for SQLite in the study's folder, `journal` for a journal file there, or the URL of a database.

    Raises:
        ModuleNotFoundError: Optuna is not installed.
        ValueError: The storage can't be opened.
    """
    optuna = _optuna()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        opened = _open(Path(study.output_dir), storage)
        found = [
            optuna.create_study(study_name=name, storage=opened, direction=study.direction, load_if_exists=True)
            for name in (study.name, f"{study.name} (controls)")
        ]
    except Exception as error:  # SQLAlchemy's, the driver's, or an import of the driver
        if storage in (None, "journal"):
            raise
        raise ValueError(
            f"storage must be journal or the URL of a database that can be opened, got an error of it "
            f"({type(error).__name__}: {str(error).splitlines()[0]}). Mend --storage, or install its driver."
        ) from error
    return found[0], found[1]


def resumed(study: Study, left: FrozenTrial) -> Trial:
    """A running trial whose worker ended, to go on with.

    Args:
        study: Of Optuna.
        left: The trial as it stands.
    """
    from optuna.trial import Trial

    return Trial(study, left._trial_id)  # Optuna can't hand a running trial over; it would have it failed and retried


def _optuna() -> Any:
    try:
        import optuna
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "study needs Optuna, which is not installed. Install it with: pip install 'pd-lightning[study]'"
        ) from error
    return optuna


def _open(folder: Path, storage: str | None) -> BaseStorage:
    from optuna.storages import JournalStorage, RDBStorage
    from optuna.storages.journal import JournalFileBackend

    folder.mkdir(parents=True, exist_ok=True)
    if storage == "journal":
        return JournalStorage(JournalFileBackend(str(folder / JOURNAL)))
    return RDBStorage(storage or f"sqlite:///{folder / SQLITE}")
