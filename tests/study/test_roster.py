from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pd_lightning.store.manifest import read_manifest
from pd_lightning.study.controls import equal_flops_control, lm_control
from pd_lightning.study.points import DesignSpace
from pd_lightning.study.roster import Roster, Run, with_folder
from pd_lightning.study.settings import Axis, Controls, StudySettings

Ask = Callable[..., StudySettings]


def runs(study: StudySettings, ratios: dict[str, float] | None = None) -> list[Run]:
    space = DesignSpace(study)
    points = space.points(study)
    by_digest = {point.digest: (ratios or {}).get(point.name) for point in points}
    return Roster(study, space).runs(points, by_digest.get)


def test_each_point_has_its_control_and_equal_controls_are_one(ask: Ask) -> None:
    found = [(run.role, run.name, run.seed) for run in runs(ask(seeds=[1, 2]))]
    once = [
        ("point", "base"),
        ("lm", "lm"),
        ("point", "k=1"),
        ("point", "k=10"),
        ("point", "lr=0.02"),
        ("lm", "lm: lr=0.02"),
    ]
    assert found == [(*run, seed) for seed in (1, 2) for run in once]


def test_a_control_differs_from_its_point_in_the_teacher_alone(ask: Ask) -> None:
    point, control = (run.settings for run in runs(ask())[:2])
    assert control["model"] == {
        "student": point["model"]["student"],
        "lr": point["model"]["lr"],
        "teacher": {"class_path": "NoTeacher"},
    }
    assert {**control, "model": None} == {**point, "model": None}
    assert point["seed_everything"] == point["data"]["init_args"]["seed"] == 1


def test_controls_can_be_left_out(ask: Ask) -> None:
    assert {run.role for run in runs(ask(controls=Controls(lm=False)), {"base": 2.0})} == {"point", "equal_flops"}
    assert {run.role for run in runs(ask(controls=Controls(equal_flops=False)), {"base": 2.0})} == {"point", "lm"}


def test_a_point_without_a_teacher_needs_no_control(ask: Ask) -> None:
    alone = {"model": {"teacher": {"class_path": "pd_lightning.teachers.NoTeacher"}}}
    found = runs(ask(axes={"who": Axis(options={"taught": {}, "alone": alone})}))
    assert [run.name for run in found] == ["base", "lm", "who=alone"]


def test_equal_flops_come_when_the_flops_are_known(ask: Ask) -> None:
    """In steps, and on as many more blocks; last of all."""
    found = runs(ask(), {"base": 1.55, "k=1": 1.55, "lr=0.02": 1.0})
    longer = [run for run in found if run.role == "equal_flops"]
    assert [(run.name, found.index(run)) for run in longer] == [("equal flops, 16 steps", len(found) - 1)]
    assert longer[0].settings["trainer"]["max_steps"] == 16
    assert longer[0].settings["data"]["init_args"]["max_train_blocks"] == 64


@pytest.mark.parametrize(
    ("ratio", "steps", "interval"),
    [(1.5, 15, 5), (1.500001, 16, 4), (2.0, 20, 5), (1.0000001, 12, 4), (1.31, 15, 5), (1.61, 20, 5), (9.91, 100, 5)],
)
@pytest.mark.parametrize("accumulated", [1, 3])
def test_steps_at_equal_flops_are_never_too_few(
    ask: Ask, ratio: float, steps: int, interval: int, accumulated: int
) -> None:
    """And at most one too many for each validation, however far apart those of the point are."""
    trainer = {"val_check_interval": 5 * accumulated, "accumulate_grad_batches": accumulated}
    control = runs(ask(fit=[*ask().fit, {"trainer": trainer}]))[1].settings
    longer = equal_flops_control(control, ratio, None)["trainer"]
    assert (longer["max_steps"], longer["val_check_interval"]) == (steps, interval * accumulated)


def test_a_control_need_not_train_until_the_point_s_next_validation(ask: Ask) -> None:
    control = runs(ask(fit=[*ask().fit, {"trainer": {"max_steps": 1000, "val_check_interval": 1000}}]))[1].settings
    longer = equal_flops_control(control, 1.1, None)["trainer"]
    assert (longer["max_steps"], longer["val_check_interval"]) == (1100, 550)


def test_a_control_tells_the_options_that_matter_to_it(ask: Ask) -> None:
    by_name = {run.name: run.choices for run in runs(ask())}
    assert by_name["k=1"] == {"k": "1", "lr": "0.01"}
    assert by_name["lm"] == {"lr": "0.01"}
    assert by_name["lm: lr=0.02"] == {"lr": "0.02"}


def test_controls_of_other_settings_have_other_names(ask: Ask) -> None:
    """Where two axes do the same, neither alone makes the difference."""
    longer = {"trainer": {"max_steps": 20}}
    axes = {"tokens": Axis(options={"10": {}, "20": longer}), "all": Axis(options={"no": {}, "yes": longer})}
    study = ask(axes=axes, design="search", n_trials=2)
    space = DesignSpace(study)
    drawn = [space.point({"tokens": "20", "all": "yes"}), space.point({})]
    found = [run for run in Roster(study, space).runs(drawn, lambda _: None) if run.role == "lm"]
    steps = {run.name: run.settings["trainer"]["max_steps"] for run in found}
    assert steps == {"lm: tokens=20, all=yes": 20, "lm": 10}


def of_data(**settings: Any) -> dict[str, Any]:
    trainer = {"max_steps": 4, "val_check_interval": 2, "check_val_every_n_epoch": None}
    return {"model": {}, "data": {"init_args": settings}, "trainer": trainer}


def test_controls_read_the_blocks_of_a_store_with_their_tokens(blocks: Path, truncated_store: Path) -> None:
    """Then stores of several teachers share them: the same 40 and 12 blocks, in the same order."""
    settings = of_data(path=str(truncated_store), max_val_blocks=100)
    control = lm_control(settings, str(blocks))
    assert control["data"]["init_args"] == {"path": str(blocks), "max_train_blocks": 40, "max_val_blocks": 12}
    fewer = lm_control(of_data(path=str(truncated_store), max_train_blocks=8), str(blocks))
    assert fewer["data"]["init_args"]["max_train_blocks"] == 8
    longer = equal_flops_control(control, 2.0, str(blocks))
    assert longer["data"]["init_args"]["max_train_blocks"] == 80, "64 blocks are read, and 40 are too few"
    control["data"]["init_args"]["batch_size"] = 4
    short = equal_flops_control(control, 2.0, str(blocks))
    assert short["data"]["init_args"]["max_train_blocks"] == 40, "32 are read: the order stays as it is"
    control["trainer"]["devices"] = 2
    assert equal_flops_control(control, 2.0, str(blocks))["data"]["init_args"]["max_train_blocks"] == 80, "64 are read"
    most = equal_flops_control(control, 1000.0, str(blocks))["data"]["init_args"]["max_train_blocks"]
    assert most == read_manifest(blocks).splits["train"].num_blocks


def test_controls_stay_with_a_store_of_other_tokens(blocks: Path, truncated_store: Path) -> None:
    """Other blocks, or an order that is the teacher's."""
    turned = of_data(path=str(blocks))
    assert lm_control(turned, str(truncated_store))["data"] == turned["data"], "there are more than the store's"
    for choice in ({"min_teacher_step": 3}, {"train_fraction": 0.5}):
        of_store = of_data(path=str(truncated_store), **choice)
        assert lm_control(of_store, str(blocks))["data"] == of_store["data"]


@pytest.mark.parametrize(
    ("trainer", "message"),
    [
        ({"max_steps": 11}, "trainer.max_steps of base must be a multiple of the 5 steps between validations"),
        ({"max_steps": None}, "trainer.max_steps of base must be a number of steps, got None"),
        ({"val_check_interval": None}, "trainer must validate every so many batches"),
        ({"check_val_every_n_epoch": 1}, "Set trainer.val_check_interval to a number of batches and trainer.check_val"),
    ],
)
def test_runs_must_end_with_a_validation(ask: Ask, trainer: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        runs(ask(fit=[*ask().fit, {"trainer": trainer}]))


def test_accumulated_batches_are_one_step(ask: Ask) -> None:
    trainer = {"max_steps": 6, "val_check_interval": 9, "accumulate_grad_batches": 3}
    assert runs(ask(fit=[*ask().fit, {"trainer": trainer}]))
    uneven = {"max_steps": 10, "val_check_interval": 6, "accumulate_grad_batches": 4}  # validates after steps 3, 6, 9
    with pytest.raises(ValueError, match="must be a multiple of the 3 steps between validations"):
        runs(ask(fit=[*ask().fit, {"trainer": uneven}]))


def test_a_run_folder_and_a_summary_are_added() -> None:
    one = {"class_path": "One"}
    for given, expected in ((None, []), (one, [one]), ([one], [one])):
        trainer = with_folder({"trainer": {"callbacks": given}}, "x")["trainer"]
        assert trainer["default_root_dir"] == "x"
        assert trainer["callbacks"] == [*expected, {"class_path": "pd_lightning.callbacks.RunSummary"}]
