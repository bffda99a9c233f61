"""What of a study is checked before anything runs."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pd_lightning.study import options
from pd_lightning.study.options import check_options, check_sources
from pd_lightning.study.settings import Axis, Controls, Step, StudySettings

Ask = Callable[..., StudySettings]
RANGE = Axis(path="model.lr.peak", low=0.001, high=0.1)


def test_a_name_that_is_no_setting_of_fit(ask: Ask) -> None:
    """By the parser of fit, in its own process."""
    axes = {
        "k": Axis(path="model.transforms.truncate.k", values=[50, 10]),
        "α": Axis(path="model.kd_wieght", values=[1]),
    }
    with pytest.raises(ValueError, match=r"^α=1 must be settings of fit: .*'model\.kd_weight'\?$"):
        check_options(ask(fit=[*ask().fit, {"data": {"class_path": "pd_lightning.data.TokenBlocks"}}], axes=axes))


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"design": "grid", "seeds": [1, 2]}, {"base", "lm", "k=1", "k=10", "lr=0.02", "lm: lr=0.02"}),
        (
            {"design": "search", "n_trials": 9, "axes": {"lr": RANGE}, "controls": Controls(lm=False)},
            {"base", "lr=0.001", "lr=0.1"},
        ),
        (
            {
                "axes": {"lr": Axis(path="model.lr.peak", values=[0.01])},
                "prepare": {"it": Step("fit", [{"trainer": {}}])},
            },
            {"prepare.it", "base", "lm"},
        ),
    ],
)
def test_each_option_is_looked_at_alone(
    ask: Ask, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], names: set[str]
) -> None:
    given: list[str] = []

    def run(arguments: list[str], **_: Any) -> SimpleNamespace:
        given.extend(json.loads(Path(arguments[-1]).read_text()))
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr(options.subprocess, "run", run)
    check_options(ask(**changes))
    assert set(given) == names


@pytest.mark.parametrize(
    ("teachers", "equal_flops", "said"),
    [({"other": {}}, True, True), ({"other": {}}, False, False), (None, True, False)],
)
def test_a_store_whose_teacher_is_not_known_is_told(
    ask: Ask,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
    teachers: dict | None,
    equal_flops: bool,
    said: bool,
) -> None:
    monkeypatch.setattr(options.subprocess, "run", lambda *_, **__: SimpleNamespace(returncode=0))
    changes = {} if teachers is None else {"teachers": teachers}
    check_options(ask(controls=Controls(equal_flops=equal_flops), **changes))
    assert ("No control at equal FLOPs can be made for store: teachers does not" in capsys.readouterr().out) is said


def test_folders_that_come_about_under_prepare(ask: Ask) -> None:
    steps = {
        "blocks": Step("tokenize", [{"output_dir": "made"}]),
        "teacher": Step("fit", [{"trainer": {"default_root_dir": "taught/"}}]),
    }
    check_sources(ask(prepare=steps, controls=Controls(blocks="./made"), teachers={"store": "taught"}))
    with pytest.raises(FileNotFoundError, match=r"controls\.blocks must be .*, got taught"):
        check_sources(ask(controls=Controls(blocks="taught"), teachers={"store": "taught"}))
