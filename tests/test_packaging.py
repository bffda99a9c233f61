"""The ways to install the package: callbacks/ becomes pd_lightning.callbacks in all of them."""

import importlib.metadata
import importlib.resources
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest

import pd_lightning
from pd_lightning.cli import main

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
SETUPTOOLS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
REFUSAL = "Import these callbacks as pd_lightning.callbacks, not as a top-level module."


def test_the_console_script_is_main() -> None:
    (script,) = importlib.metadata.entry_points(group="console_scripts", name="pd-lightning")
    assert script.load() is main


def test_the_version_is_the_installed_one() -> None:
    assert pd_lightning.__version__ == importlib.metadata.version("pd-lightning")


def test_types_are_declared() -> None:
    assert importlib.resources.files(pd_lightning).joinpath("py.typed").is_file()


def test_every_folder_of_code_is_a_listed_package() -> None:
    folders = {file.parent.relative_to(ROOT) for file in (ROOT / "pd_lightning").rglob("*.py")}
    packages = {".".join(folder.parts) for folder in folders} | {"pd_lightning.callbacks"}
    assert packages == set(SETUPTOOLS["packages"])


def run(command: Sequence[str | Path], cwd: Path) -> str:
    """Output of a command that sees nothing of this checkout; its errors go into the failure's message."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(list(map(str, command)), cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{command} in {cwd}\n{done.stdout}\n{done.stderr}"
    return done.stdout.strip()


def copy(target: Path, links: bool) -> Path:
    """The files under version control and those that would be added; without links, as a zip archive gives them."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    for name in filter(None, run(command, ROOT).split("\0")):
        source, destination = ROOT / name, target / name
        if not source.exists():
            continue  # deleted, and not committed yet
        destination.parent.mkdir(parents=True, exist_ok=True)
        if source.is_symlink() and not links:
            destination.write_text(str(source.readlink()))
        else:
            shutil.copy2(source, destination, follow_symlinks=False)
    return target


def make_python(folder: Path) -> Path:
    """An environment without pd-lightning, which borrows everything else from this one."""
    venv.create(folder, with_pip=False, symlinks=True)
    python = folder / "bin" / "python"
    site = Path(run([python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], folder))
    # A folder named in a .pth file goes on the path, but its own .pth files (an editable pd-lightning) do not count.
    (site / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python


def install(python: Path, *what: str | Path) -> None:
    """Install offline, beside whatever pd-lightning this environment has."""
    options = ["--quiet", "--no-index", "--no-deps", "--no-build-isolation", "--ignore-installed"]
    run([python, "-m", "pip", "install", *options, *what], python.parent)


def check_import(python: Path, cwd: Path, inside: Path) -> None:
    """Callbacks are found under their own name, below a folder, and not as a top-level module."""
    code = "import pd_lightning.callbacks as c, pd_lightning.cli; print(c.__name__, c.__file__)"
    name, file = run([python, "-c", code], cwd).split(" ", 1)
    assert name == "pd_lightning.callbacks"
    assert Path(file).resolve().is_relative_to(inside.resolve())
    code = "try:\n    import callbacks\nexcept ImportError as error:\n    print(error)"
    expected = REFUSAL if (cwd / "callbacks").exists() else "No module named 'callbacks'"
    assert run([python, "-c", code], cwd) == expected


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """An empty folder to start Python in."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["wheel", "sdist"])
@pytest.mark.parametrize("links", [True, False], ids=["clone", "zip"])
def test_a_built_distribution_installs(tmp_path: Path, elsewhere: Path, kind: str, links: bool) -> None:
    checkout = copy(tmp_path / "checkout", links)
    code = f"from setuptools import build_meta; build_meta.build_{kind}({str(tmp_path)!r})"
    run([sys.executable, "-c", code], checkout)
    (built,) = [*tmp_path.glob("*.whl"), *tmp_path.glob("*.tar.gz")]
    if kind == "wheel":
        names = zipfile.ZipFile(built).namelist()
        assert {name.split("/")[0].split("-")[0] for name in names} == {"pd_lightning"}
        assert {"pd_lightning/py.typed", "pd_lightning/callbacks/__init__.py"} <= set(names)
        assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)
    shutil.rmtree(checkout)
    python = make_python(tmp_path / "environment")
    install(python, built)
    check_import(python, elsewhere, inside=tmp_path / "environment")
    assert run([python.parent / "pd-lightning", "--version"], elsewhere) == f"pd-lightning {pd_lightning.__version__}"
    if kind == "wheel" and links:
        shutil.copytree(ROOT / "examples", elsewhere, dirs_exist_ok=True)
        code = "import teacher, distill_callback; teacher.trained_teacher(2); distill_callback.main(2)"
        assert "val/kd_loss" in run([python, "-c", code], elsewhere)


@pytest.mark.slow
@pytest.mark.parametrize("strict", [False, True], ids=["lenient", "strict"])
@pytest.mark.parametrize("links", [True, False], ids=["clone", "zip"])
def test_an_editable_install_follows_the_checkout(tmp_path: Path, elsewhere: Path, strict: bool, links: bool) -> None:
    checkout = copy(tmp_path / "checkout", links)
    python = make_python(tmp_path / "environment")
    install(python, *(["--config-settings", "editable_mode=strict"] if strict else []), "-e", checkout)
    # Strict mode links the files from below build/, which lies in the checkout.
    check_import(python, elsewhere, inside=checkout)
    with (checkout / "callbacks" / "__init__.py").open("a") as file:
        file.write("EDITED = True\n")
    assert run([python, "-c", "import pd_lightning.callbacks as c; print(c.EDITED)"], elsewhere) == "True"
    if links or not strict:  # strict mode does not mend the link that the archive lost
        check_import(python, checkout, inside=checkout)


@pytest.mark.slow
def test_a_checkout_works_without_an_install(tmp_path: Path) -> None:
    checkout = copy(tmp_path / "checkout", links=True)
    check_import(make_python(tmp_path / "environment"), checkout, inside=checkout)
