from pathlib import Path
from typing import Any

import pytest

from pd_lightning.data import TokenBlocks
from pd_lightning.record import Recorder
from pd_lightning.recording.store_format import combine, per_token, store_format
from pd_lightning.sampling import Sampling
from pd_lightning.selection import Selection
from pd_lightning.store.manifest import read_manifest
from pd_lightning.store.verification import verify_folder
from pd_lightning.teachers import FrozenTeacher
from pd_lightning.trainer import PDTrainer


@pytest.mark.parametrize(
    ("settings", "values", "columns"),
    [
        ((None, None, None, None), "half", 6),
        ((Selection(k=5), None, "compact", 1e-3), "compact", 6),
        ((None, Sampling(), None, None), "counts", 5),
        ((None, Sampling(s=0.8), None, None), "half", 5),
        ((None, Sampling(s=0.8), "exact", None), "exact", 5),
    ],
)
def test_what_the_manifest_says(settings: tuple, values: str, columns: int) -> None:
    form = store_format(*settings)
    assert form.codec["values"] == values
    assert form.codec.get("kl_budget") == settings[3]
    assert len(form.columns) == columns


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ((Selection(), Sampling(), None, None), "model.selection must be left out with model.sampling, got both"),
        ((None, Sampling(), "half", None), "values must be left out where draws are counted, without loss, got half"),
        ((None, Sampling(s=0.8), "compact", None), "values must be exact or half with model.sampling, got compact"),
        ((None, None, "half", 1e-3), r"kl_budget must be above 0 and comes with values compact, got 0\.001"),
        ((None, None, "compact", 0.0), r"got 0\.0 with values compact"),
    ],
)
def test_settings_without_effect_are_refused(settings: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        store_format(*settings)


def test_figures_add_up_but_for_the_largest() -> None:
    totals = combine(
        [{"tokens": 2.0, "bytes": 10.0, "max_error": 0.5}, {"tokens": 3.0, "bytes": 5.0, "max_error": 0.2}]
    )
    assert totals == {"tokens": 5.0, "bytes": 15.0, "max_error": 0.5}
    assert per_token(totals) == {"bytes_per_token": 3.0, "max_error": 0.5}


def test_compact_values_are_recorded_within_their_budget(blocks: Path, teacher_dir: Path, tmp_path: Path) -> None:
    sizes, errors = {}, {}
    ways: dict[str, dict[str, Any]] = {
        "exact": {"values": "exact"},
        "half": {},
        "fine": {"values": "compact"},
        "coarse": {"values": "compact", "kl_budget": 4e-4},
    }
    for name, settings in ways.items():
        data = TokenBlocks(str(blocks), batch_size=4, max_train_blocks=8, max_val_blocks=4)
        recorder = Recorder(FrozenTeacher(str(teacher_dir)), str(tmp_path / name), Selection(p=1.0, k=20), **settings)
        PDTrainer(accelerator="cpu", logger=False, enable_progress_bar=False).record(recorder, data)
        statistics = read_manifest(tmp_path / name).statistics
        sizes[name], errors[name] = statistics["bytes_per_token"], statistics["kl_error_per_token"]
        assert (statistics["max_logprob_error"] == 0) == (name == "exact")
        assert verify_folder(tmp_path / name) == []
    assert sizes["coarse"] <= sizes["fine"] < sizes["half"] < sizes["exact"]
    assert errors["exact"] == 0
    assert errors["half"] < 1e-6
    assert errors["fine"] <= 1.01e-4
    assert errors["coarse"] <= 4.04e-4
