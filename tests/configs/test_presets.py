"""Every YAML under configs/ by the command that its first lines name; the paper's against its tables and formulas."""

import re
import shlex
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from one_parser import OneParserCLI, Watch
from paper_formulas import kd_loss
from paper_tables import BASE, ROWS

from pd_lightning.cli.command_line import COMMANDS, main
from pd_lightning.cli.commands import load_target
from pd_lightning.composition.compose import as_arguments, compose, merge
from pd_lightning.language_model import build_causal_lm
from pd_lightning.store.manifest import read_manifest
from pd_lightning.teachers import NoTeacher

ROOT = Path(__file__).parents[2]
FILES = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "configs").rglob("*.yaml"))
GLM_VOCABULARY = 151_552


def command_of(file: str) -> list[str]:
    """The arguments of the command in a file's first lines that names the file."""
    head = (ROOT / file).read_text(encoding="utf-8").partition("\n\n")[0].replace("\\\n#", "")
    commands = [shlex.split(line) for line in re.findall(r"^# pd-lightning (.*)$", head, flags=re.MULTILINE)]
    (found,) = [command for command in commands if file in command]
    return found


def of(command: str) -> list[str]:
    return [file for file in FILES if command_of(file)[0] == command]


Run = Callable[..., OneParserCLI]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny: Any, exact_store: Path, teacher_dir: Path) -> Run:
    """Runs a file's command with what makes it tiny laid over it; what the file is about stays as it is."""
    monkeypatch.chdir(ROOT)

    def run(file: str, below: str = "", **changes: Any) -> OneParserCLI:
        name, *arguments = command_of(file)
        if below:
            arguments = ["--config", below, "--config", file]
        config, _ = compose(arguments)
        on_cpu = {"accelerator": "cpu", "devices": 1, "logger": False, "enable_progress_bar": False}
        if name == "fit":
            shape = {**tiny.config, "initializer_range": 0.3}
            shape = {field: value for field, value in shape.items() if field != "model_type"}
            quiet = {"enable_checkpointing": False, "callbacks": [], "enable_model_summary": False}
            one_by_one = {"accumulate_grad_batches": 1, "limit_val_batches": 0, "precision": "32-true"}
            one_by_one |= {"log_every_n_steps": 1}
            overlay: dict[str, Any] = {
                "model": {"student": {"init_args": {"config": shape}}},
                "data": {"init_args": {"path": str(exact_store), "batch_size": 4, "num_workers": 0}},
                "trainer": {**on_cpu, **quiet, **one_by_one},
            }
        else:
            few = {"batch_size": 8, "num_workers": 0, "max_train_blocks": 8, "max_val_blocks": 8}
            overlay = {
                "model": {"output_dir": str(tmp_path / "store")},
                "data": {"init_args": few},
                "trainer": on_cpu,
            }
        overlay["trainer"]["default_root_dir"] = str(tmp_path / "run")
        if config["model"]["teacher"]["class_path"].endswith("FrozenTeacher"):
            overlay["model"]["teacher"] = {"init_args": {"model": str(teacher_dir)}}
        arguments = as_arguments(merge(config, merge(overlay, changes)), [])
        return OneParserCLI(name, load_target(COMMANDS[name].target), arguments)

    return run


def test_every_file_is_tried() -> None:
    assert set(FILES) == {*of("fit"), *of("record"), *of("tokenize"), *of("study")}
    assert {*RECIPES, "miniplm"} == {Path(file).stem for file in of("fit") if "/recipes/" in file}
    assert {f"configs/paper/{name}.yaml" for name in ROWS} == {file for file in of("fit") if "/paper/" in file}


def short(loss: Any, temperature: Any) -> tuple[str, Any]:
    losses = {"SoftCrossEntropy": "NLL", "ForwardKL": "KLD", "MeanSquaredError": "MSE"}
    kind = type(temperature).__name__
    if kind == "AdaKD":
        kind += {"student_loss": "-SD", "teacher_entropy": "-H"}[temperature.by]
    return losses[type(loss).__name__], temperature.value if kind == "Temperature" else kind


APART = {"logger", "recipes", "strategy"}  # folders whose files have tests of their own


@pytest.mark.parametrize("file", [file for file in of("fit") if not APART & {*Path(file).parts}])
def test_fit_takes_two_steps(run: Run, file: str) -> None:
    done = run(file, data={"init_args": {"mix": None}})  # of which the teacher of a study has some
    assert done.trainer.global_step == 2
    assert len(done.watch.losses) == 2
    assert np.isfinite(done.watch.losses).all()
    if "/paper/" not in file:
        return
    name = file.removeprefix("configs/paper/").removesuffix(".yaml")
    row = {**BASE, **ROWS[name]}
    model, truncate = done.model, done.model.objective.transforms["truncate"]
    loss, temperature = short(model.objective.loss, model.objective.transforms["temperature"])
    config, _ = compose(command_of(file)[1:])
    shape = config["model"]["student"]["init_args"]["config"]
    fields = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")
    assert row == {
        "p": truncate.p,
        "k": truncate.k,
        "tail": truncate.tail,
        "temperature": temperature,
        "loss": loss,
        "kd_weight": str(model.kd_weight),
        "lr": str(model.lr),
        "student": (*(shape[field] for field in fields), shape["tie_word_embeddings"]),
        "data": config["data"]["init_args"]["path"],
    }
    assert list(model.objective.transforms) == ["truncate", "temperature"]
    assert (model.objective.loss.student_temperature, model.objective.loss.temperature_squared) == (False, False)
    trained = config["trainer"]["devices"] * config["trainer"]["accumulate_grad_batches"]
    sequences = trained * config["data"]["init_args"]["batch_size"]
    assert sequences == 2048
    assert shape["max_position_embeddings"] == 4096
    assert sequences * 4096 * config["trainer"]["max_steps"] == pytest.approx(100e9, rel=1e-4)
    if row["kd_weight"] == "Constant(value=0)":
        assert done.watch.kd_loss is None
    else:
        assert done.watch.kd_loss == pytest.approx(expected_kd_loss(row, done.watch), rel=2e-6)


def expected_kd_loss(row: dict[str, Any], watch: Watch) -> float:
    batch = {name: values.flatten(0, 1).double().numpy() for name, values in watch.batch.items()}
    logits = watch.logits.flatten(0, 1).double().numpy()
    log_p = np.zeros_like(logits)
    np.put_along_axis(log_p, batch["teacher_ids"].astype(int), batch["teacher_logprobs"], axis=1)
    return kd_loss(row, logits, log_p, batch["labels"].astype(int), batch["teacher_std"])


def test_one_setting_of_a_transform_changes_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Overlays merging into transforms: tests/cli."""
    monkeypatch.chdir(ROOT)
    base = command_of("configs/paper/base.yaml")[1:]
    (before, _), (after, left) = compose(base), compose([*base, "--model.transforms.truncate.init_args.k=20"])
    assert left == []
    assert after["model"]["transforms"]["truncate"]["init_args"].pop("k") == 20
    assert before["model"]["transforms"]["truncate"]["init_args"].pop("k") == 100
    assert after == before


# The teacher, the KD loss and the kind of its targets, α, and what is particular of each transform.
RECIPES: dict[str, tuple[str, str, str, str, dict[str, dict[str, Any]]]] = {
    "gemma": (
        "FrozenTeacher",
        "SoftCrossEntropy",
        "renormalized",
        "Constant(value=1)",
        {"sample": {"n": 256, "s": 1.0, "target": "probabilities"}},
    ),
    "minitron": ("FrozenTeacher", "ForwardKL", "dense", "Constant(value=1)", {}),
    "lfm2": (
        "OfflineTeacher",
        "DecoupledTopK",
        "bucket",
        "Constant(value=0.9)",
        {"truncate": {"p": 1.0, "k": 32, "tail": "bucket"}, "temperature": {"value": 2.0}},
    ),
    "apple": (
        "FrozenTeacher",
        "ForwardKL",
        "renormalized",
        "Constant(value=0.7)",
        {"truncate": {"p": 1.0, "k": 128, "tail": "renormalize"}},
    ),
    "rs_kd": (
        "FrozenTeacher",
        "ForwardKL",
        "sampled",
        "Constant(value=0.9)",
        {"sample": {"n": 50, "s": 1.0, "target": "counts"}},
    ),
}


@pytest.mark.parametrize("below", ["configs/demo/student.yaml", "configs/paper/base.yaml"])
@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_what_it_says(run: Run, name: str, below: str) -> None:
    """Over any configuration: nothing that it may have of its own is left."""
    teacher, loss, kind, kd_weight, transforms = RECIPES[name]
    done = run(f"configs/recipes/{name}.yaml", below=below)
    model = done.model
    assert type(model.teacher).__name__ == teacher
    assert type(model.objective.loss).__name__ == loss
    assert model.objective.check(model.teacher.form).kind == kind
    assert str(model.kd_weight) == kd_weight
    assert model.objective.transforms.keys() == transforms.keys()
    for key, settings in transforms.items():
        assert settings.items() <= vars(model.objective.transforms[key]).items()
    assert done.watch.kd_loss is not None


@pytest.mark.parametrize("below", ["configs/demo/student.yaml", "configs/paper/base.yaml"])
def test_miniplm_learns_from_the_lm_loss_alone(
    run: Run, below: str, blocks: Path, recwarn: pytest.WarningsRecorder
) -> None:
    done = run("configs/recipes/miniplm.yaml", below=below, data={"init_args": {"path": str(blocks)}})
    assert isinstance(done.model.teacher, NoTeacher)
    assert done.watch.kd_loss is None
    assert done.trainer.global_step == 2
    assert not [str(warning.message) for warning in recwarn if "no effect" in str(warning.message)]


MINI = "paper_mini"
TEACHERS = {
    "configs/demo/record.yaml": ("runs/demo/teacher/export", "runs/demo/store", 0.95, 50),
    "configs/paper/record.yaml": ("zai-org/glm-4-9b-hf", "runs/paper/store", 0.95, 100),
    "configs/paper/teacher/9b.yaml": ("zai-org/glm-4-9b-hf", "runs/paper/store", 0.95, 100),
    "configs/paper/teacher/32b.yaml": ("zai-org/GLM-4-32B-Base-0414", "runs/paper/store-32b", 0.95, 100),
    f"configs/study/{MINI}/record.yaml": (f"runs/study/{MINI}/teacher/export", f"runs/study/{MINI}/store", 0.98, 100),
}


@pytest.mark.parametrize("file", of("record"))
def test_record_makes_a_store(run: Run, file: str, blocks: Path, tmp_path: Path) -> None:
    config, _ = compose(command_of(file)[1:])
    teacher, folder, p, k = TEACHERS[file]
    assert config["model"]["teacher"]["init_args"]["model"] == teacher
    assert config["model"]["output_dir"] == folder
    run(file, data={"init_args": {"path": str(blocks)}})
    store = read_manifest(tmp_path / "store")
    assert store.selection == {"p": p, "k": k, "min_k": 1}
    assert store.splits["train"].num_blocks == 8


@pytest.mark.parametrize(
    ("file", "block_size", "tokenizer"),
    [
        ("configs/demo/tokenize.yaml", 128, None),
        ("configs/paper/tokenize.yaml", 4096, "zai-org/glm-4-9b-hf"),
        ("configs/study/paper_mini/tokenize.yaml", 128, None),
        ("configs/study/paper_mini/tokenize_prose.yaml", 128, "runs/study/paper_mini/code/tokenizer"),
    ],
)
def test_tokenize_makes_blocks(
    file: str, block_size: int, tokenizer: str | None, blocks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    name, *arguments = command_of(file)
    assert compose(arguments)[0].get("tokenizer") == tokenizer
    sources = f"[{Path(sysconfig.get_paths()['stdlib']) / 'json' / '*.py'}]"
    changes = ["--source=pd_lightning.data.TextFiles", f"--source.paths={sources}", "--val_fraction=0"]
    changes += ["--vocab_size=300"] if tokenizer is None else [f"--tokenizer={blocks / 'tokenizer'}"]
    assert main([name, *arguments, *changes, f"--output_dir={tmp_path / 'blocks'}"]) == 0
    assert read_manifest(tmp_path / "blocks").block_size == block_size


@pytest.mark.parametrize("name", ["330m", "670m", "1.9b", "3.8b", "6.8b"])
def test_students_have_the_parameters_they_are_named_for(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """All parameters count: without the embeddings, 330M would be 180M, and the 1.9B 1.2B."""
    monkeypatch.chdir(ROOT)
    config, _ = compose(command_of(f"configs/paper/student/{name}.yaml")[1:])
    with torch.device("meta"):
        student = build_causal_lm({**config["model"]["student"]["init_args"]["config"], "vocab_size": GLM_VOCABULARY})
    billions = float(name[:-1]) / (1000 if name.endswith("m") else 1)
    assert sum(parameter.numel() for parameter in student.parameters()) / 1e9 == pytest.approx(billions, rel=0.03)
