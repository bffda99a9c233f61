"""Blocks with targets and blocks without, from YAML to the log."""

import csv
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from pd_lightning.cli import main
from pd_lightning.data import MixedIn, TokenBlocks
from pd_lightning.teachers import OfflineTeacher, Surroundings

STORED = 40  # blocks of the stores in conftest.py


def settings(
    folder: Path, tiny: Any, store: Path, mix: dict[str, Any], teachers: dict[str, Any] | None = None, **data: Any
) -> dict[str, Any]:
    return {
        "model": {
            "student": {"class_path": "pd_lightning.students.HFStudent", "init_args": {"config": tiny.config}},
            "teacher": {"class_path": "pd_lightning.teachers.OfflineTeacher"},
            "kd_weight": 1.0,
            **(teachers or {}),
        },
        "data": {
            "class_path": "pd_lightning.data.TokenBlocks",
            "init_args": {"path": str(store), "batch_size": 6, "seed": 3, "mix": mix, **data},
        },
        "trainer": {
            "default_root_dir": str(folder),
            "accelerator": "cpu",
            "max_steps": 2,
            "log_every_n_steps": 1,
            "val_check_interval": 2,
            "check_val_every_n_epoch": None,
        },
    }


def fit(*args: Any, **kwargs: Any) -> list[dict[str, str]]:
    folder = args[0]
    folder.mkdir()
    (folder / "run.yaml").write_text(yaml.safe_dump(settings(*args, **kwargs)))
    assert main(["fit", "--config", str(folder / "run.yaml")]) == 0
    with (folder / "logs" / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_figures_of_the_teacher_are_those_of_the_blocks_that_it_knows(
    tmp_path: Path, tiny: Any, blocks: Path, truncated_store: Path
) -> None:
    plain = {"plain": {"path": str(blocks), "skip_blocks": STORED, "weight": 0.5}}
    rows = fit(tmp_path / "mixed", tiny, truncated_store, plain)
    alone = fit(tmp_path / "alone", tiny, truncated_store, {})
    first, same = rows[0], alone[0]
    # Untrained, the student is as far from the teacher on these blocks as on others; a mean over all positions would
    # be a third lower.
    assert float(first["train/kd_loss"]) == pytest.approx(float(same["train/kd_loss"]), rel=0.1)
    assert float(first["train/lm_loss"]) == pytest.approx(float(same["train/lm_loss"]), rel=0.1)
    # With all the weight on the KD loss, blocks without targets still add their LM loss.
    share = (float(first["train/loss"]) - float(first["train/kd_loss"])) / (
        float(first["train/lm_loss"]) - float(first["train/kd_loss"])
    )
    assert 0.05 < share < 0.8
    assert float(same["train/loss"]) == pytest.approx(float(same["train/kd_loss"]))


def test_a_store_can_be_validated_on_plain_blocks(
    tmp_path: Path, tiny: Any, blocks: Path, truncated_store: Path
) -> None:
    rows = fit(tmp_path / "run", tiny, truncated_store, {}, val_path=str(blocks), max_val_blocks=3)
    assert any(row.get("val/lm_loss") for row in rows)
    assert not any(row.get("val/kd_loss") or row.get("val/top1_agreement") for row in rows)


def test_validation_can_have_a_live_teacher_of_its_own(
    tmp_path: Path, tiny: Any, blocks: Path, truncated_store: Path, teacher_dir: Path
) -> None:
    """The student learns from a truncated store, and is compared with the whole distributions."""
    frozen = {"class_path": "pd_lightning.teachers.FrozenTeacher", "init_args": {"model": str(teacher_dir)}}
    few: dict[str, Any] = {"max_val_blocks": 3}

    def last(name: str, store: Path, teachers: dict[str, Any], **data: Any) -> dict[str, float]:
        rows = fit(tmp_path / name, tiny, store, {}, teachers=teachers, **few, **data)
        (row,) = [row for row in rows if row.get("val/lm_loss")]
        return {key: float(value) for key, value in row.items() if key.startswith("val/")}

    recorded = last("recorded", truncated_store, {})
    live = last("live", truncated_store, {"val_teacher": frozen}, val_path=str(blocks))
    same = last("same", truncated_store, {"val_teacher": frozen})
    assert live == same, "what is stored beside the tokens plays no part"
    assert live["val/lm_loss"] == recorded["val/lm_loss"], "training is the same"
    assert live["val/kd_loss"] > recorded["val/kd_loss"] * 1.001, "one bucket hides what differs within the tail"


def test_a_live_teacher_for_validation_must_fit_the_student(
    tmp_path: Path, tiny: Any, truncated_store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = {"class_path": "pd_lightning.teachers.FrozenTeacher", "init_args": {"model": "no/such/folder"}}
    (tmp_path / "run.yaml").write_text(
        yaml.safe_dump(settings(tmp_path, tiny, truncated_store, {}, {"val_teacher": wrong}))
    )
    assert main(["fit", "--config", str(tmp_path / "run.yaml")]) != 0
    assert "no/such/folder" in capsys.readouterr().err


def test_targets_say_where_there_are_none(truncated_store: Path, blocks: Path) -> None:
    data = TokenBlocks(str(truncated_store), batch_size=8, mix={"plain": MixedIn(str(blocks), weight=1.0)})
    data.setup("fit")
    batch = next(iter(data.train_dataloader()))
    targets = OfflineTeacher()(batch)
    assert targets is not None
    assert targets.missing is not None
    assert torch.equal(targets.missing, batch["teacher_missing"].flatten())
    assert 0 < targets.missing.sum() < len(targets)
    assert set(targets.statistics) == {"log_z", "mean", "std", "entropy", "label_logprob"}
    assert all(values.isfinite().all() for values in targets.statistics.values())
    mass = targets.logprobs.exp().sum(-1) + targets.log_tail.exp()
    torch.testing.assert_close(mass, torch.ones(len(targets)), rtol=0, atol=1e-5)


def test_a_batch_without_targets_is_refused_where_nothing_says_that_there_are_some_elsewhere() -> None:
    teacher = OfflineTeacher()
    with pytest.raises(ValueError, match="must find stored targets in each batch"):
        teacher({"input_ids": torch.zeros(1, 2)})
    teacher.setup(Surroundings(torch.device("cpu"), data_kind="logits"))
    assert teacher({"input_ids": torch.zeros(1, 2)}) is None
