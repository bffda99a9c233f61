"""Everything printed in README: its commands run in their order, on as little text as a test can bear."""

import re
import shlex
from pathlib import Path

import pytest
import yaml

from pd_lightning.cli import main

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


MADE = (["make", "demo"], ["make", "test"], ["make", "study"], ["tensorboard", "--logdir"])


def fenced(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, flags=re.DOTALL | re.MULTILINE)


def commands() -> list[list[str]]:
    lines = "".join(fenced("bash")).replace("\\\n", " ").splitlines()
    return [shlex.split(line) for line in lines]


@pytest.mark.timeout(600)
def test_every_command_works_in_its_order(small_checkout: Path, capsys: pytest.CaptureFixture) -> None:
    run = 0
    for program, *arguments in commands():
        if program != "pd-lightning":
            assert [program, *arguments[:1]] in MADE
            continue
        arguments = [argument.replace("max_steps=310", "max_steps=4") for argument in arguments]
        assert main(arguments) == 0, f"{arguments}: {capsys.readouterr().err}"
        run += 1
    assert run == 15
    for source in fenced("python"):
        exec(compile(source, "README.md", "exec"), {})
    printed = yaml.safe_load(fenced("yaml")[0])
    assert printed == yaml.safe_load((ROOT / "configs" / "demo" / "offline.yaml").read_text())


def test_every_link_into_the_project_leads_somewhere() -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", README):
        assert (ROOT / target).exists(), target


def test_make_knows_the_commands() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    assert {words[1] for words in commands() if words[0] == "make"} <= targets
