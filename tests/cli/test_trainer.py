import csv
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
import yaml

from pd_lightning.guards.skip_non_finite import SkipNonFinite

Run = Callable[..., int]


def test_fit_builds_what_the_yaml_says(run: Run, base: Path, toys: ModuleType) -> None:
    assert run("fit", "--config", base, "--model.width=5", "--trainer.max_steps=2") == 0
    model = toys.Toy.built[-1]
    assert (model.lr.peak, model.lr.warmup, model.width) == (3.0, 0.5, 5)
    assert model.trainer.global_step == 2


def test_another_class_starts_from_its_own_defaults(
    run: Run, base: Path, toys: ModuleType, write: Callable[..., Path]
) -> None:
    # jsonargparse alone hands Up's peak of 3.0 on to Down.
    overlay = write("down.yaml", {"model": {"lr": {"class_path": "command_toys.Down"}}})
    for i, change in enumerate([["--config", overlay], ["--model.lr=command_toys.Down"]]):
        arguments = [*change, "--trainer.max_steps=1", f"--trainer.default_root_dir=run{i}"]
        assert run("fit", "--config", base, *arguments) == 0
        lr = toys.Toy.built[-1].lr
        assert isinstance(lr, toys.Down)
        assert (lr.peak, lr.name) == (0.25, "down")


def test_transforms_merge_by_name(run: Run, base: Path, toys: ModuleType, write: Callable[..., Path]) -> None:
    first = write("a.yaml", {"model": {"transforms": {"one": {"class_path": "command_toys.Up"}, "two": "Down"}}})
    second = write("b.yaml", {"model": {"transforms": {"one": {"init_args": {"peak": 7}}, "two": None}}})
    third = write("c.yaml", {"model": {"transforms": {"three": {"class_path": "command_toys.Down"}}}})
    files = [part for path in (base, first, second, third) for part in ("--config", path)]
    assert run("fit", *files, "--trainer.max_steps=1") == 0
    transforms = toys.Toy.built[-1].transforms
    assert {name: type(value).__name__ for name, value in transforms.items()} == {"one": "Up", "three": "Down"}
    assert transforms["one"].peak == 7


def test_printed_config_gives_the_same_run(
    run: Run, base: Path, write: Callable[..., Path], capsys: pytest.CaptureFixture
) -> None:
    assert run("fit", "--config", base, "--model.lr.peak=1e-3", "--print_config") == 0
    printed = capsys.readouterr().out
    settings = yaml.safe_load(printed)
    assert settings["model"]["lr"]["init_args"] == {"peak": 0.001, "warmup": 0.5}
    assert settings["seed_everything"] == 1
    assert settings["trainer"]["use_distributed_sampler"] is False
    assert run("fit", "--config", write("again.yaml", printed), "--print_config") == 0
    assert capsys.readouterr().out == printed


def test_the_environment_sets_what_no_file_sets(
    run: Run, base: Path, toys: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = yaml.safe_load(base.read_text())
    del settings["trainer"]["max_steps"]
    base.write_text(yaml.safe_dump(settings))
    monkeypatch.setenv("PD_LIGHTNING_FIT__TRAINER__MAX_STEPS", "3")
    assert run("fit", "--config", base) == 0
    assert toys.Toy.built[-1].trainer.global_step == 3


def test_help_explains_every_setting(run: Run, capsys: pytest.CaptureFixture) -> None:
    assert run("fit", "--help") == 0
    text = capsys.readouterr().out
    for part in ("The number of outputs.", "--model.lr", "--data", "--trainer.max_steps", "--ckpt_path"):
        assert part in text
    assert "weights_only" not in text


def test_a_run_is_one_folder(run: Run, base: Path) -> None:
    assert run("fit", "--config", base, "--trainer.logger=true") == 0
    files = {str(path.relative_to("run")) for path in Path("run").rglob("*") if path.is_file()}
    events = {name for name in files if "events.out.tfevents" in name}
    assert len(events) == 1
    assert next(iter(events)).startswith("logs/")
    hparams = {"logs/hparams.yaml"}  # TensorBoardLogger's
    assert files - events - hparams == {
        "config.yaml",
        "starts.jsonl",
        "logs/metrics.csv",
        "checkpoints/last.ckpt",
        "checkpoints/step=6.ckpt",
    }
    assert {str(path) for path in Path().iterdir()} == {"run", "base.yaml"}
    assert yaml.safe_load(Path("run/config.yaml").read_text())["model"]["lr"]["init_args"]["peak"] == 3.0


def test_loggers_and_checkpoints_of_the_yaml_win(run: Run, base: Path, toys: ModuleType) -> None:
    checkpoint = "{class_path: ModelCheckpoint, init_args: {dirpath: elsewhere, filename: mine, save_last: true}}"
    assert run("fit", "--config", base, "--trainer.logger=false", f"--trainer.callbacks=[{checkpoint}]") == 0
    assert toys.Toy.built[-1].trainer.loggers == []
    assert {path.name for path in Path("elsewhere").iterdir()} == {"mine.ckpt", "last.ckpt"}
    assert not Path("run/checkpoints").exists()
    assert run("fit", "--config", base, "--ckpt_path=last", f"--trainer.callbacks=[{checkpoint}]") == 0


def test_a_checkpoint_without_folder_goes_to_the_run(run: Run, base: Path) -> None:
    assert run("fit", "--config", base, "--trainer.callbacks=[{class_path: ModelCheckpoint}]") == 0
    assert list(Path("run/checkpoints").glob("*.ckpt"))


def test_the_saved_config_can_be_run_again(run: Run, base: Path) -> None:
    assert run("fit", "--config", base) == 0
    assert run("fit", "--config", "run/config.yaml", "--trainer.default_root_dir=run2") == 0


def test_every_start_is_kept_with_the_run(run: Run, base: Path) -> None:
    assert run("fit", "--config", base) == 0
    assert run("validate", "--config", base, "--ckpt_path=last") == 0
    assert run("fit", "--config", base, "--ckpt_path=last", "--trainer.max_steps=7") == 0
    assert run("fit", "--config", base, "--trainer.fast_dev_run=true") == 0
    starts = [json.loads(line) for line in Path("run/starts.jsonl").read_text().splitlines()]
    assert [start.keys() for start in starts] == [{"time", "software", "git"}] * 2


def test_last_needs_a_checkpoint(run: Run, base: Path, toys: ModuleType, capsys: pytest.CaptureFixture) -> None:
    assert run("fit", "--config", base, "--ckpt_path", "last") == 1
    error = capsys.readouterr().err
    assert "pd-lightning: error: --ckpt_path last must find a checkpoint in run/checkpoints, got none." in error
    assert "--ckpt_path auto" in error
    assert toys.Toy.built[-1]._trainer is None


@pytest.mark.parametrize(
    ("command", "ckpt_path", "message"),
    [
        ("fit", "nowhere.ckpt", "got nowhere.ckpt, which does not exist"),
        ("validate", "last", "Run fit first."),
        ("validate", "auto", "--ckpt_path auto is for fit"),
    ],
)
def test_a_wrong_checkpoint_is_an_error(
    run: Run, base: Path, capsys: pytest.CaptureFixture, command: str, ckpt_path: str, message: str
) -> None:
    assert run(command, "--config", base, "--ckpt_path", ckpt_path) == 1
    assert message in capsys.readouterr().err


def test_a_used_run_folder_is_an_error(run: Run, base: Path, capsys: pytest.CaptureFixture) -> None:
    assert run("fit", "--config", base) == 0
    assert run("fit", "--config", base) == 1
    error = capsys.readouterr().err
    assert "trainer.default_root_dir must be the folder of a new run, got run, which holds run/checkpoints/" in error
    assert "--ckpt_path auto" in error
    assert run("fit", "--config", base, "--trainer.fast_dev_run=true") == 0


def rows(path: str = "run/logs/metrics.csv") -> list[dict[str, str]]:
    with Path(path).open() as file:
        return [dict(sorted(row.items())) for row in csv.DictReader(file)]


@pytest.mark.parametrize("stop", [5, 7, 12])
@pytest.mark.parametrize("folder", ["run", "moved"])
def test_a_stopped_run_goes_on_with_the_same_command(
    run: Run, base: Path, toys: ModuleType, stop: int, folder: str
) -> None:
    # Checkpoints after 4, 8, 12 steps; epochs of 5 steps and a validation after 3 of each: a stop in mid-epoch,
    # past a validation, in a later epoch.
    settings = yaml.safe_load(base.read_text())
    checkpoint = {"class_path": "ModelCheckpoint", "init_args": {"every_n_train_steps": 4, "save_last": True}}
    settings["trainer"] |= {"max_steps": 14, "callbacks": [checkpoint], "val_check_interval": 3}
    settings["data"]["init_args"] = {"num_rows": 10}
    base.write_text(yaml.safe_dump(settings))

    def at(root: str) -> list[str]:
        return ["--trainer.default_root_dir", root, "--trainer.logger.save_dir", root]

    assert run("fit", "--config", base, *at("whole")) == 0
    whole = toys.Toy.built[-1]
    with pytest.raises(RuntimeError, match="stopped"):
        run("fit", "--config", base, "--ckpt_path=auto", f"--model.fail='{stop}'")
    if folder != "run":
        Path("run").rename(folder)
    assert run("fit", "--config", base, "--ckpt_path=auto", *at(folder)) == 0
    resumed = toys.Toy.built[-1]
    assert resumed.trainer.global_step == 14
    assert torch.equal(whole.net.weight, resumed.net.weight)
    assert rows(f"{folder}/logs/metrics.csv") == rows("whole/logs/metrics.csv")


def test_the_last_checkpoint_is_the_last_step(run: Run, base: Path) -> None:
    checkpoint = "{class_path: ModelCheckpoint, init_args: {every_n_train_steps: 4, save_last: true}}"
    assert run("fit", "--config", base, f"--trainer.callbacks=[{checkpoint}]") == 0
    assert torch.load("run/checkpoints/last.ckpt")["global_step"] == 6
    assert {path.name for path in Path("run/checkpoints").iterdir()} == {"epoch=0-step=4.ckpt", "last.ckpt"}


def test_validating_leaves_the_run_as_it_is(run: Run, base: Path, capsys: pytest.CaptureFixture) -> None:
    assert run("fit", "--config", base, "--trainer.logger=true") == 0
    before = {path: path.read_bytes() for path in Path("run").rglob("*") if path.is_file()}
    assert run("validate", "--config", base, "--trainer.logger=true", "--ckpt_path=last", "--model.width=3") == 0
    assert before == {path: path.read_bytes() for path in Path("run").rglob("*") if path.is_file()}
    assert "val/loss" in capsys.readouterr().out


def test_checkpoints_are_read_without_pickle(run: Run, base: Path, capsys: pytest.CaptureFixture) -> None:
    torch.save({"state_dict": torch.nn.Linear(1, 1)}, "evil.ckpt")
    assert run("validate", "--config", base, "--ckpt_path=evil.ckpt") == 1
    assert "got evil.ckpt with torch.nn.modules.linear.Linear in it" in capsys.readouterr().err


def test_record_attaches_the_data_first(run: Run, base: Path, toys: ModuleType, capsys: pytest.CaptureFixture) -> None:
    settings = yaml.safe_load(base.read_text())
    base.write_text(yaml.safe_dump({key: settings[key] for key in ("data", "trainer")}))
    assert run("record", "--config", base, "--trainer.logger=null") == 0
    assert toys.Toy.built[-1].seen == ["Rows", "batch 0", "batch 1", "finish"]
    assert not Path("run").exists()
    assert run("record", "--help") == 0
    assert "Run the teacher over blocks of tokens once" in capsys.readouterr().out


@pytest.mark.parametrize("override", ["--trainer.barebones=true", "--trainer.enable_checkpointing=false"])
def test_a_run_may_write_nothing_but_its_settings(run: Run, base: Path, override: str) -> None:
    overrides = ["--trainer.logger=null", "--trainer.max_epochs=1", "--trainer.log_every_n_steps=0"]
    if "barebones" in override:
        overrides += ["--trainer.enable_progress_bar=null", "--trainer.enable_model_summary=null"]
    assert run("fit", "--config", base, override, *overrides) == 0
    assert not Path("run/checkpoints").exists()
    assert Path("run/logs").exists() == ("barebones" not in override)


def test_only_the_command_asked_for_is_built(run: Run, base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Arguments of the process itself don't matter, and don't warn.
    monkeypatch.setattr(sys, "argv", ["pytest", "--something"])
    assert run("predict", "--config", base) == 0


@pytest.mark.parametrize(
    ("overlay", "expected"),
    [
        ([], (10, True)),
        ([{"class_path": "pd_lightning.callbacks.SkipNonFinite", "init_args": {"patience": 3}}], (3, True)),
        ([{"class_path": "pd_lightning.callbacks.SkipNonFinite", "init_args": {"enabled": False}}], (10, False)),
    ],
)
def test_a_training_is_guarded_unless_the_yaml_says_otherwise(
    run: Run, base: Path, toys: ModuleType, write: Callable[..., Path], overlay: list, expected: tuple[int, bool]
) -> None:
    callbacks = write("callbacks.yaml", {"trainer": {"callbacks": overlay}})
    assert run("fit", "--config", base, "--config", callbacks, "--trainer.max_steps=2") == 0
    (guard,) = (c for c in toys.Toy.built[-1].trainer.callbacks if isinstance(c, SkipNonFinite))
    assert (guard.patience, guard.enabled) == expected
    with Path("run/logs/metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row.get("train/skipped_steps") for row in rows] == (["0.0"] * 2 if guard.enabled else [None] * 2)
