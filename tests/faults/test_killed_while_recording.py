"""A training that records itself, killed again and again: the same training, and the same store."""

from collections.abc import Callable
from itertools import chain, cycle
from pathlib import Path
from typing import Any

import pytest
from outcomes import data, training
from processes import Command, Forked, Subject

from pd_lightning.composition.compose import merge

Settings = dict[str, Any]
Write = Callable[[Settings], Path]
RECORDER = {
    "class_path": "pd_lightning.callbacks.LogitsRecorder",
    "init_args": {"output_dir": "run/recorded", "every_n_steps": 2, "blocks_per_chunk": 7},
}


def outcome(folder: Path) -> dict[str, Any]:
    store = data(folder / "run" / "recorded")
    # Each recording has a name drawn at random, which checkpoints know it by.
    named = {"recording.json", "checksums.json"}
    return {**training(folder / "run"), "store": {name: store[name] for name in store.keys() - named}}


@pytest.mark.slow
def test_the_campaign(tmp_path: Path, fit_settings: Settings, write: Write) -> None:
    settings = write(merge(fit_settings, {"trainer": {"max_steps": 48, "callbacks": [RECORDER]}}))
    subject = Subject(["fit", "--config", str(settings), "--ckpt_path", "auto"], "run", outcome, "**/.tmp-*.*")
    subject.campaign(tmp_path, 10, 7, chain([Command], cycle([Forked, Forked, Forked, Command])))
