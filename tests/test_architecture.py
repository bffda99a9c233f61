"""The rooms of the code, the arrows between them, and what is said about every file."""

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from importlib.util import resolve_name
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# What makes up one room though it stands apart: any other file or folder of pd_lightning/ is a room of its own.
GROUPS = {
    "cli": {"loggers", "tensorboard", "trainer"},
    "module": {"muon", "strategies"},
    "record": {"recording", "sampling", "selection"},
}
# What a room may import, besides itself. Nothing imports `callbacks`: YAML joins them.
ARROWS = {
    "__init__": {"version"},
    "version": set(),
    "redaction": set(),
    "composition": {"redaction"},
    "flops": set(),
    "__main__": {"cli"},
    "targets": set(),
    "schedules": set(),
    "language_model": {"targets"},
    "sharding": {"language_model"},
    "tokenizers": set(),
    "students": {"language_model", "tokenizers"},
    "teachers": {"checkpoints", "language_model", "sharding", "targets", "tokenizers"},
    "context": set(),
    "losses": {"targets"},
    "transforms": {"context", "schedules", "targets"},
    "weightings": set(),
    "objective": {"context", "losses", "schedules", "targets", "transforms", "weightings"},
    "module": {
        "checkpoints",
        "context",
        "data",
        "language_model",
        "losses",
        "objective",
        "schedules",
        "sharding",
        "students",
        "targets",
        "teachers",
        "transforms",
        "version",
        "weightings",
    },
    "store": {"redaction", "version"},
    "data": {"redaction", "store"},
    "record": {"context", "data", "redaction", "store", "targets", "teachers", "transforms"},
    "checkpoints": {"store"},
    "export": {"checkpoints", "language_model", "module", "redaction", "store", "version"},
    "schedule_plot": {"module", "schedules", "teachers"},
    "guards": {"module", "store"},
    "cli": {
        "checkpoints",
        "comparison",
        "composition",
        "data",
        "export",
        "guards",
        "inspection",
        "module",
        "plan",
        "record",
        "redaction",
        "scaling",
        "schedule_plot",
        "store",
        "study",
        "version",
    },
    "study": {"composition", "redaction", "report", "store", "version"},
    "scaling": {"report", "store"},
    "plan": {
        "composition",
        "data",
        "flops",
        "language_model",
        "module",
        "record",
        "scaling",
        "schedules",
        "store",
        "students",
        "teachers",
    },
    "comparison": {"data", "export", "flops", "store"},
    "report": set(),
    "inspection": {"record", "report", "store"},
    "demo": {"cli", "data", "export", "report", "store"},
    "distiller": {
        "context",
        "data",
        "losses",
        "module",
        "objective",
        "schedules",
        "targets",
        "teachers",
        "transforms",
        "weightings",
    },
    "callbacks": {
        "context",
        "data",
        "distiller",
        "export",
        "flops",
        "guards",
        "language_model",
        "losses",
        "module",
        "objective",
        "record",
        "schedules",
        "store",
        "targets",
        "teachers",
        "transforms",
    },
}
# Libraries that a room does without.
LIGHTNING = {"lightning", "lightning_fabric", "pytorch_lightning"}
WITHOUT = {
    "losses": LIGHTNING,
    "transforms": LIGHTNING,
    "targets": LIGHTNING,
    "weightings": LIGHTNING,
    "store": {"torch", "transformers", *LIGHTNING},
}
CLASS_PATH = re.compile(r"pd_lightning(\.\w+)+(:\w+)?")


def sources(root: Path) -> Iterator[tuple[str, Path]]:
    """Module names and files of the package, callbacks included."""
    for package, folder in (("pd_lightning", root / "pd_lightning"), ("pd_lightning.callbacks", root / "callbacks")):
        for file in sorted(folder.rglob("*.py")):
            relative = file.relative_to(folder)
            if package == "pd_lightning" and relative.parts[0] == "callbacks":
                continue  # through the link, where rglob follows it
            yield ".".join([package, *relative.with_suffix("").parts]), file


def room(module: str) -> str:
    name = module.split(".")[1]
    return next((group for group, files in GROUPS.items() if name in files), name)


def imports(module: str, file: Path) -> Iterator[tuple[int, str]]:
    """Lines and names of what a file imports at any place, also through a string that is nothing but a class path."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = module.rpartition(".")[0]
            source = resolve_name("." * node.level + (node.module or ""), package) if node.level else node.module or ""
            # `from pd_lightning import x` names the room x, unless x is what __init__ itself gives.
            rooms = ["__init__" if alias.name.startswith("__") else alias.name for alias in node.names]
            names = [f"{source}.{name}" for name in rooms] if source == "pd_lightning" else [source]
            yield from ((node.lineno, name) for name in names)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and CLASS_PATH.fullmatch(node.value):
            yield node.lineno, node.value.partition(":")[0]


def violations(root: Path) -> list[str]:
    """Arrows that are not allowed, each naming file, line and import."""
    found = []
    for module, file in sources(root):
        here = room(module)
        where = file.relative_to(root)
        if here not in ARROWS:
            found.append(f"{where}: the room {here} must be listed in ARROWS of {Path(__file__).name}")
            continue
        for line, name in imports(module, file):
            library, ours = name.partition(".")[0], name.startswith("pd_lightning.")
            there = room(name) if ours else library
            forbidden = there not in ARROWS[here] | {here} if ours else library in WITHOUT.get(here, ())
            if forbidden:
                found.append(f"{where}:{line}: {here} must not import {there} ({name})")
    return found


def test_imports_follow_the_arrows() -> None:
    assert violations(ROOT) == []


def test_every_listed_room_exists() -> None:
    assert set(ARROWS) == {room(module) for module, _ in sources(ROOT)}


def test_arrows_make_no_circle() -> None:
    assert set(TopologicalSorter(ARROWS).static_order()) == set(ARROWS)


@pytest.mark.parametrize(
    ("file", "text", "expected"),
    [
        ("pd_lightning/losses/new.py", "import pd_lightning.data.blocks", ":1: losses must not import data"),
        ("pd_lightning/losses/new.py", "from pd_lightning import data", ":1: losses must not import data"),
        ("pd_lightning/losses/new.py", "from ..data import blocks", ":1: losses must not import data"),
        ("pd_lightning/losses/new.py", "from lightning.pytorch import Trainer", ":1: losses must not import lightning"),
        ("pd_lightning/store/new.py", "def f():\n    import torch", ":2: store must not import torch"),
        ("pd_lightning/data/new.py", "if TYPE_CHECKING:\n    import pd_lightning.module", ":2: data must not import"),
        (
            "pd_lightning/cli/command_line.py",
            "import_module('pd_lightning.callbacks')",
            ":1: cli must not import callbacks",
        ),
        ("callbacks/new.py", "from pd_lightning.cli import main", ":1: callbacks must not import cli"),
        ("pd_lightning/cli/errors.py", "import pd_lightning.report", ":1: cli must not import report"),
        ("pd_lightning/helpers.py", "", ": the room helpers must be listed in ARROWS"),
    ],
)
def test_a_wrong_arrow_is_named(tmp_path: Path, file: str, text: str, expected: str) -> None:
    (tmp_path / file).parent.mkdir(parents=True)
    (tmp_path / file).write_text(text)
    (message,) = violations(tmp_path)
    assert message.startswith(file + expected)


def test_light_modules_import_no_torch() -> None:
    code = "import sys, pd_lightning.cli, pd_lightning.store.manifest; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_a_file_is_one_idea() -> None:
    lines = {str(file): len(file.read_text(encoding="utf-8").splitlines()) for _, file in sources(ROOT)}
    assert {file: n for file, n in lines.items() if n > 300} == {}, "a file past 300 lines is usually two ideas"


def test_no_file_is_called_after_nothing() -> None:
    names = {"utils", "util", "helpers", "common", "misc"}
    assert [str(file) for _, file in sources(ROOT) if names & set(file.relative_to(ROOT).with_suffix("").parts)] == []


MACHINE = re.compile(
    r"/(work|home|tmp|root|Users|mnt)/|[\w.]*\b(pypi|pythonhosted|anaconda|download\.pytorch)\.org"  # paths, registries
)


def tracked_files() -> list[Path]:
    """Files under version control, and those that would be added."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [path for name in listed.split("\0") if name and (path := ROOT / name).is_file()]


def test_no_file_names_this_machine_or_a_registry() -> None:
    files = tracked_files()
    assert ROOT / "pyproject.toml" in files
    found = [
        f"{file.relative_to(ROOT)}:{number}: {match.group()}"
        for file in files
        for number, line in enumerate(file.read_text(encoding="utf-8", errors="replace").splitlines(), 1)
        if (match := MACHINE.search(line))
    ]
    assert found == [], os.linesep.join(found)
