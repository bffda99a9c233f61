"""The examples, run from a folder of their own, with the package as it is installed."""

import os
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml

EXAMPLES = Path(__file__).parents[2] / "examples"
SCRIPTS = (
    "distill_callback",
    "distiller_in_your_step",
    "hugging_face_students",
    "record_then_offline",
    "your_student_and_data",
)
FEW = "--trainer.max_steps=4 --trainer.val_check_interval=4 --trainer.limit_val_batches=1 --trainer.accelerator=cpu"
SHORT = f"""
import teacher

teacher.trained_teacher(4)
for name in ({", ".join(map(repr, SCRIPTS))},):
    print(">", name, flush=True)
    __import__(name).main(4)
"""
LITGPT = """
from importlib.util import find_spec

if find_spec("litgpt"):
    print("> litgpt_student", flush=True)
    __import__("litgpt_student").main(4)
"""
PAGE = """
from pathlib import Path

for source in Path("page.md").read_text().split("```python\\n")[1:]:
    source = source.split("```")[0].replace("max_steps=100", "max_steps=2, val_check_interval=2")
    exec(compile(source, "docs/lightning.md", "exec"), {"__name__": "page"})
"""
COMMANDS = f"""
import runpy
import sys

from pd_lightning.cli import main

print("> your_cli", flush=True)
sys.argv = ["your_cli.py", "fit", "--config", "your_cli.yaml", *{FEW.split()}]
runpy.run_path("your_cli.py", run_name="__main__")
print("> your_classes", flush=True)
assert main(["fit", "--config", "your_classes.yaml", *{FEW.split()}]) == 0
"""
DOCS = EXAMPLES.parent / "docs" / "lightning.md"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The examples, the teacher trained, and what each script printed."""
    folder = tmp_path_factory.mktemp("examples")
    shutil.copytree(EXAMPLES, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.ipynb", "__pycache__"))
    shutil.copy(DOCS, folder / "page.md")
    (folder / "printed.txt").write_text(run(folder, "-c", SHORT + LITGPT + PAGE + COMMANDS))
    return folder


def run(folder: Path, *arguments: str) -> str:
    # Whatever puts a checkout on the path is left out: the package must be installed.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


def printed(folder: Path, script: str) -> str:
    (text,) = [part for part in (folder / "printed.txt").read_text().split("> ") if part.startswith(script)]
    return text


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("distill_callback", ["train/kd_weight", "val_loss", "val/kd_loss", "val/top1_agreement"]),
        ("distiller_in_your_step", ["train/lm_loss", "val/kd_loss", "in the checkpoint: layers, lm_head, positions"]),
        ("hugging_face_students", ["llama {'val/lm_loss'", "qwen3 {'val/lm_loss'", "gemma3_text {'val/lm_loss'"]),
        ("record_then_offline", ["train/kd_loss", "val_loss", "val/kd_loss"]),
        ("your_student_and_data", ["val/kd_loss", "val/perplexity"]),
    ],
)
def test_scripts(folder: Path, script: str, expected: list[str]) -> None:
    text = printed(folder, script)
    assert [one for one in expected if one not in text] == []
    assert "nan" not in text


def test_a_cli_of_the_projects_own(folder: Path) -> None:
    (saved,) = folder.glob("lightning_logs/**/config.yaml")
    assert "class_path: pd_lightning.losses.JensenShannon" in saved.read_text()
    assert list(saved.parent.glob("checkpoints/*.ckpt"))


def test_our_command_with_classes_of_the_project(folder: Path) -> None:
    metrics = (folder / "runs" / "your_classes" / "logs" / "metrics.csv").read_text()
    assert "val/kd_loss" in metrics


@pytest.mark.skipif(find_spec("litgpt") is None, reason="litgpt is not installed")
def test_litgpt(folder: Path) -> None:
    assert "val/kd_loss" in printed(folder, "litgpt_student")


def test_the_page_shows_what_the_examples_do(folder: Path) -> None:
    page = DOCS.read_text()
    (settings,) = re.findall(r"```yaml\n(.*?)```", page, flags=re.DOTALL)
    assert yaml.safe_load(settings) == yaml.safe_load((EXAMPLES / "your_classes.yaml").read_text())
    named = set(re.findall(r"`(\w+\.(?:py|yaml))`", page))
    assert {name for name in named if not (EXAMPLES / name).is_file()} == set()


def test_each_is_short_and_named_in_the_tests() -> None:
    scripts = {path.stem: len(path.read_text().splitlines()) for path in EXAMPLES.glob("*.py")}
    assert {name: lines for name, lines in scripts.items() if lines >= 60} == {}
    assert set(scripts) == {*SCRIPTS, "litgpt_student", "project", "teacher", "texts", "your_cli"}
