"""Commands that are plain functions: their signature and docstring are their command line."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any

from pd_lightning.cli.parse_errors import explained
from pd_lightning.cli.quiet import quieten
from pd_lightning.composition.compose import as_arguments, compose

if TYPE_CHECKING:
    from pd_lightning.cli.command_line import Command


def load_target(target: str) -> Any:
    """The object that ``module:name`` names."""
    module, _, name = target.partition(":")
    return getattr(import_module(module), name)


def run(name: str, command: Command, argv: Sequence[str]) -> Any:
    """Run a function with settings from YAML files, the command line and the environment.

    Args:
        name: The command's name.
        command: Its entry in the table.
        argv: The arguments after the name.

    Returns:
        What the function returns.
    """
    from jsonargparse import auto_cli

    quieten()
    function = load_target(command.target)
    arguments = as_arguments(*compose(with_flags(function, argv)))
    with explained(_parameters(function)):
        return auto_cli(
            function,
            args=arguments,
            as_positional=command.positional,
            prog=f"pd-lightning {name}",
            exit_on_error=False,
            allow_abbrev=False,
            default_env=True,
            env_prefix=_environment_prefix(name),
        )


def _environment_prefix(name: str) -> str:
    """PD_LIGHTNING_SCALING_LAW_FIT_ for "scaling-law fit": with jsonargparse's own _, the __ of Trainer commands."""
    return f"PD_LIGHTNING_{re.sub('[ -]', '_', name).upper()}_"


def with_flags(function: Callable[..., Any], argv: Sequence[str]) -> list[str]:
    """Spell out what jsonargparse wants spelt out.

    Args:
        function: What the arguments are for.
        argv: The arguments.

    Returns:
        The arguments, with ``--verify=true`` for ``--verify``, and ``--teacher.model x`` or ``--teacher.config {…}``
        for ``--teacher x``, beside which ``--teacher.tokens`` can then say more.
    """
    parameters = inspect.signature(function).parameters.items()
    flags = {f"--{name}" for name, parameter in parameters if isinstance(parameter.default, bool)}
    models = {f"--{name}" for name, parameter in parameters if "Described" in str(parameter.annotation)}

    def spelt_out(token: str, following: Sequence[str]) -> str:
        name, equals, value = token.partition("=")
        if name in models:
            first = value or "".join(following)
            return f"{name}.{'config' if first.startswith('{') else 'model'}{equals}{value}"
        return f"{token}=true" if token in flags and list(following) not in (["true"], ["false"]) else token

    return [spelt_out(token, argv[i + 1 : i + 2]) for i, token in enumerate(argv)]


def _parameters(function: Callable[..., Any]) -> list[str]:
    return ["config", *inspect.signature(function).parameters]
