"""The pages of docs/: their YAML and commands parse, their Python runs, and what they repeat is true."""

import re
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from snippets import OTHERS, PAGES, ROOT, commands, fenced, parse

from pd_lightning.cli.command_line import COMMANDS, main, split_command
from pd_lightning.study.points import DesignSpace
from pd_lightning.study.settings import Axis, Controls, StudySettings

NAMES = [str(page.relative_to(ROOT / "docs")) for page in PAGES]
DOCS = dict(zip(NAMES, PAGES, strict=True))
EXPORTED = "runs/demo/offline/export"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory as the pages have it: configurations, the files that they tell one to save, run.yaml."""
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    (tmp_path / "run").mkdir()
    for name in ("run.yaml", "run/config.yaml"):
        shutil.copy(ROOT / "configs" / "demo" / "student.yaml", tmp_path / name)
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for name, source in re.findall(r"^Save this as `(\w+\.py)`.*?^```python\n(.*?)^```", text, re.DOTALL | re.M):
            (tmp_path / name).write_text(source)
    (tmp_path / "text.txt").write_text("What a bigger model says about every next token of it. " * 40)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(ROOT / "examples"))  # whose files pages name
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    for name in ("bytes_project", "my_pieces"):
        sys.modules.pop(name, None)


@pytest.fixture
def demo(place: Path, blocks: Path, teacher_dir: Path, truncated_store: Path) -> Path:
    """The same with the folders of a demo, small ones."""
    for name, folder in (("blocks", blocks), ("store", truncated_store), ("teacher/export", teacher_dir)):
        (place / "runs" / "demo" / name).parent.mkdir(parents=True, exist_ok=True)
        (place / "runs" / "demo" / name).symlink_to(folder)
    (place / EXPORTED).parent.mkdir()
    (place / EXPORTED).symlink_to(teacher_dir)
    return place


@pytest.mark.parametrize("name", NAMES)
def test_yaml_and_commands_parse(place: Path, name: str) -> None:
    for text in fenced(DOCS[name], "yaml"):
        first = text.partition("\n")[0].removeprefix("# ")
        file = Path(first if re.fullmatch(r"[\w-]+\.yaml", first) else "snippet.yaml")
        file.write_text(text)
        settings = yaml.safe_load(text)
        if "source" in settings:
            parse("tokenize", ["--output_dir=blocks", "--config", str(file)])
        if "axes" in settings:
            parse("study", ["--config", str(file)])
            DesignSpace(StudySettings(name="x", **study_settings(settings)))
        if not settings.keys() <= {"model", "data", "trainer", "seed_everything"}:
            continue  # of another program
        records = settings.get("model", {}).keys() & {"output_dir", "selection", "sampling"}
        complete = "class_path" in settings.get("model", {}).get("student", {}) and "data" in settings
        base = [] if records or complete else ["--config", "run.yaml"]
        parse("record" if records else "fit", [*base, "--config", str(file)])
    for program, *arguments in commands(DOCS[name]):
        if program == "pd-lightning":
            # A run's folder has its settings.
            command, settings = split_command(arguments)
            parse(command, [re.sub(r"^runs/.*/config\.yaml$", "run/config.yaml", each) for each in settings])
        else:
            assert program in OTHERS or program.startswith("-"), program


def study_settings(settings: dict[str, Any]) -> dict[str, Any]:
    return settings | {
        "axes": {name: Axis(**axis) for name, axis in settings["axes"].items()},
        "controls": Controls(**settings.get("controls", {})),
    }


@pytest.mark.parametrize("name", NAMES)
def test_commands_and_files_exist(name: str) -> None:
    text = DOCS[name].read_text(encoding="utf-8")
    said = re.findall(r"`pd-lightning ([\w-]+ ?[\w-]*)", text)
    assert {split_command(each.split())[0] for each in said} <= COMMANDS.keys()
    for file in re.findall(r"\b(?:configs|tests|benchmarks|examples)/[\w/.-]+\.(?:yaml|py|json|ipynb)", text):
        assert (ROOT / file).exists(), file
    for number, source in enumerate(fenced(DOCS[name], "python")):
        compile(source, f"{name}:{number}", "exec")


@pytest.mark.parametrize("name", ["how-to/lightning-project.md", "how-to/export.md", "migration.md", "scaling-laws.md"])
def test_python_runs(demo: Path, name: str) -> None:
    space: dict[str, Any] = {}
    for source in fenced(DOCS[name], "python"):
        exec(compile(source, name, "exec"), space)
    if name == "migration.md":
        same_losses(space["hand_written"], space["ours"])


def same_losses(hand_written: Any, ours: Any) -> None:
    """What our module logs of its first step is what the formula gives."""
    import lightning
    import torch
    from bytes_project import ByteModel, Bytes

    torch.manual_seed(1)
    student, teacher = ByteModel(), ByteModel(width=32)
    data = Bytes("text.txt")
    loader = torch.utils.data.DataLoader(data.train_dataloader().dataset, batch_size=4)
    batch = next(iter(loader))
    with torch.no_grad():
        expected = hand_written(student(batch["input_ids"]), teacher(batch["input_ids"]), batch["labels"])
    trainer = lightning.Trainer(max_steps=1, accelerator="cpu", logger=False, enable_checkpointing=False)
    trainer.fit(ours(student, teacher), loader)
    assert trainer.callback_metrics["train/loss"].item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize(
    ("page", "overlays"),
    [
        ("how-to/own-pieces.md", ["configs/demo/offline.yaml", "mine.yaml"]),
        ("how-to/lightning-project.md", ["project.yaml"]),
        ("how-to/record-and-reuse.md", ["offline.yaml"]),
        ("migration.md", ["snippet-0.yaml"]),
        ("migration.md", ["snippet-1.yaml"]),
    ],
    ids=lambda value: value if isinstance(value, str) else value[-1],
)
def test_its_settings_train(demo: Path, page: str, overlays: list[str]) -> None:
    for number, text in enumerate(fenced(DOCS[page], "yaml")):
        first = text.partition("\n")[0].removeprefix("# ")
        Path(first if first.endswith(".yaml") else f"snippet-{number}.yaml").write_text(text)
    complete = page in ("migration.md", "how-to/lightning-project.md")
    files = [part for file in ([] if complete else ["run.yaml"]) + overlays for part in ("--config", file)]
    short = ["--trainer.max_steps=2", "--trainer.limit_val_batches=0", "--trainer.logger=false"]
    place = ["--trainer.accelerator=cpu", "--trainer.default_root_dir=run"]
    assert main(["fit", *files, *short, *place]) == 0


def test_the_result_is_that_of_readme() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    figures = re.findall(r"\d\.\d{3} ± 0\.\d{3}", DOCS["index.md"].read_text(encoding="utf-8"))
    assert len(figures) == 3
    assert all(figure in readme for figure in figures)
