"""jsonargparse's parse errors in one paragraph that names the setting."""

from __future__ import annotations

import difflib
import inspect
import re
import sys
from argparse import ArgumentError
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module

from pd_lightning.cli.errors import CommandLineError

KEY = re.compile(r'Parser key "([^"]+)":')
CLASS = re.compile(r"Problem with given class_path '([^']+)':")
NOISE = re.compile(r"^\s*(Subtypes:|Given value type:|Given value:|Errors:|Does not validate against any)")
EXPECTED = re.compile(r"- Expected a (.+)$")
NESTED = re.compile(r"NestedArg\(key='([^']+)'")
PLAIN = {"bool", "int", "float", "str", "list"}
SHORT = {"k": 3, "K": 3, "M": 6, "B": 9, "T": 12}
LIMIT = 400  # characters of a message that no rule below knows


@contextmanager
def explained(settings: Sequence[str]) -> Iterator[None]:
    """Turn parse errors inside the block into a :class:`CommandLineError` of one paragraph.

    Args:
        settings: The names of all settings, for "did you mean".

    Raises:
        CommandLineError: In place of ``ArgumentError``.
    """
    try:
        yield
    except ArgumentError as error:
        raise CommandLineError(explain(str(error), settings)) from error


def explain(message: str, settings: Sequence[str] = ()) -> str:
    """One paragraph for a message of jsonargparse.

    Args:
        message: Its message, often a page for a union of types.
        settings: The names of all settings of the command.

    Returns:
        What is wrong, where, and what may have been meant.
    """
    keys: list[str] = []
    classes: list[str] = []
    # A class inside a class nests these lines; the first reason that a rule knows ends the descent.
    for line in message.splitlines():
        keys += KEY.findall(line)
        classes += CLASS.findall(line)
        for pattern, rule in RULES:
            found = pattern.search(line)
            if found:
                where = ".init_args.".join(keys)
                text = rule(found, classes[-1] if classes else "", settings)
                return f"{where}: {text}" if where else text
    return _none_of(message, ".init_args.".join(keys)) or _condensed(message)


Found = re.Match[str]
Rule = Callable[[Found, str, Sequence[str]], str]


def _unknown_setting(found: Found, class_path: str, settings: Sequence[str]) -> str:
    if not class_path:
        return f"there is no setting '{found[1]}'.{_did_you_mean(found[1], settings)}"
    known = _parameters(class_path)
    listed = f" It has: {', '.join(known)}." if known else ""
    return f"{class_path} has no setting '{found[1]}'.{_did_you_mean(found[1], known)}{listed}"


def _unknown_argument(found: Found, class_path: str, settings: Sequence[str]) -> str:
    argument = found[1]
    if not argument.startswith("-"):
        return f"'{argument}' is not expected here. Settings are given as --name=value."
    name = argument.split("=")[0].lstrip("-")
    return f"there is no setting '{name}'.{_did_you_mean(name, settings)}"


def _unknown_class(found: Found, class_path: str, settings: Sequence[str]) -> str:
    module, name = found[1], found[2]
    known = [key for key, value in vars(sys.modules[module]).items() if inspect.isclass(value)]
    return f"there is no class '{name}' in {module}.{_did_you_mean(name, known)}"


def _unknown_module(found: Found, class_path: str, settings: Sequence[str]) -> str:
    of = f"class_path {class_path}" if class_path else "the class_path"
    return f"{of} can't be imported: there is no module '{found[1]}'."


def _unknown_short_name(found: Found, class_path: str, settings: Sequence[str]) -> str:
    return (
        f"there is no class '{found[1]}'. Give its full class_path, such as pd_lightning.losses.ForwardKL or "
        "lightning.pytorch.loggers.WandbLogger."
    )


def _wrong_base(found: Found, class_path: str, settings: Sequence[str]) -> str:
    return f"the class must be a {found[2]}, got {found[1]}."


def _no_class(found: Found, class_path: str, settings: Sequence[str]) -> str:
    return f"the value must be a {found[1]}, given by its class_path and init_args."


def _no_mapping(found: Found, class_path: str, settings: Sequence[str]) -> str:
    return "the value must be a mapping of names to values, as in {name: value}."


def _unknown_callable_setting(found: Found, class_path: str, settings: Sequence[str]) -> str:
    return _unknown_setting(found, found[2], settings)


def _wrong_choice(found: Found, class_path: str, settings: Sequence[str]) -> str:
    return f"the value must be one of {found[1]}, got {found[2]}."


def _required(found: Found, class_path: str, settings: Sequence[str]) -> str:
    if class_path:
        return f"{class_path} needs a value for {found[1]}."
    # A subcommand's settings are named fit.data here, and data everywhere else.
    names = [name if name in settings else name.partition(".")[2] for name in found[1].split(", ")]
    return f"{' and '.join(names)} must be given, got nothing. Set it in a --config file, or as --{names[0]}=…"


def _wrong_type(found: Found, class_path: str, settings: Sequence[str]) -> str:
    wanted = re.sub(r"^<class '(.+)'>$", r"\1", found[1])
    value = found[2] if len(found[2]) <= 80 else found[2][:77] + "..."
    return f"the value must be of type {wanted}, got {value}.{_spelt_out(wanted, value)}"


def _spelt_out(wanted: str, value: str) -> str:
    """What to write for 1.9B where a number is wanted, or for 3 where a list is."""
    if wanted == "list":
        return f" Write [{value}]." if value and value[0] not in "[{" else ""
    short = re.fullmatch(r"([0-9.]+)([kKMBT])", value) if wanted == "float" else None
    return f" Write {short[1]}e{SHORT[short[2]]}." if short else ""


RULES: list[tuple[re.Pattern[str], Rule]] = [
    (re.compile(r"does not accept option '([^']+)'"), _unknown_setting),
    (re.compile(r"Option '([^']+)' is not accepted.*class_path='([^']+)'"), _unknown_callable_setting),
    (re.compile(r"Option '([^']+)' is not accepted"), _unknown_setting),
    (re.compile(r"unrecognized arguments: (\S+)"), _unknown_argument),
    (re.compile(r"module '([^']+)' has no attribute '([^']+)'"), _unknown_class),
    (re.compile(r"No module named '([^']+)'"), _unknown_module),
    (re.compile(r"Expected a dot import path string: (\S+)"), _unknown_short_name),
    (re.compile(r"Import path (\S+) does not correspond to a subclass of (\S+)"), _wrong_base),
    (re.compile(r"Not a valid subclass of (\w+)"), _no_class),
    (re.compile(r"Expected a <class 'dict'>$"), _no_mapping),
    (re.compile(r"the following arguments are required: (.+)"), _required),
    (re.compile(r"Expected a typing\.Literal\[(.+)\]\. Got value: (.*)"), _wrong_choice),
    (re.compile(r"Expected a (.+?)\. Got value: (.*?)(?:\. Got value: .*)?$"), _wrong_type),
]


def _none_of(message: str, where: str) -> str | None:
    """One sentence for a value that fits none of several types."""
    lines = [line.strip() for line in message.splitlines()]
    types = [found[1] for line in lines if (found := EXPECTED.match(line))]
    value = next((line.partition(": ")[2] for line in lines if line.startswith("Given value:")), None)
    if not where or not types or value is None:
        return None
    if nested := NESTED.search(value):
        return f"{where}: '{nested[1]}' must be below a class, got a plain value there. Set {where}.class_path first."
    choices = ", ".join(literal[1] for kind in types if (literal := re.fullmatch(r"typing\.Literal\[(.+)\]", kind)))
    plain = [name for kind in types if (name := re.sub(r"^<class '(.+)'>$", r"\1", kind)) in PLAIN]
    if choices:
        return f"{where}: the value must be one of {choices}, got {value}."
    said = f"{where}: the value must be of type {' or '.join(plain)}, got {value}." if plain else None
    return said and said + _spelt_out(plain[0], value)


def _parameters(class_path: str) -> list[str]:
    """The names of a class's settings; for a class that can't be imported, none."""
    module, _, name = class_path.rpartition(".")
    try:
        component = getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError):
        return []
    bases = component.__mro__ if inspect.isclass(component) else (component,)
    names: dict[str, None] = {}
    for base in bases:
        init = base.__dict__.get("__init__") if inspect.isclass(base) else base
        if not inspect.isfunction(init):
            continue
        parameters = inspect.signature(init).parameters.values()
        names |= {
            p.name: None for p in parameters if p.name != "self" and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
        }
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            break
    return list(names)


def _did_you_mean(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f" Did you mean '{close[0]}'?" if close else ""


def _condensed(message: str) -> str:
    kept = " ".join(line.strip() for line in message.splitlines() if not NOISE.match(line))
    return kept if len(kept) <= LIMIT else kept[: LIMIT - 3] + "..."
