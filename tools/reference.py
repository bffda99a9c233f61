"""The reference of settings, out of signatures and docstrings: what `--help` says, as pages of the documentation."""

import inspect
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, is_dataclass
from importlib import import_module
from typing import Any

from pd_lightning.cli.command_line import COMMANDS, Command
from pd_lightning.cli.commands import load_target

SECTION = re.compile(r"^(Args|Attributes|Raises|Returns|Yields|Source):[ ]*", flags=re.MULTILINE)


@dataclass(frozen=True)
class Room:
    """A page of classes that YAML can name.

    Args:
        title: Its heading.
        intro: Where in the YAML they stand.
        places: Modules to take classes from, or `module:Class` for one.
        bases: Classes of which they are, as `module:Class`; none takes all that are public.
    """

    title: str
    intro: str
    places: Sequence[str]
    bases: Sequence[str] = ()


ROOMS = {
    "students": Room(
        "Students",
        "`model.student`: the model to train. Any `nn.Module` from token ids `[B, T]` to logits "
        "`[B, T, V]` is one, too.",
        ["pd_lightning.students"],
        ["pd_lightning.students:Student"],
    ),
    "teachers": Room(
        "Teachers",
        "`model.teacher`, and `model.val_teacher` for validation alone: where targets come from.",
        ["pd_lightning.teachers"],
        ["pd_lightning.teachers:Teacher"],
    ),
    "transforms": Room(
        "Transforms",
        "`model.transforms`: what is done to the teacher's targets, by names of yours, in order.",
        ["pd_lightning.transforms"],
        ["pd_lightning.transforms:Transform"],
    ),
    "losses": Room(
        "Losses",
        "`model.loss`: what sets student and teacher apart. [Which loss goes with which targets]"
        "(../design-space.md#losses-and-the-targets-they-work-with).",
        ["pd_lightning.losses"],
        ["pd_lightning.losses:Loss"],
    ),
    "weightings": Room(
        "Weightings",
        "`model.weighting`: which positions learn from what, by names of yours, in order.",
        ["pd_lightning.weightings"],
        ["pd_lightning.weightings:Weighting"],
    ),
    "schedules": Room(
        "Schedules",
        "`model.kd_weight`, `model.lr` and the value of `Temperature`: a number, or one of these. Lengths below 1 are "
        "fractions of the run, from 1 on optimizer steps.",
        ["pd_lightning.schedules"],
        ["pd_lightning.schedules:Schedule", "pd_lightning.schedules:Part"],
    ),
    "data": Room(
        "Data",
        "`data` of a training or recording; `data.init_args.mix`; `source` of `pd-lightning tokenize`.",
        ["pd_lightning.data"],
        [
            "lightning.pytorch:LightningDataModule",
            "pd_lightning.data:MixedIn",
            "pd_lightning.data:Source",
        ],
    ),
    "callbacks": Room(
        "Callbacks",
        "`trainer.callbacks`: they work in any Lightning project, unless they say otherwise. Lightning's own stand "
        "beside them.",
        ["pd_lightning.callbacks"],
        ["lightning.pytorch:Callback"],
    ),
    "recording": Room(
        "What is recorded",
        "`model.selection` or `model.sampling` of `pd-lightning record`, and of the callback `LogitsRecorder`.",
        ["pd_lightning.selection:Selection", "pd_lightning.sampling:Sampling"],
    ),
    "studies": Room(
        "What a study asks",
        "`axes`, `controls`, `prepare` and `slurm` of `pd-lightning study`.",
        [
            "pd_lightning.study.settings:Axis",
            "pd_lightning.study.settings:Controls",
            "pd_lightning.study.settings:Step",
            "pd_lightning.study.settings:Slurm",
        ],
    ),
    "planning": Room(
        "What is planned",
        "`--student` and `--teacher` (`Described`), `--selection` (`Stored`) and `--assume` (`Assumptions`) of "
        "`pd-lightning plan`.",
        [
            "pd_lightning.plan.settings:Described",
            "pd_lightning.plan.settings:Stored",
            "pd_lightning.plan.settings:Assumptions",
        ],
    ),
    "strategies": Room(
        "Strategies, optimizers, loggers",
        "`trainer.strategy`, `model.optimizer` and `trainer.logger`; those of Lightning and PyTorch work as they are.",
        [
            "pd_lightning.strategies:FSDP2Strategy",
            "pd_lightning.muon:MuonWithAdamW",
            "pd_lightning.tensorboard:RunTensorBoard",
            "pd_lightning.loggers:MetricsCSV",
        ],
    ),
}


def room_page(room: Room) -> str:
    """Write the page of a room.

    Args:
        room: What stands on it.

    Returns:
        Markdown.
    """
    parts = [f"# {room.title}", room.intro]
    for cls in classes(room):
        named = [] if is_dataclass(cls) else [f"`class_path: {public_name(cls, room)}`"]
        parts += [f"## {cls.__name__}", *named, *described(cls)]
    return "\n\n".join(parts) + "\n"


def commands_page() -> str:
    """Write the page of all commands.

    Returns:
        Markdown.
    """
    parts = [
        "# Commands",
        "Every setting can stand in a YAML file (`--config`, as often as you like) and on the command line "
        "(`--name.of.setting=value`). Files and overrides count in the order in which they are given. "
        "`pd-lightning COMMAND --help` says the same as this page, and `--print_config` what a run comes to.",
    ]
    for name, command in COMMANDS.items():
        parts.append(f"## {name}")
        parts += list(_trainer_command(name, command) if command.trainer else described(load_target(command.target)))
        if command.with_config is not None:
            parts.append(
                f"With `--config`, the settings of [fit](#fit) stand beside those of {name}, but for what they say."
            )
    return "\n\n".join(parts) + "\n"


def _trainer_command(name: str, command: Command) -> Iterator[str]:
    """A command of the Trainer: its module under `model`, `data`, `trainer`, and what its method takes."""
    from pd_lightning.trainer import SKIPPED, PDTrainer

    model = load_target(command.target)
    method = getattr(PDTrainer, name.replace("-", "_"))
    own = [p for p in inspect.signature(method).parameters.values() if p.name not in {*SKIPPED, "self"}]
    yield f"{command.summary[0].upper()}{command.summary[1:]}."
    ours = method.__module__.startswith("pd_lightning.")
    texts = entries(sections(method)["Args"]) if ours else _LIGHTNINGS
    yield _definition("data", "a class", None, "The data, by class_path: [TokenBlocks](data.md#tokenblocks), or yours.")
    yield _definition("trainer", "", None, "Arguments of Lightning's `Trainer`, by their names.")
    for parameter in own:
        assert parameter.name in texts, f"{name} must say what {parameter.name} is"
        yield _definition(parameter.name, annotation(parameter), default(parameter), texts[parameter.name])
    if name == "fit" or model.__name__ != "DistillationModule":
        yield f"Under `model`, the settings of `{model.__name__}`:"
        yield from described(model, prefix="model.")
    else:
        yield "Under `model`, the settings of [fit](#fit)."


# Arguments of Lightning's own methods, which have a meaning of ours.
_LIGHTNINGS = {
    "ckpt_path": "Checkpoint to start from: `auto` starts a run or goes on with it, `last` insists on a checkpoint, "
    "and a file's name takes that one.",
    "verbose": "Print the figures.",
    "return_predictions": "Lightning's: keep what the batches gave in memory.",
}


def classes(room: Room) -> list[type]:
    """Give the classes of a room that can be built, by name."""
    bases = tuple(load_target(base) for base in room.bases) or (object,)
    found = {}
    for place in room.places:
        module = import_module(place.partition(":")[0])
        names = [place.partition(":")[2]] if ":" in place else getattr(module, "__all__", vars(module))
        for name in names:
            thing = getattr(module, name)
            ours = isinstance(thing, type) and thing.__module__.startswith("pd_lightning.")
            if ours and issubclass(thing, bases) and not inspect.isabstract(thing):
                found[thing.__name__] = thing
    return [found[name] for name in sorted(found, key=str.lower)]


def public_name(cls: type, room: Room) -> str:
    """Give the shortest class_path that finds a class."""
    for place in room.places:
        module = place.partition(":")[0]
        if getattr(import_module(module), cls.__name__, None) is cls:
            return f"{module}.{cls.__name__}"
    raise AssertionError(f"{cls} is in none of {room.places}")


def described(thing: Any, prefix: str = "") -> Iterator[str]:
    """Give the paragraphs on a class or function: what it does, its settings, what it refuses, where it is from."""
    parts = sections(thing)
    yield parts[""]
    texts = entries(parts["Args"])
    for parameter in parameters(thing):
        assert parameter.name in texts, f"{thing} must document {parameter.name}"
        name = f"{prefix}{parameter.name}"
        yield _definition(name, annotation(parameter), default(parameter), texts[parameter.name])
    if parts["Source"]:
        yield f"*Source: {' '.join(parts['Source'].split())}*"


def parameters(thing: Any) -> list[inspect.Parameter]:
    """Give the settings of a class or function, without those that Python passes itself."""
    passed = set() if is_dataclass(thing) else {"params"}  # an optimizer is given its parameters
    return [
        parameter
        for parameter in inspect.signature(thing).parameters.values()
        if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD) and parameter.name not in passed
    ]


def sections(thing: Any) -> dict[str, str]:
    """Split a docstring into its text, under "", and its sections."""
    text = inspect.cleandoc(thing.__doc__ or "")
    parts = SECTION.split(text)
    found = dict.fromkeys(("", "Args", "Source"), "") | {"": parts[0].strip()}
    return found | {name: body.rstrip() for name, body in zip(parts[1::2], parts[2::2], strict=True)}


def entries(section: str) -> dict[str, str]:
    """Read `name: what it is` out of a section, whose further lines are indented."""
    found: dict[str, str] = {}
    for line in inspect.cleandoc("\n" + section).splitlines():
        name, colon, text = line.partition(": ")
        if colon and not line.startswith(" ") and name.isidentifier():
            last = name
            found[last] = text
        elif line.strip():
            found[last] += f" {line.strip()}"
    return found


def annotation(parameter: inspect.Parameter) -> str:
    """Write a type as one writes it, without modules."""
    kind = parameter.annotation
    if kind is parameter.empty:
        return ""
    text = kind if isinstance(kind, str) else inspect.formatannotation(kind)
    text = re.sub(r"\b(?:\w+\.)+(?=\w)", "", text)
    text = re.sub(r"(?:Union|Literal)\[([^\[\]]*)\]", lambda found: found[1].replace(", ", " | "), text)
    return text.replace("NoneType", "None").replace("'", "")


def default(parameter: inspect.Parameter) -> str | None:
    """Write a default as YAML has it; None where the setting must be given."""
    value = parameter.default
    if value is parameter.empty:
        return "required"
    if is_dataclass(value):
        return None
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value) if value != "" else "''"


def _definition(name: str, kind: str, value: str | None, text: str) -> str:
    facts = ", ".join(part for part in (f"`{kind}`" if kind else "", _shown(value)) if part)
    return f"`{name}`{'  ' + facts if facts else ''}\n:   {text}"


def _shown(value: str | None) -> str:
    return "" if value is None else value if value == "required" else f"default `{value}`"
