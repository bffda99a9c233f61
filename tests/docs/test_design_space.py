"""docs/design-space.md says what there is: its lines do what the files do, its classes exist, its losses work."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from pd_lightning import losses, schedules, teachers, transforms, weightings
from pd_lightning.cli.command_line import COMMANDS
from pd_lightning.composition.compose import compose
from pd_lightning.targets import Form, Kind

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "design-space.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| `([\w/.]+\.yaml)` \| [^|]+ \| `(--[^`]+)` \|$", PAGE, flags=re.MULTILINE)
LR = shlex.split(re.findall(r"^--model\.lr=.*$", PAGE, flags=re.MULTILINE)[0])
MATRIX = re.findall(r"^\| `(\w+)`( of \w+)? \|((?: (?:yes|–) \|){5})$", PAGE, flags=re.MULTILINE)
KINDS: tuple[Kind, ...] = ("dense", "bucket", "renormalized", "none", "sampled")


def settings(*arguments: str) -> dict[str, Any]:
    base = ["--config", str(ROOT / "configs" / "paper" / "base.yaml")]
    config, left = compose([*base, *arguments])
    assert left == []
    return config


def completed(node: Any) -> Any:
    """Classes by their bare name, as `--model.loss=pd_lightning.losses.ForwardKL`, as mappings."""
    if isinstance(node, dict):
        return {key: completed(value) for key, value in node.items()}
    return {"class_path": node} if isinstance(node, str) and node.startswith("pd_lightning.") else node


@pytest.mark.parametrize(("file", "line"), ROWS, ids=[file for file, _ in ROWS])
def test_the_line_does_what_the_file_does(file: str, line: str) -> None:
    with_lr = LR if "/wsd_lr/" in file or file == "best.yaml" else []
    overlay = settings("--config", str(ROOT / "configs" / "paper" / file))
    assert completed(settings(*shlex.split(line), *with_lr)["model"]) == completed(overlay["model"])
    assert settings(*shlex.split(line))["data"] == overlay["data"]


def test_every_preset_is_named() -> None:
    named = {f"configs/paper/{file}" for file, _ in ROWS}
    named |= {f"configs/recipes/{name}" for name in re.findall(r"^\| `(\w+\.yaml)` \| [^|]+ \|$", PAGE, re.MULTILINE)}
    presets = {
        str(path.relative_to(ROOT))
        for name in ("paper", "recipes")
        for path in (ROOT / "configs" / name).rglob("*.yaml")
    }
    over_others = {f"configs/paper/{name}.yaml" for name in ("base", "record", "tokenize", "teacher/9b", "teacher/32b")}
    assert named == presets - over_others
    for file in over_others:
        assert f"`{file.removeprefix('configs/paper/')}`" in PAGE


def test_every_class_and_file_exists() -> None:
    known = {name for room in (losses, schedules, teachers, transforms, weightings) for name in room.__all__}
    names = set(re.findall(r"`([A-Z]\w+[a-z]\w*|WSD|WTTM)`", PAGE))
    assert len(names) > 25
    assert names <= known
    for room in (transforms, losses, weightings):
        concrete = {name for name in room.__all__ if hasattr(room, name) and not abstract(getattr(room, name))}
        assert concrete <= names
    for target in re.findall(r"configs/[\w/.]+\.yaml", PAGE):
        assert (ROOT / target).is_file(), target
    for command in re.findall(r"pd-lightning ([\w-]+)", PAGE):
        assert command in COMMANDS


def abstract(thing: Any) -> bool:
    """Interfaces, and what is no transform, loss or weighting."""
    bases = (losses.Loss, transforms.Transform, weightings.Weighting)
    return not (isinstance(thing, type) and issubclass(thing, bases)) or bool(thing.__abstractmethods__)


def test_every_heading_is_in_the_contents() -> None:
    headings = re.findall(r"^## (.*)$", PAGE, flags=re.MULTILINE)
    links = re.findall(r"^- \[(.*)\]\(#(.*)\)$", PAGE, flags=re.MULTILINE)
    assert links == [(title, title.lower().replace(",", "").replace(" ", "-")) for title in headings]


@pytest.mark.parametrize(("name", "what", "cells"), MATRIX, ids=[name + what for name, what, _ in MATRIX])
def test_losses_work_with_what_the_page_says(name: str, what: str, cells: str) -> None:
    loss = getattr(losses, name)()
    if what == " of logits":
        loss = losses.MeanSquaredError("logits")
    for kind, cell in zip(KINDS, re.findall(r"yes|–", cells), strict=True):
        if cell == "yes":
            loss.check(Form(kind, vocab_size=100))
        else:
            with pytest.raises(ValueError, match=r"Set |Put |set "):
                loss.check(Form(kind, vocab_size=100))


def test_the_matrix_has_every_loss() -> None:
    concrete = {name for name in losses.__all__ if not abstract(getattr(losses, name))} - {"WeightedSum"}
    assert {name for name, _, _ in MATRIX} == concrete
