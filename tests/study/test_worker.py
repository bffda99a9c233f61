"""Workers and their queue, over trainings that are made up."""

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

pytest.importorskip("optuna")

from pd_lightning.study import queue as queues
from pd_lightning.study import trial, worker
from pd_lightning.study.outline import read_study
from pd_lightning.study.queue import TrialQueue
from pd_lightning.study.results import Row, read_results
from pd_lightning.study.roster import Run
from pd_lightning.study.settings import Axis, Controls, Step, StudySettings
from pd_lightning.study.storage import open_studies
from pd_lightning.study.trial import Lock, TrialError, metric
from pd_lightning.study.worker import work
from tests.study.conftest import AXES, TEACHER, summary

Ask = Callable[..., StudySettings]


def rows() -> dict[tuple[str, int], Row]:
    return {(row.point, row.seed): row for row in read_results(Path("out/results.csv"))}


def finish(queue: TrialQueue, claim: object) -> None:
    queue.finish(claim, summary(claim.run.settings), 1.0)  # type: ignore[attr-defined, arg-type]


@pytest.mark.parametrize("storage", [None, "journal"])
def test_a_study_runs_every_run_once(ask: Ask, trainings: list[str], storage: str | None) -> None:
    """FLOPs: the student takes 120 a token and the teacher 60 more, so that its control takes 15 steps, not 10."""
    work(ask(seeds=[1, 2]), storage)
    assert len(trainings) == len(set(trainings)) == len(rows()) == 16
    assert {row.state for row in rows().values()} == {"complete"}
    base, longer = rows()["base", 2], rows()["equal flops, 15 steps", 2]
    assert base.value == pytest.approx(4 - 0.5 - 0.2 + 0.2)
    assert longer.value == pytest.approx(4 - 0.3 + 0.2)
    assert base.total_flops == 10 * 128 * 180 == longer.total_flops
    assert (base.teacher_loss, base.teacher_training_flops) == (3.0, 3 * 60 * 1000)
    assert (longer.teacher_loss, longer.teacher_flops) == (None, 0.0)
    assert yaml.safe_load(Path("out", base.run, "trial.yaml").read_text())["seed_everything"] == 2
    study = read_study(Path("out"))
    assert [(p.name, p.lm, p.equal_flops) for p in study.points] == [
        ("base", "lm", "equal flops, 15 steps"),
        ("k=1", "lm", "equal flops, 15 steps"),
        ("k=10", "lm", "equal flops, 15 steps"),
        ("lr=0.02", "lm: lr=0.02", "equal flops, 15 steps: lr=0.02"),
    ]
    again = list(trainings)
    work(ask(seeds=[1, 2]), storage)
    assert trainings == again, "all is done"


def test_the_teacher_s_training_counts_where_it_shall(ask: Ask, trainings: list[str]) -> None:
    work(
        ask(
            axes={"k": Axis(path="model.transforms.truncate.k", values=[50])},
            controls=Controls(teacher_training=1.0, teacher_forward=0.0),
        ),
        None,
    )
    flops = 10 * 128 * 120 + 3 * 60 * 1000
    assert rows()["base", 1].total_flops == flops
    assert [name for name, _ in rows() if name.startswith("equal")] == ["equal flops, 25 steps"]  # 21.7, up to 5s


def test_points_of_the_same_settings_are_one_run(ask: Ask, trainings: list[str]) -> None:
    """One axis' value may be another's option: both are in the table, with both controls."""
    same = {"model": {"transforms": {"truncate": {"init_args": {"k": 10}}}}}
    axes = {"k": AXES["k"], "cut": Axis(options={"wide": {}, "narrow": same})}
    work(ask(axes=axes, seeds=[1, 2]), "journal")
    one, other = rows()["k=10", 2], rows()["cut=narrow", 2]
    assert (one.value, one.run, one.state) == (other.value, other.run, other.state)
    assert len(trainings) == len(set(trainings)) == 2 * 5  # base, k=1, k=10, and two controls
    points = {point.name: point for point in read_study(Path("out")).points}
    assert points["k=10"].slug == points["cut=narrow"].slug
    assert points["cut=narrow"].equal_flops == points["k=10"].equal_flops == "equal flops, 15 steps"


def test_a_longer_study_keeps_what_is_done(ask: Ask, trainings: list[str]) -> None:
    work(ask(), "journal")
    before = set(trainings)
    work(ask(seeds=[1, 2], axes={"k": Axis(path="model.transforms.truncate.k", values=[1, 10, 20, 50])}), "journal")
    assert [run for run in trainings if trainings.count(run) > 1] == []
    assert {key[0] for key in rows()} == {"base", "k=1", "k=10", "k=20", "lm", "equal flops, 15 steps"}
    assert any("k-20" in run for run in set(trainings) - before)


def test_controls_at_equal_flops_come_with_the_first_seed_that_is_done(ask: Ask) -> None:
    """Whatever becomes of the other seeds."""
    queue = TrialQueue(ask(seeds=[1, 2], axes={"k": Axis(path="model.transforms.truncate.k", values=[50])}), "journal")
    first = queue.claim()
    assert first is not None
    finish(queue, first)
    for _ in range(3):  # the control of the first seed; point and control of the second
        claim = queue.claim()
        assert claim is not None
        queue.fail(claim, "lost")
    assert [row.point for row in queue.write() if row.state == "waiting"] == ["equal flops, 15 steps"] * 2


def test_flops_of_an_earlier_base_say_nothing_of_the_new_one(ask: Ask, trainings: list[str]) -> None:
    axes = {"k": Axis(path="model.transforms.truncate.k", values=[50])}
    work(ask(axes=axes), "journal")
    trainer = {"trainer": {"max_steps": 20}}
    queue = TrialQueue(ask(axes=axes, fit=[*ask().fit, trainer]), "journal")
    assert {row.point for row in queue.write()} == {"base", "lm"}


def test_another_metric_is_read_from_what_is_done(ask: Ask, trainings: list[str]) -> None:
    work(ask(), "journal")
    before = len(trainings)
    work(ask(metric="val/perplexity"), "journal")
    assert len(trainings) == before
    assert rows()["base", 1].value == rows()["base", 1].figures["val/perplexity"]


def test_a_metric_that_no_run_has_is_told_at_once(ask: Ask, trainings: list[str]) -> None:
    with pytest.raises(ValueError, match=r"one of the validation figures val/lm_loss, val/perplexity, got val/loss"):
        work(ask(metric="val/loss"), "journal")
    assert len(trainings) == 1
    work(ask(), "journal")
    assert len(trainings) == len(set(trainings)) == len(rows()), "what was trained counts"
    with pytest.raises(ValueError, match=r"got val/loss"):
        work(ask(metric="val/loss"), "journal")


def test_an_option_of_another_name_keeps_what_is_done(ask: Ask, trainings: list[str]) -> None:
    cut = {"model": {"transforms": {"truncate": {"init_args": {"k": 3}}}}}
    for name in ("three", "3 ids"):
        work(ask(axes={"k": Axis(options={"50": {}, name: cut})}), "journal")
    assert len(trainings) == 4  # with the control at equal FLOPs, which stays the new name's too
    row = rows()["k=3 ids", 1]
    assert Path("out", row.run, "trial.yaml").is_file()
    assert {point.equal_flops for point in read_study(Path("out")).points} == {"equal flops, 15 steps"}


def test_a_failed_trial_keeps_its_error_and_the_others_go_on(ask: Ask, trainings: list[str]) -> None:
    study = ask(axes={"lr": Axis(path="model.lr.peak", values=[0.01, 666])})
    work(study, "journal")
    failed = rows()["lr=666", 1]
    assert (failed.state, failed.value) == ("failed", None)
    assert failed.error == "lr must be\nless than 666."
    assert rows()["base", 1].state == "complete"
    number = len(trainings)
    work(study, "journal")
    assert len(trainings) == number, "it is not tried again by itself"
    queue = TrialQueue(study, "journal")
    assert queue.retry_failed() == 2  # the point and its control
    work(study, "journal")
    assert len(trainings) == number + 2


def test_a_teacher_s_folder_may_be_written_in_several_ways(ask: Ask, trainings: list[str]) -> None:
    work(ask(teachers={"./store/": TEACHER}), "journal")
    assert rows()["base", 1].teacher_loss == 3.0


def test_an_error_that_a_kill_left_half_put_down_is_none(ask: Ask, trainings: list[str]) -> None:
    claim = TrialQueue(study := ask(), "journal").claim()
    assert claim is not None
    claim.trial.set_user_attr("error", "of a kill")
    claim.lock.release()
    work(study, "journal")
    assert {(row.state, row.error) for row in rows().values()} == {("complete", "")}
    assert TrialQueue(study, "journal").retry_failed() == 0


def test_secrets_of_an_error_are_not_kept(ask: Ask) -> None:
    queue = TrialQueue(ask(), "journal")
    claim = queue.claim()
    assert claim is not None
    queue.fail(claim, "no answer of https://me:hunter2@host/x")
    assert "hunter2" not in queue.write()[0].error


def test_a_training_that_a_signal_stopped_goes_on(
    ask: Ask, trainings: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(trial, "command", lambda *_: 128 + signal.SIGTERM)
        with pytest.raises(ValueError, match=r"training of base, seed 1, must run to its end, got SIGTERM\. Give the"):
            work(ask(), "journal")
    work(ask(), "journal")
    assert {row.state for row in rows().values()} == {"complete"}


def test_a_study_whose_first_trials_all_fail_stops(ask: Ask, trainings: list[str]) -> None:
    study = ask(fit=[*ask().fit, {"model": {"lr": {"init_args": {"peak": 666}}}}], axes={"k": AXES["k"]})
    with pytest.raises(ValueError, match=r"errors in all of the first 3\. That of base: lr must be\nless than 666"):
        work(study, "journal")
    assert len(trainings) == 3


def test_two_workers_take_no_trial_twice(ask: Ask) -> None:
    one, other = TrialQueue(ask(), "journal"), TrialQueue(ask(), "journal")
    keys = []
    while (claim := one.claim()) and (second := other.claim()):
        keys += [claim.run.key, second.run.key]
        finish(one, claim)
        finish(other, second)
    assert len(keys) == len(set(keys)) == 8
    assert one.is_done()
    assert other.is_done()


def test_workers_open_the_storage_one_after_the_other(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite's tables can be made once; a worker that tries at the same moment ends with an error."""
    free = []

    def opening(study: StudySettings, storage: str | None) -> object:
        lock = Lock(Path(study.output_dir, ".lock"))
        free.append(lock.take(wait=False))
        lock.release()
        return open_studies(study, storage)

    monkeypatch.setattr(queues, "open_studies", opening)
    TrialQueue(ask(), None)
    assert free == [False]


def test_a_trial_whose_worker_is_gone_is_taken_up_again(ask: Ask) -> None:
    """It has the same number: nothing fails, nothing is counted twice."""
    gone = TrialQueue(ask(), "journal").claim()
    assert gone is not None
    queue = TrialQueue(ask(), "journal")
    second = queue.claim()
    assert second is not None
    assert second.run.key != gone.run.key, "its lock is held: it runs"
    gone.lock.release()
    third = queue.claim()
    assert third is not None
    assert (third.run.key, third.trial.number) == (gone.run.key, gone.trial.number)
    assert not queue.is_done()


def test_what_is_no_longer_asked_for_is_not_run(ask: Ask, trainings: list[str]) -> None:
    TrialQueue(ask(), "journal").write()
    claim = TrialQueue(ask(), "journal").claim()
    assert claim is not None
    claim.lock.release()
    work(ask(axes={"k": Axis(path="model.transforms.truncate.k", values=[3, 50])}), "journal")
    assert {name for name, _ in rows()} == {"base", "k=3", "lm", "equal flops, 15 steps"}
    assert len(trainings) == 4


def test_what_is_asked_for_again_is_run(ask: Ask, trainings: list[str]) -> None:
    claim = TrialQueue(ask(), "journal").claim()
    assert claim is not None
    claim.lock.release()
    work(ask(axes={"k": AXES["k"]}), "journal")  # gives up what lr asked for
    states = {row.point: row.state for row in TrialQueue(ask(), "journal").write()}
    assert (states["base"], states["lr=0.02"]) == ("complete", "waiting")
    work(ask(), "journal")
    assert {row.state for row in rows().values()} == {"complete"}
    assert len(trainings) == len(set(trainings)) == 8


def test_a_worker_of_an_older_yaml_leaves_alone_what_another_runs(ask: Ask) -> None:
    claim = TrialQueue(ask(), "journal").claim()
    assert claim is not None
    other = TrialQueue(ask(fit=[*ask().fit, {"trainer": {"max_steps": 20}}]), "journal")
    assert other.claim() is not None
    finish(TrialQueue(ask(), "journal"), claim)
    assert claim.trial.study.trials[claim.trial.number].state.name == "COMPLETE"


def test_a_trial_that_somebody_else_queued_is_passed_over(ask: Ask, trainings: list[str]) -> None:
    study = ask()
    TrialQueue(study, "journal")._points.enqueue_trial({"k": "3"})
    work(study, "journal")
    assert {row.state for row in rows().values()} == {"complete"}


SEARCH = {
    "design": "search",
    "n_trials": 4,
    "axes": {
        "k": Axis(path="model.transforms.truncate.k", low=1, high=60),
        "lr": Axis(path="model.lr.peak", low=1e-3, high=1e-1, log=True),
        "cut": Axis(
            options={"bucket": {}, "none": {"model": {"transforms": {"truncate": {"init_args": {"tail": "none"}}}}}}
        ),
    },
}


def test_a_search_draws_points_each_with_every_seed_and_controls(ask: Ask, trainings: list[str]) -> None:
    work(ask(**SEARCH, seeds=[1, 2]), "journal")
    points = [row for row in rows().values() if row.role == "point"]
    assert len(points) == 8
    assert len({row.point for row in points}) == 4
    assert all(1 <= int(row.axes["k"]) <= 60 for row in points)
    study = read_study(Path("out"))
    assert all(point.lm is not None and point.equal_flops is not None for point in study.points)
    assert [axis.name for axis in study.axes] == ["k", "lr", "cut"]
    assert [option.value for option in study.axes[0].options] == sorted(
        float(point.axes["k"]) for point in study.points
    )


def test_a_search_that_was_cut_off_draws_what_it_would_have_drawn(
    ask: Ask, trainings: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(SEARCH, "n_trials", 14)  # TPE draws ten at random before it learns
    work(ask(**SEARCH, controls=Controls(lm=False, equal_flops=False)), "journal")
    whole = rows()
    study = ask(**SEARCH, controls=Controls(lm=False, equal_flops=False), output_dir="cut")
    for _ in range(14):
        queue = TrialQueue(study, "journal")
        lost = queue.claim()
        assert lost is not None
        lost.lock.release()  # killed: what it had claimed is left
        taken = TrialQueue(study, "journal").claim()
        assert taken is not None
        queue.finish(taken, (told := summary(taken.run.settings)), told["metrics"]["val/lm_loss"])
    assert {row.point: row.value for row in queue.write()} == {name: row.value for (name, _), row in whole.items()}


def test_a_draw_whose_worker_was_killed_amid_it_does_not_count(
    ask: Ask, trainings: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = TrialQueue(study := ask(**SEARCH), "journal")
    attributes = queues._attributes

    def half(run: Run) -> dict[str, Any]:
        return {name: value for name, value in attributes(run).items() if name in ("role", "name", "seed")}

    with monkeypatch.context() as amid:
        amid.setattr(queues, "_attributes", half)
        lost = queue.claim()
    assert lost is not None
    lost.lock.release()
    work(study, "journal")
    assert sum(row.role == "point" for row in rows().values()) == 4


def test_looking_at_what_others_run_draws_nothing(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    """An Optuna trial that is made anew asks its sampler, which a sequence of points would miss one of."""
    study = ask(**{**SEARCH, "n_trials": 1}, controls=Controls(lm=False))
    held = TrialQueue(study, "journal").claim()
    assert held is not None
    monkeypatch.setattr(queues, "resumed", lambda *_: pytest.fail("it runs elsewhere"))
    assert TrialQueue(study, "journal").claim() is None


def test_options_of_a_search_stay(ask: Ask, trainings: list[str]) -> None:
    work(ask(**SEARCH), "journal")
    axes = {**SEARCH["axes"], "cut": Axis(options={"bucket": {}})}
    with pytest.raises(ValueError, match=r"axes\.cut must keep its options during a search"):
        work(ask(**{**SEARCH, "axes": axes, "n_trials": 6}), "journal")


def test_a_loss_that_is_not_finite_is_a_failure() -> None:
    with pytest.raises(TrialError, match="val/lm_loss is not finite at the end: the training diverged"):
        metric({"metrics": {"val/lm_loss": None}}, "val/lm_loss")
    with pytest.raises(TrialError, match="metric must be one of the validation figures val/lm_loss, got val/x"):
        metric({"metrics": {"val/lm_loss": 1.0}}, "val/x")


def test_a_lock_is_held_by_one(tmp_path: Path) -> None:
    one, other = Lock(tmp_path / "x" / ".lock"), Lock(tmp_path / "x" / ".lock")
    assert one.take(wait=False)
    assert not other.take(wait=False)
    one.release()
    assert other.take(wait=False)
    other.release()


def test_a_database_is_tried_before_anything_is_prepared(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    prepared: list[StudySettings] = []
    monkeypatch.setattr(worker, "prepare", lambda study, _: prepared.append(study))
    with pytest.raises(ValueError, match="storage must be journal or the URL of a database"):
        work(ask(prepare={"blocks": Step("tokenize", [])}), "nonsense://nowhere")
    assert prepared == []


def test_a_database_that_cannot_be_opened_is_named(ask: Ask) -> None:
    with pytest.raises(ValueError, match="storage must be journal or the URL of a database that can be opened"):
        TrialQueue(ask(), "nonsense://x")


def test_a_teacher_that_is_told_later_counts_for_runs_that_are_done(ask: Ask, trainings: list[str]) -> None:
    """Then its controls at equal FLOPs come, and no point is trained again."""
    work(ask(teachers={}), "journal")
    assert rows()["base", 1].total_flops is None
    assert not [name for name, _ in rows() if name.startswith("equal")]
    number = len(trainings)
    work(ask(), "journal")
    assert rows()["base", 1].total_flops == 10 * 128 * 180
    assert (rows()["base", 1].teacher_loss, rows()["lm", 1].teacher_loss) == (3.0, None)
    assert [name for name, _ in rows() if name.startswith("equal")] == [
        "equal flops, 15 steps",
        "equal flops, 15 steps: lr=0.02",
    ]
    assert len(trainings) == number + 2
