"""The runs of a study as trials of Optuna, dealt to any number of workers, each to one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pd_lightning.redaction import redact_text
from pd_lightning.study import outline
from pd_lightning.study.figures import figures_of, priced, ratio_of
from pd_lightning.study.ledger import is_withdrawn, outline_of, rows_of
from pd_lightning.study.points import DesignSpace, Point
from pd_lightning.study.results import RESULTS, Row, write_results
from pd_lightning.study.roster import Ratio, Roster, Run, digest_of
from pd_lightning.study.sampling import draw, make_sampler
from pd_lightning.study.settings import StudySettings
from pd_lightning.study.storage import open_studies, resumed
from pd_lightning.study.trial import Lock

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial, Trial


@dataclass
class Claim:
    """A trial that is this worker's.

    Args:
        run: What to train.
        lock: The lock of its run folder, held.
        trial: Optuna's trial.
    """

    run: Run
    lock: Lock
    trial: Trial


class TrialQueue:
    """Deals out trials. Whatever it does, it does under one lock in the study's folder, whatever the storage.

    A trial that is running holds the lock of its run folder. One that is running by the storage's account and holds
    none was left by a worker that ended, and is taken up again.

    Args:
        study: What is asked.
        storage: Optuna's storage, see `open_studies`.
    """

    def __init__(self, study: StudySettings, storage: str | None) -> None:
        self.study = study
        self.folder = Path(study.output_dir)
        self.space = DesignSpace(study)
        self.roster = Roster(study, self.space)
        self._fixed = self.space.points(study)
        # Controls have no parameters: among the points they would lead a sampler astray.
        with self._lock():  # two that make SQLite's tables at once are one too many
            self._points, self._controls = open_studies(study, storage)

    def claim(self) -> Claim | None:
        """Take a trial: one that was left, else the next that waits, else, in a search, a new one.

        Returns:
            The claim; None where there is none to take now.
        """
        with self._lock():
            runs = self._ask_for_all()
            return self._left(runs) or self._next(runs) or self._drawn()

    def is_done(self) -> bool:
        """Whether nothing waits and nothing runs."""
        with self._lock():
            self._ask_for_all()
            return all(trial.state.is_finished() for _, trial in self._trials())

    def retry_failed(self) -> int:
        """Let the trials that failed wait again.

        Returns:
            Their number.
        """
        with self._lock():
            latest = {trial.user_attrs.get("key"): (study, trial) for study, trial in self._trials()}
            failed = [(study, trial) for study, trial in latest.values() if _has_failed(trial)]
            for study, trial in failed:
                kept = {name: value for name, value in trial.user_attrs.items() if name != "error"}
                study.enqueue_trial(trial.params, user_attrs={**kept, "again": True})
            return len(failed)

    def finish(self, claim: Claim, summary: dict[str, Any], value: float) -> None:
        """Put down a result.

        Args:
            claim: The trial.
            summary: Of its run.
            value: The study's metric.
        """
        figures = figures_of(summary, claim.run.settings, self.study)
        with self._lock():
            claim.trial.set_user_attr("figures", figures)
            claim.trial.set_user_attr("run", claim.run.folder)
            claim.trial.study.tell(claim.trial, value)
            claim.lock.release()

    def fail(self, claim: Claim, error: str) -> None:
        """Put down why there is no result.

        Args:
            claim: The trial.
            error: Why.
        """
        with self._lock():
            claim.trial.set_user_attr("error", redact_text(error))
            _withdraw(claim.trial)
            claim.lock.release()

    def write(self) -> list[Row]:
        """Write `study.json` and `results.csv` as things stand.

        Returns:
            The rows.
        """
        with self._lock():
            trials = [trial for _, trial in self._trials()]
            points = self.points()
            figures, ratio = self._counted(points, trials)
            rows = rows_of(self.roster.runs(points, ratio), trials, figures, self.study.metric)
            outline.write_study(self.folder, outline_of(self.study, self.space.base, points, self.roster, ratio))
            write_results(self.folder / RESULTS, rows)
        return rows

    def points(self) -> list[Point]:
        """The points that are asked for: of a search, those that were drawn."""
        if self.study.design != "search":
            return self._fixed
        drawn = [
            self.space.point(t.user_attrs["choices"])
            for t in self._points.get_trials(deepcopy=False)
            if "choices" in t.user_attrs
        ]
        return list({point.name: point for point in drawn}.values())

    def _lock(self) -> Lock:
        return Lock(self.folder / ".lock")

    def _trials(self) -> Iterator[tuple[Study, FrozenTrial]]:
        for study in (self._points, self._controls):
            yield from ((study, trial) for trial in study.get_trials(deepcopy=False))

    def _counted(self, points: list[Point], trials: list[FrozenTrial]) -> tuple[dict[str, dict[str, Any]], Ratio]:
        """What is known of the runs that are done, with teachers as `teachers` has them now.

        Returns:
            Their figures, by key, and the FLOPs of points, their teachers' included, over those of their students, from
            any seed. These go by the digest of settings: a name stays where `fit` has changed, and settings stay where
            a name has.
        """
        figures = {t.user_attrs["key"]: t.user_attrs["figures"] for t in trials if "figures" in t.user_attrs}
        ratios: dict[str, float] = {}
        for run in self.roster.runs(points, lambda _: None):
            if run.key in figures:
                figures[run.key] = priced(figures[run.key], run.settings, self.study)
                ratio = ratio_of(figures[run.key], self.study.controls)
                if ratio is not None:
                    ratios[digest_of(run.folder)] = ratio
        return figures, ratios.get

    def _ask_for_all(self) -> dict[str, Run]:
        """Let every run wait that is none of the trials yet."""
        trials = [trial for _, trial in self._trials()]
        points = self.points()
        _, ratio = self._counted(points, trials)
        runs: dict[str, Run] = {}
        for run in self.roster.runs(points, ratio):
            runs.setdefault(run.key, run)  # points of the same settings are one run
        known = {trial.user_attrs.get("key") for trial in trials if not is_withdrawn(trial)}
        for key, run in runs.items():
            if key not in known:
                self._study_of(run).enqueue_trial(self._params(run), user_attrs=_attributes(run))
        return runs

    def _params(self, run: Run) -> dict[str, Any]:
        return dict(run.choices) if self.study.design == "search" and run.role == outline.POINT else {}

    def _study_of(self, run: Run) -> Study:
        return self._points if run.role == outline.POINT else self._controls

    def _left(self, runs: dict[str, Run]) -> Claim | None:
        for study, left in self._trials():
            if left.state.name != "RUNNING":
                continue
            run = runs.get(left.user_attrs.get("key", ""))
            folder = left.user_attrs.get("run") if run is None else run.folder
            lock = self._taken(folder) if folder else None
            if run is not None and lock is not None:
                return Claim(run, lock, resumed(study, left))
            if lock is not None:  # of settings that are no longer asked for, and nobody trains
                _withdraw(resumed(study, left))
                lock.release()
            elif not folder:  # drawn by a worker that ended at once
                _withdraw(resumed(study, left))
        return None

    def _next(self, runs: dict[str, Run]) -> Claim | None:
        """The trial that waits and comes first in the order of the runs."""
        order = {key: place for place, key in enumerate(runs)}
        while True:
            first = [
                (order.get(trial.user_attrs.get("key", ""), -1), i)
                for i, study in enumerate((self._points, self._controls))
                for trial in [t for t in study.get_trials(deepcopy=False) if t.state.name == "WAITING"][:1]
            ]
            if not first:
                return None
            study = (self._points, self._controls)[min(first)[1]]
            trial = study.ask()
            run = runs.get(trial.user_attrs.get("key", ""))
            if run is None:
                _withdraw(trial)
                continue
            if self._params(run):
                draw(trial, self.study)
            if lock := self._taken(run.folder):
                return Claim(run, lock, trial)

    def _drawn(self) -> Claim | None:
        if self.study.design != "search":
            return None
        seed = self.study.seeds[0]
        trials = self._points.get_trials(deepcopy=False)
        told = [t.user_attrs for t in trials if "choices" in t.user_attrs]  # not those whose worker ended as it drew
        drawn = [known for known in told if known["seed"] == seed and "again" not in known]
        assert self.study.n_trials is not None
        if len(drawn) >= self.study.n_trials:
            return None
        self._points.sampler = make_sampler(self.study, len(trials))
        trial = self._points.ask()
        choices = draw(trial, self.study)
        point = self.space.point(choices)
        (run,) = [
            run for run in self.roster.runs([point], lambda _: None) if run.role == outline.POINT and run.seed == seed
        ]
        for name, value in _attributes(run).items():
            trial.set_user_attr(name, value)
        lock = self._taken(run.folder)
        return Claim(run, lock, trial) if lock else None

    def _taken(self, folder: str) -> Lock | None:
        lock = Lock(self.folder / folder / ".lock")
        if lock.take(wait=False):
            return lock
        lock.release()
        return None


def _has_failed(trial: FrozenTrial) -> bool:
    """Whether it ended with an error; one that a kill left amid putting it down goes on."""
    return trial.state.name == "FAIL" and "error" in trial.user_attrs


def _withdraw(trial: Trial) -> None:
    from optuna.trial import TrialState

    trial.study.tell(trial, state=TrialState.FAIL)


def _attributes(run: Run) -> dict[str, Any]:
    """What a trial is told of its run."""
    return {
        "role": run.role,
        "name": run.name,
        "seed": run.seed,
        "key": run.key,
        "choices": dict(run.choices),
        "run": run.folder,
    }
