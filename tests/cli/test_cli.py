import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pd_lightning.cli.command_line import COMMANDS, main
from pd_lightning.version import __version__

HEAVY = ("torch", "lightning", "jsonargparse", "transformers", "litdata", "yaml", "numpy")


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], [], ["fitt"]])
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    code = (
        "import sys; from pd_lightning.cli.command_line import main; "
        f"main({arguments!r}); print('HEAVY', [name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "HEAVY []"


def test_a_function_runs_without_lightning(write: Callable[..., Path]) -> None:
    write("light.py", "def greet(name: str = 'you') -> None:\n    print('hello', name)\n")
    code = (
        "import sys; from pd_lightning.cli.command_line import Command, main; "
        "main(['greet', '--name=me'], {'greet': Command('greet', 'light:greet')}); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "hello me\nFalse\n"


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"], ["help"]])
def test_help_lists_every_command(arguments: list[str], capsys: pytest.CaptureFixture) -> None:
    assert main(arguments) == 0
    out = capsys.readouterr().out
    for name, command in COMMANDS.items():
        assert f"  {name} " in out
        assert command.summary in out
    assert "--config overlay.yaml" in out
    assert all(len(line) <= 120 for line in out.splitlines())


def test_version(capsys: pytest.CaptureFixture) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"pd-lightning {__version__}\n"


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("fitt", "got fitt. Did you mean fit?"),
        ("qqqq", "got qqqq. See pd-lightning --help."),
        ("--config", "the command must come first, got --config."),
        ("scaling-low", "got scaling-low. Did you mean scaling-law fit?"),
    ],
)
def test_an_unknown_command_is_explained(argument: str, message: str, capsys: pytest.CaptureFixture) -> None:
    assert main([argument]) == 2
    error = capsys.readouterr().err
    assert error.startswith("pd-lightning: error: the command must")
    assert message in error


def test_help_of_the_first_of_two_words_names_both(capsys: pytest.CaptureFixture) -> None:
    assert main(["scaling-law", "--help"]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first == "pd-lightning scaling-law fit  fit a scaling law to the runs of a study"
    assert second.startswith("pd-lightning scaling-law predict  ")


@pytest.mark.parametrize(("second", "got"), [([], "nothing"), (["fti"], "fti"), (["--law=apple"], "--law=apple")])
def test_a_command_of_two_words_needs_both(second: list[str], got: str, capsys: pytest.CaptureFixture) -> None:
    assert main(["scaling-law", *second]) == 2
    expected = f"scaling-law must be followed by fit or predict, got {got}. Write pd-lightning scaling-law fit."
    assert capsys.readouterr().err == f"pd-lightning: error: {expected}\n"


@pytest.mark.parametrize(
    ("arguments", "printed"),
    [
        (["--source=a", "--times", "2"], "copied a 2 False None"),
        (["--source=a", "--loud"], "copied a 1 True None"),
        (["--loud", "--source=a"], "copied a 1 True None"),
        (["--source=a", "--loud", "false"], "copied a 1 False None"),
        (["--config", "c.yaml"], "copied b 3 False 4.0"),
        (["--config", "c.yaml", "--ramp.peak=5"], "copied b 3 False 5.0"),
        (["--config", "c.yaml", "--ramp=command_toys.Down"], "copied b 3 False 0.25"),
    ],
)
def test_a_function_gets_composed_settings(
    run: Callable[..., int],
    write: Callable,
    capsys: pytest.CaptureFixture,
    arguments: list[str],
    printed: str,
) -> None:
    ramp = {"class_path": "command_toys.Up", "init_args": {"peak": 4.0}}
    write("c.yaml", {"source": "b", "times": 3, "ramp": ramp})
    assert run("copy", *arguments) == 0
    assert capsys.readouterr().out == printed + "\n"


def test_a_function_may_take_positions(run: Callable[..., int], capsys: pytest.CaptureFixture) -> None:
    assert run("show", "a", "--loud", "--times=2") == 0
    assert capsys.readouterr().out == "copied a 2 True None\n"


def test_a_function_reads_the_environment(
    run: Callable[..., int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setenv("PD_LIGHTNING_COPY__TIMES", "9")
    assert run("copy", "--source=a") == 0
    assert capsys.readouterr().out == "copied a 9 False None\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--source=a", "--tims=2"], "there is no setting 'tims'. Did you mean 'times'?"),
        (["--source=a", "--times=x"], "times: the value must be of type int, got x."),
        ([], "source must be given, got nothing. Set it in a --config file, or as --source=…"),
    ],
)
def test_a_function_explains_mistakes(
    run: Callable[..., int], capsys: pytest.CaptureFixture, arguments: list[str], message: str
) -> None:
    assert run("copy", *arguments) == 2
    assert capsys.readouterr().err == f"pd-lightning: error: {message}\n"


def test_a_function_explains_its_settings(run: Callable[..., int], capsys: pytest.CaptureFixture) -> None:
    assert run("copy", "--help") == 0
    out = capsys.readouterr().out
    assert out.startswith("usage: pd-lightning copy")
    for text in ("Copy something.", "What to copy.", "How often. (type: int, default: 1)", "--config"):
        assert text in out


@pytest.mark.parametrize(
    ("arguments", "unbuffered"), [("--version", ""), ("--version", "1"), ("scaling-law predict --help", "")]
)
def test_a_reader_that_goes_is_no_error(arguments: str, unbuffered: str) -> None:
    """As in `pd-lightning --help | head -1`: it ends as other programs do, and says nothing."""
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "pd_lightning", *arguments.split()],
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")
