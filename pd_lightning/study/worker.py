"""A worker of a study: it takes trials until there are none."""

from __future__ import annotations

import time

from pd_lightning.study.figures import check_trained
from pd_lightning.study.prepare import prepare
from pd_lightning.study.queue import TrialQueue
from pd_lightning.study.results import COMPLETE, FAILED, Row
from pd_lightning.study.settings import StudySettings
from pd_lightning.study.trial import MissingFigureError, TrialError, TrialStoppedError, metric, missing, run_trial

_SECONDS_BETWEEN_LOOKS = 3.0
_FAILURES_AT_START = 3


def work(study: StudySettings, storage: str | None) -> None:
    """Prepare what is shared, then train one trial after the other until none is left.

    Args:
        study: What is asked.
        storage: Optuna's storage, see `open_studies`.
    """
    if study.prepare:
        TrialQueue(study, storage)  # a database that can't be opened is told before hours of preparing
        prepare(study, _say)
    check_trained(study.teachers)
    queue = TrialQueue(study, storage)
    _check_metric(queue.write(), study.metric)
    while True:
        claim = queue.claim()
        if claim is None:
            if queue.is_done():
                return
            time.sleep(_SECONDS_BETWEEN_LOOKS)  # others run, and what they find may ask for further controls
            continue
        started = time.monotonic()
        try:
            summary = run_trial(queue.folder, claim.run, claim.lock, study.threads)
            value = metric(summary, study.metric)
        except TrialStoppedError:
            claim.lock.release()
            raise
        except TrialError as error:
            if isinstance(error, MissingFigureError) and not _has_values(queue.write()):
                claim.lock.release()  # as it is trained, it counts as soon as metric is mended
                raise ValueError(str(error)) from error
            queue.fail(claim, str(error))
            said = f"failed: {str(error).splitlines()[0]}"
        else:
            queue.finish(claim, summary, value)
            said = f"{study.metric} {value:.4f}"
        rows = queue.write()
        _stop_if_hopeless(rows)
        _say(f"{_done(rows)} {claim.run.name}, seed {claim.run.seed}: {said} ({time.monotonic() - started:.0f} s)")


def _check_metric(rows: list[Row], name: str) -> None:
    """Refuse a metric that none of the finished runs has."""
    figures = dict.fromkeys(figure for row in rows if row.state == COMPLETE for figure in row.figures)
    if figures and name not in figures:
        raise ValueError(missing(name, figures))


def _has_values(rows: list[Row]) -> bool:
    return any(row.value is not None for row in rows)


def _stop_if_hopeless(rows: list[Row]) -> None:
    """Don't go through a whole study whose first trials all fail."""
    failed = [row for row in rows if row.state == FAILED]
    if len(failed) >= _FAILURES_AT_START and not any(row.state == COMPLETE for row in rows):
        raise ValueError(
            f"trials must succeed, got errors in all of the first {len(failed)}. That of {failed[0].point}: "
            f"{failed[0].error}\nMend the YAML and start again; --retry_failed=true tries the same once more."
        )


def _done(rows: list[Row]) -> str:
    done = sum(row.state in (COMPLETE, FAILED) for row in rows)
    return f"[{done}/{len(rows)}]"


def _say(line: str) -> None:
    print(line, flush=True)
