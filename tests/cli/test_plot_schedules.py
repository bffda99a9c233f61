"""`pd-lightning plot-schedules` from the command line to the picture."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from pd_lightning.cli import main
from pd_lightning.students import HFStudent

SCHEDULES = "pd_lightning.schedules"
WSD = {"class_path": f"{SCHEDULES}.WSD", "init_args": {"peak": 0.9, "warmup": 0.2, "decay": 0.2}}


def of(name: str, **settings: object) -> dict:
    return {"class_path": f"{SCHEDULES}.{name}", "init_args": settings}


@pytest.fixture
def config(write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run of 100 steps; its student can't be built."""
    monkeypatch.setattr(HFStudent, "build", lambda *_: pytest.fail("the weights are not needed"))
    student = {"class_path": "pd_lightning.students.HFStudent", "init_args": {"config": {"model_type": "llama"}}}
    teacher = {"class_path": "pd_lightning.teachers.FrozenTeacher", "init_args": {"model": "no/such-model"}}
    model = {"student": student, "teacher": teacher, "kd_weight": WSD, "lr": of("Constant", value=0.001)}
    data = {"class_path": "command_toys.Rows", "init_args": {"num_rows": 40}}
    return write("config.yaml", {"model": model, "data": data, "trainer": {"max_steps": 100}})


def plot(*argv: object) -> int:
    return main(["plot-schedules", *map(str, argv)])


def test_a_picture_and_a_table(config: Path, capsys: pytest.CaptureFixture) -> None:
    assert plot("--config", config) == 0
    assert Path("schedules.png").read_bytes().startswith(b"\x89PNG")
    out = capsys.readouterr().out
    for text in ("100 optimizer steps", "model.kd_weight", "model.lr", "0.045", "written to schedules.png"):
        assert text in out
    assert {path.name for path in Path().iterdir()} == {"config.yaml", "schedules.png"}


def test_files_and_overrides_compose_as_for_fit(
    config: Path, write: Callable[..., Path], capsys: pytest.CaptureFixture
) -> None:
    temperature = {"class_path": "pd_lightning.transforms.Temperature", "init_args": {"value": of("Constant", value=2)}}
    overlay = write("overlay.yaml", {"model": {"transforms": {"soften": temperature}}})
    overrides = ["--model.lr.value=0.25", "--model.transforms.soften.value.value=3.5", "--output_path=new/plot.pdf"]
    assert plot("--config", config, "--config", overlay, *overrides) == 0
    out = capsys.readouterr().out
    for text in ("0.25", "model.transforms.soften.value", "3.5", "new/plot.pdf"):
        assert text in out
    assert Path("new/plot.pdf").exists()


@pytest.mark.parametrize(
    ("overrides", "steps"),
    [
        (["--trainer.max_epochs=3"], 60),  # 40 rows, two a batch
        (["--trainer.max_epochs=3", "--trainer.accumulate_grad_batches=3"], 21),
        (["--trainer.max_epochs=3", "--trainer.limit_train_batches=5"], 15),
        (["--trainer.max_epochs=3", "--trainer.max_steps=40"], 40),
        (["--trainer.max_epochs=-1", "--trainer.max_steps=40"], 40),
        (["--trainer.fast_dev_run=2"], 2),
    ],
)
def test_the_data_say_how_long_epochs_are(
    config: Path, capsys: pytest.CaptureFixture, overrides: list[str], steps: int
) -> None:
    settings = yaml.safe_load(config.read_text())
    settings["trainer"] = {"accelerator": "cpu"}
    config.write_text(yaml.safe_dump(settings))
    assert plot("--config", config, *overrides) == 0
    assert f"{steps} optimizer steps" in capsys.readouterr().out


def test_a_run_counted_in_steps_needs_neither_its_machines_nor_its_data(config: Path) -> None:
    machines = ["--trainer.accelerator=gpu", "--trainer.devices=8", "--trainer.num_nodes=4", "--trainer.strategy=ddp"]
    data = ["--data=pd_lightning.data.TokenBlocks", "--data.path=nowhere"]
    assert plot("--config", config, "--trainer.precision=16-mixed", *machines, *data) == 0


def test_the_settings_of_a_run_are_read_as_they_are(
    config: Path, run: Callable[..., int], base: Path, toys: ModuleType
) -> None:
    assert run("fit", "--config", base) == 0
    saved = yaml.safe_load(Path("run/config.yaml").read_text())
    given = yaml.safe_load(config.read_text())
    config.write_text(yaml.safe_dump({**saved, **given, "trainer": saved["trainer"]}))
    assert plot("--config", config, "--ckpt_path=auto") == 0


def test_a_number_is_a_constant(config: Path, capsys: pytest.CaptureFixture) -> None:
    assert plot("--config", config, "--model.kd_weight=0.625") == 0
    assert capsys.readouterr().out.count("0.625") == 4


def test_nested_schedules_are_yaml(config: Path, write: Callable[..., Path], capsys: pytest.CaptureFixture) -> None:
    parts = {
        "up": {"schedule": of("Linear", start=0.0, end=1e-3), "length": 0.1},
        "wave": {"schedule": of("Periodic", low=0.0, high=1e-3, shape="cosine"), "length": 40},
        "rest": {"schedule": of("Constant", value=1e-3)},
    }
    model = {"kd_weight": of("OneMinus", schedule=WSD), "lr": of("Piecewise", parts=parts)}
    first = write("first.yaml", yaml.safe_dump({"model": model}, sort_keys=False))
    second = write("second.yaml", {"model": {"lr": of("Piecewise", parts={"wave": {"length": 50}})}})
    files = [part for path in (config, first, second) for part in ("--config", path)]
    overrides = ["--model.kd_weight.schedule.peak=0.5", "--model.lr.parts.rest.schedule.value=2e-3"]
    assert plot(*files, *overrides, "--print_config") == 0
    printed = capsys.readouterr().out
    model = yaml.safe_load(printed)["model"]
    schedule = model["kd_weight"]["init_args"]["schedule"]
    assert schedule == of("WSD", peak=0.5, warmup=0.2, decay=0.2, floor=0.0, shape="linear")
    assert model["lr"]["init_args"]["parts"] == {
        "up": {"schedule": of("Linear", start=0.0, end=1e-3), "length": 0.1},
        "wave": {"schedule": of("Periodic", low=0.0, high=1e-3, period=0.2, shape="cosine"), "length": 50.0},
        "rest": {"schedule": of("Constant", value=2e-3), "length": None},
    }
    assert list(model["lr"]["init_args"]["parts"]) == ["up", "wave", "rest"]
    assert plot("--config", write("printed.yaml", printed)) == 0
    assert "0.002" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("override", "code", "message"),
    [
        ("--model.kd_weight.peak=1.5", 1, "model.kd_weight must stay in [0, 1], got 1.05 at step 13."),
        ("--model.kd_weight.warmup=90", 1, "model.kd_weight: The parts of a WSD schedule must fit into the run"),
        ("--model.kd_weight.shape=round", 2, "the value must be one of 'linear', 'cosine', 'sqrt', got round."),
        ("--output_path=plot.txt", 1, "--output_path must end in .png, .pdf or .svg, got plot.txt."),
        ("--trainer.max_steps=-1", 1, "The length of a training must be set"),
        ("--trainer={max_steps: -1, max_time: '00:01:00:00'}", 1, "known to its schedules, got inf. Set trainer.max"),
    ],
)
def test_a_mistake_is_an_error_and_no_picture(
    config: Path, capsys: pytest.CaptureFixture, override: str, code: int, message: str
) -> None:
    assert plot("--config", config, override) == code
    assert message in capsys.readouterr().err
    assert not list(Path().glob("*.png"))


def test_help_names_the_command_as_it_is_typed(capsys: pytest.CaptureFixture) -> None:
    assert plot("--help") == 0
    out = capsys.readouterr().out
    assert "plot-schedules [-c CONFIG]" in out
    for text in ("--output_path", "The picture to write", "PD_LIGHTNING_PLOT_SCHEDULES__TRAINER__MAX_STEPS"):
        assert text in out
