"""A training that is killed again and again ends as if nothing had happened: weights, optimizer, logs."""

from collections.abc import Callable
from itertools import chain, cycle, repeat
from pathlib import Path
from typing import Any

import pytest
from outcomes import training
from processes import Command, Forked, Subject

from pd_lightning.composition.compose import merge

Settings = dict[str, Any]
Write = Callable[[Settings], Path]
# Checkpoints at the end of a batch, where Lightning has neither logged nor validated yet.
OFTEN = {
    "class_path": "lightning.pytorch.callbacks.ModelCheckpoint",
    "init_args": {"every_n_train_steps": 1, "save_last": True, "filename": "{step}", "enable_version_counter": False},
}


def fit(settings: Path) -> Subject:
    arguments = ["fit", "--config", str(settings), "--ckpt_path", "auto"]
    return Subject(arguments, "run", lambda folder: training(folder / "run"), "checkpoints/.tmp-*")


def test_a_few_kills(tmp_path: Path, fit_settings: Settings, write: Write) -> None:
    subject = fit(write(fit_settings))
    subject.campaign(tmp_path, 2, 3, repeat(Forked), times=2)


def test_a_kill_in_the_first_checkpoint(tmp_path: Path, fit_settings: Settings, write: Write) -> None:
    subject, folder = fit(write(fit_settings)), tmp_path / "torn"
    expected, _ = subject.uninterrupted(tmp_path / "whole", Forked)
    first = min((tmp_path / "whole" / "run" / "checkpoints").glob("step=*.ckpt"))
    (folder / "run" / "checkpoints").mkdir(parents=True)
    for name in (first.name, "step=1.ckpt"):  # the one is written again, the other is not
        (folder / "run" / "checkpoints" / f".tmp-{name}").write_bytes(first.read_bytes()[:1000])
    command = Forked(subject.arguments, folder)
    assert command.wait() == 0, command.log()
    assert subject.outcome(folder) == expected


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "callbacks", "seed"), [("store", [], 1), ("store", [OFTEN], 2), ("live", [], 3), ("live", [OFTEN], 4)]
)
def test_the_campaign(
    tmp_path: Path, fit_settings: Settings, live_teacher: Settings, write: Write, name: str, callbacks: Any, seed: int
) -> None:
    longer = {"trainer": {"max_steps": 48, "callbacks": callbacks}}
    settings = merge(merge(fit_settings, live_teacher if name == "live" else {}), longer)
    fit(write(settings)).campaign(tmp_path, 8, seed, chain([Command], cycle([Forked, Forked, Forked, Command])))
