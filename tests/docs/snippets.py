"""What is printed in the pages of docs/: fenced blocks, and the command line's own parsers to hold them against."""

import re
import shlex
from functools import cache
from pathlib import Path
from typing import Any

from jsonargparse import auto_parser

from pd_lightning.cli.command_line import COMMANDS, Command
from pd_lightning.cli.commands import load_target, with_flags
from pd_lightning.composition.compose import as_arguments, compose
from pd_lightning.trainer import PDTrainer, TrainerCLI

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "docs").rglob("*.md"))
# Programs that pages name beside ours.
OTHERS = {"make", "lm_eval", "tensorboard", "python", "torchrun", "srun", "pip", "#SBATCH", "llama-cli", "vllm", "curl"}


class _FoundError(Exception):
    """Carries a parser out of LightningCLI before anything is parsed."""


class _Parsers(TrainerCLI):
    def parse_arguments(self, parser: Any, args: Any) -> None:
        raise _FoundError(parser)


@cache
def parser(name: str, command: Command) -> Any:
    """The parser of a command, made once: that of the Trainer takes seconds."""
    target = load_target(command.target)
    if not command.trainer:
        return auto_parser(target, as_positional=command.positional, exit_on_error=False)
    try:
        _Parsers(name.replace("-", "_"), target, [])
    except _FoundError as found:
        return found.args[0]
    raise AssertionError("LightningCLI must parse")


def parse(command: str, argv: list[str]) -> None:
    """Parse a command line as `pd-lightning` would, down to the settings of every class; nothing is built."""
    given = COMMANDS[command].given(argv)
    method = command.replace("-", "_")
    function = getattr(PDTrainer, method) if given.trainer else load_target(given.target)
    arguments = as_arguments(*compose(with_flags(function, argv)))
    parser(command, given).parse_args([method, *arguments] if given.trainer else arguments)


def fenced(page: Path, *languages: str) -> list[str]:
    """The blocks of a page in some languages, also those that are indented in a list."""
    text = page.read_text(encoding="utf-8")
    blocks = re.findall(rf"^( *)```(?:{'|'.join(languages)})\n(.*?)^ *```$", text, flags=re.DOTALL | re.MULTILINE)
    return [re.sub(rf"^{indent}", "", block, flags=re.MULTILINE) for indent, block in blocks]


def commands(page: Path) -> list[list[str]]:
    """The command lines of a page, continued ones joined."""
    lines = "".join(fenced(page, "bash", "console")).replace("\\\n", " ").splitlines()
    return [shlex.split(line, comments=not line.startswith("#SBATCH")) for line in lines if line.strip()]
