"""The command line ``pd-lightning``: one table of commands, and what is common to all of them.

Nothing heavy is imported here: ``--help`` answers at once, and a command imports only what it runs.
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from pd_lightning.cli.errors import CommandLineError, exit_code
from pd_lightning.version import __version__


@dataclass(frozen=True)
class Command:
    """One command of ``pd-lightning``.

    Args:
        summary: One line for ``pd-lightning --help``.
        target: ``module:name`` of the function to run, or of the LightningModule where a Trainer runs it.
        trainer: Whether the command is a method of the Trainer.
        positional: Whether the function's required arguments are given by position.
        with_config: The LightningModule where a ``--config`` makes it a command of the Trainer.
    """

    summary: str
    target: str
    trainer: bool = False
    positional: bool = False
    with_config: str | None = None

    def given(self, argv: Sequence[str]) -> Command:
        """The command that these arguments ask for.

        Args:
            argv: The arguments after its name.
        """
        names = {token.partition("=")[0] for token in argv}
        if self.with_config is None or names.isdisjoint({"--config", "-c"}):
            return self
        return Command(self.summary, self.with_config, trainer=True)


MODULE = "pd_lightning.module:DistillationModule"
COMMANDS: dict[str, Command] = {
    "tokenize": Command("turn text into blocks of tokens", "pd_lightning.data.tokenize:tokenize"),
    "fit": Command("train a student, with or without a teacher", MODULE, trainer=True),
    "validate": Command("evaluate a checkpoint on the validation split", MODULE, trainer=True),
    "test": Command("the same as validate, logged as test/", MODULE, trainer=True),
    "predict": Command("log-probabilities of labels, for a prediction writer of yours", MODULE, trainer=True),
    "plot-schedules": Command("draw KD weight, temperatures and learning rate over a run", MODULE, trainer=True),
    "plan": Command(
        "say what a run will cost, and whether distilling pays", "pd_lightning.plan.command:plan", with_config=MODULE
    ),
    "record": Command("run the teacher once and store its logits", "pd_lightning.record:Recorder", trainer=True),
    "import-logits": Command(
        "make a logit store of an inference engine's log-probabilities", "pd_lightning.data.import_logits:import_logits"
    ),
    "select": Command("keep the blocks that teach most, by two logit stores", "pd_lightning.data.select:select"),
    "inspect": Command(
        "show what a data folder holds, and check it", "pd_lightning.inspection:inspect", positional=True
    ),
    "study": Command("explore a design space, with seeds and fair controls", "pd_lightning.study.command:study"),
    "export": Command("write a checkpoint as a Hugging Face folder", "pd_lightning.export:export"),
    "compare": Command(
        "what a student costs in use, beside its teacher", "pd_lightning.comparison.comparison:compare", positional=True
    ),
    "scaling-law fit": Command("fit a scaling law to the runs of a study", "pd_lightning.scaling.fit_command:fit_law"),
    "scaling-law predict": Command(
        "predict a student's loss from sizes", "pd_lightning.scaling.predict_command:predict_loss"
    ),
}

# What commands start themselves; --help and the reference don't speak of it.
INTERNAL = {"check-fits": Command("parse settings of fit", "pd_lightning.cli.fit_checks:check", positional=True)}

EXAMPLES = """\
examples:
  pd-lightning fit --config run.yaml
  pd-lightning fit --config run.yaml --config overlay.yaml --model.lr.peak=1e-3
  pd-lightning fit --config run.yaml --ckpt_path auto     start, or go on where it stopped
  pd-lightning fit --config run.yaml --print_config       show every setting, and stop
  pd-lightning fit --help                                 explain every setting

Files and overrides count in the order in which they are given; another class_path starts from that class's own
defaults. PD_LIGHTNING_FIT__TRAINER__MAX_STEPS=100 sets trainer.max_steps of fit where no file does.
PD_LIGHTNING_TRACEBACK=1 shows the traceback of an error.
"""


def main(argv: list[str] | None = None, commands: Mapping[str, Command] = COMMANDS) -> int:
    """Run ``pd-lightning``.

    Args:
        argv: The arguments without the program's name; those of the process by default.
        commands: The table of commands.

    Returns:
        The exit code: 0 or the command's own, 1 for an error, 2 for a wrong command line, 128 + its number for a
        signal (130 for Ctrl+C).
    """
    argv = sys.argv[1:] if argv is None else list(argv)
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.append(here)  # classes of one's own by class_path, as with `python -m`; they come last
    try:
        result = _dispatch(argv, commands)
        sys.stdout.flush()  # here, where a reader that has gone can be told from a bug
        return result
    except (Exception, KeyboardInterrupt, SystemExit) as error:
        code = exit_code(error)
        if code is None:
            raise
        return code


def _dispatch(argv: list[str], commands: Mapping[str, Command]) -> int:
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(overview(commands), end="")
        return 0
    if argv[0] == "--version":
        print(f"pd-lightning {__version__}")
        return 0
    name, arguments = split_command(argv, commands)
    if family := [command for command in commands if command.startswith(f"{name} ")]:
        if arguments[:1] in (["-h"], ["--help"]):
            print("\n".join(f"pd-lightning {command}  {commands[command].summary}" for command in family))
            return 0
        raise CommandLineError(_unfinished_command(name, arguments, family))
    found = commands.get(name) or INTERNAL.get(name)
    if found is None:
        raise CommandLineError(_unknown_command(name, commands))
    command = found.given(arguments)
    result = _runner(command)(name, command, arguments)
    return result if type(result) is int else 0


def split_command(argv: Sequence[str], commands: Mapping[str, Command] = COMMANDS) -> tuple[str, list[str]]:
    """Tell a command of one or two words from its arguments.

    Args:
        argv: A command line without the program's name, one word at least.
        commands: The table of commands.

    Returns:
        The command, or the first word if there is no such command, and what follows.
    """
    words = 2 if " ".join(argv[:2]) in commands else 1
    return " ".join(argv[:words]), list(argv[words:])


def _runner(command: Command) -> Callable[[str, Command, Sequence[str]], Any]:
    """What runs a command; imported here, so that a plain function doesn't wait for Lightning."""
    module = import_module("pd_lightning.trainer" if command.trainer else "pd_lightning.cli.commands")
    runner: Callable[[str, Command, Sequence[str]], Any] = module.run
    return runner


def overview(commands: Mapping[str, Command]) -> str:
    """The text of ``pd-lightning --help``."""
    width = max(map(len, commands))
    lines = [f"  {name:<{width}}  {command.summary}" for name, command in commands.items()]
    return "\n".join(
        [
            "usage: pd-lightning COMMAND [--config FILE]... [--name.of.setting=VALUE]...",
            "",
            "Pre-train small language models from big ones.",
            "",
            "commands:",
            *lines,
            "",
            "options:",
            "  --help     this page; after a command, every setting of it",
            "  --version  the version",
            "",
            EXAMPLES,
        ]
    )


def _unfinished_command(name: str, arguments: Sequence[str], family: Sequence[str]) -> str:
    seconds = [command.removeprefix(f"{name} ") for command in family]
    got = arguments[0] if arguments else "nothing"
    return f"{name} must be followed by {' or '.join(seconds)}, got {got}. Write pd-lightning {family[0]}."


def _unknown_command(name: str, commands: Mapping[str, Command]) -> str:
    if name.startswith("-"):
        return f"the command must come first, got {name}. Choose one of: {', '.join(commands)}."
    close = difflib.get_close_matches(name, commands, n=1)
    hint = f"Did you mean {close[0]}?" if close else "See pd-lightning --help."
    return f"the command must be one of {', '.join(commands)}, got {name}. {hint}"
