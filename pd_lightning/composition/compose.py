"""YAML composition: repeated ``--config`` and dotted overrides become one mapping before jsonargparse sees them.

jsonargparse alone replaces whole dicts with a second ``--config`` and, where an overlay changes a class_path,
keeps settings of the same name from the class before. Here the rules are:

- Files and overrides count in the order in which they are typed. Mappings merge, lists and scalars replace.
- Another ``class_path`` replaces the node whole: nothing of the class before is left. The same one merges.
- ``--a.b=value`` reads its value as YAML; below a class, a plain name means one of its ``init_args``.
- ``null`` sets a setting to null; an entry of ``model.transforms`` or ``model.weighting`` set to null is dropped,
  and comes last where it is named again later.
- What can't be settled without knowing types (list items, ``--x+=``, sections no file mentions) is left to
  jsonargparse, which applies it after all files.

Relative paths in a file mean the working directory, as on the command line.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, cast

from pd_lightning.composition.yaml_files import read_yaml
from pd_lightning.redaction import refuse_redacted

CLASS_KEYS = {"class_path", "init_args", "dict_kwargs"}
NULLABLE_ENTRIES = (("model", "transforms"), ("model", "weighting"))  # mappings in which null drops an entry
Key = tuple[str, ...]


def compose(argv: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """Fold every ``--config`` and dotted override of a command line into one mapping.

    Args:
        argv: The arguments after the command's name.

    Returns:
        The merged settings, and the arguments that are left for the parser, in their order.

    Raises:
        FileNotFoundError: A configuration file does not exist.
        ValueError: A file is no YAML mapping, ``--config`` names none, an entry has no class, or a secret was left out.
    """
    config: dict[str, Any] = {}
    rest: list[str] = []
    left: list[Key] = []
    tokens = deque(argv)
    while tokens:
        token = tokens.popleft()
        name, equals, value = token.partition("=")
        if name in ("--config", "-c"):
            config = merge(config, read_yaml(value if equals else _next_value(tokens, name)))
            continue
        key = _dotted(name)
        path = _resolve(config, key, left) if key and (equals or _has_value(tokens)) else None
        if path is None and key and key[:2] in NULLABLE_ENTRIES and len(key) > 2:
            path = _entry(key)
        if path is None:
            rest.append(token)
            left.append(key or _dotted(name.rstrip("+")) or (token,))
        else:
            config = merge(config, _nest(path, _parse(value if equals else tokens.popleft())))
    _check_entries(config)
    refuse_redacted(config)
    return config, rest


def as_arguments(config: dict[str, Any], rest: Sequence[str]) -> list[str]:
    """Arguments for a jsonargparse parser: the merged settings as one ``--config``, then what was left."""
    import yaml

    if not config:
        return list(rest)
    # Quoted and tagged scalars come back with the type they had: YAML 1.1 and jsonargparse differ on 1e-3.
    text = yaml.safe_dump(config, default_style='"', default_flow_style=True, sort_keys=False, width=float("inf"))
    return [f"--config={text}", *rest]


def merge(base: Any, overlay: Any, path: Key = ()) -> Any:
    """Lay one parsed YAML value over another; neither is changed.

    Args:
        base: What is there.
        overlay: What is laid over it.
        path: Where the two are in the settings.

    Returns:
        The merged value.
    """
    if _is_class(base) and isinstance(overlay, str):
        overlay = {"class_path": overlay}
    if _is_class_name(base) and _is_class(overlay):
        base = {"class_path": base}
    if not isinstance(overlay, dict):
        return overlay
    merged = dict(base) if isinstance(base, dict) else {}
    below, above = merged.get("class_path"), overlay.get("class_path")
    if isinstance(below, str) and isinstance(above, str):
        if _same_class(below, above):
            overlay = {**overlay, "class_path": max(below, above, key=len)}  # of two names, the full one
        else:
            merged = {}
    for key, value in overlay.items():
        if value is None and path in NULLABLE_ENTRIES:
            merged.pop(key, None)
        else:
            merged[key] = merge(merged.get(key), value, (*path, key))
    return merged


def override(config: dict[str, Any], name: str, value: Any) -> dict[str, Any]:
    """Set one setting, named as on the command line: below a class its ``init_args`` may be left out.

    Args:
        config: Settings; not changed.
        name: The setting, with dots.
        value: Its value.

    Returns:
        The settings with it.

    Raises:
        ValueError: It can't be there: what it belongs to is not among the settings, or is a list.
    """
    key = tuple(name.split("."))
    path = key if len(key) == 1 else _resolve(config, key, [])
    if path is None or not all(key):
        raise ValueError(
            f"{name} must name a setting below one that the configuration has, got a name that leads nowhere. Give its "
            "parent in the YAML."
        )
    return cast("dict[str, Any]", merge(config, _nest(path, value)))


def _parse(value: str) -> Any:
    """The value of an override as YAML; text that is none, or that YAML would swallow, is itself."""
    import yaml
    from jsonargparse import get_loader

    try:
        loaded = get_loader("yaml")(value)
    except yaml.YAMLError:
        return value
    return value if loaded is None and value.strip().lower() not in ("null", "~") else loaded


def _dotted(name: str) -> Key | None:
    """The path that an override names, or None where the argument is none (``--x+``, ``--x.help``, a value)."""
    parts = tuple(name[2:].split("."))
    if not name.startswith("--") or name.endswith("+") or parts[-1] == "help" or not all(parts):
        return None
    return parts


def _resolve(config: dict[str, Any], key: Key, left: list[Key]) -> Key | None:
    """The full path of an override, with the init_args that it may omit.

    Returns:
        The path, or None where it is for jsonargparse: a parent that no file mentions, a list on the way, a
        flag of the command, or a setting of which something was left already.
    """
    if any(key[: len(prefix)] == prefix for prefix in left):
        return None
    if len(key) == 1 and not isinstance(config.get(key[0]), dict):
        return None
    node: Any = config
    path: list[str] = []
    for depth, part in enumerate(key):
        if _is_class(node) or _is_class_name(node):
            given = node if isinstance(node, dict) else {}
            fields: dict[str, Any] = {"init_args": {}, "dict_kwargs": {}, **given}
            path += [] if part in CLASS_KEYS else ["init_args"]
            node = fields if part in CLASS_KEYS else fields["init_args"]
        if not isinstance(node, dict) or (part not in node and depth < len(key) - 1):
            return None
        path.append(part)
        node = node.get(part)
    return tuple(path)


def _entry(key: Key) -> Key:
    """The path of a new entry's class.

    Raises:
        ValueError: The override is of something else than its class.
    """
    entry = ".".join(key[:3])
    if key[3:] not in ((), ("class_path",)):
        raise ValueError(f"{entry} must be there before its settings are, got none. Set --{entry}=<its class> first.")
    return key


def _nest(path: Key, value: Any) -> Any:
    for part in reversed(path):
        value = {part: value}
    return value


def _is_class(node: Any) -> bool:
    return isinstance(node, dict) and not CLASS_KEYS.isdisjoint(node)


def _is_class_name(node: Any) -> bool:
    """A class given by its name alone (``lr: WSD``), and no file name."""
    return isinstance(node, str) and bool(re.fullmatch(r"[A-Za-z_][\w.]*", node)) and not _is_file_name(node)


def _is_file_name(text: str) -> bool:
    return Path(text).suffix in (".yaml", ".yml", ".json")


def _same_class(one: str, other: str) -> bool:
    """Equal, or equal in the last component where one of them is a short name."""
    short = "." not in one or "." not in other
    return one == other or (short and one.rpartition(".")[2] == other.rpartition(".")[2])


def _check_entries(config: dict[str, Any]) -> None:
    """Refuse an entry without a class: its name is a misspelt one, or a new one."""
    for section, name in NULLABLE_ENTRIES:
        parent = config.get(section)
        found = parent.get(name) if isinstance(parent, dict) else None
        entries = found if isinstance(found, dict) else {}
        for key, value in entries.items():
            if isinstance(value, dict) and "class_path" not in value:
                close = get_close_matches(key, [other for other in entries if other != key], n=1)
                meant = f"Did you mean {close[0]}? Else set" if close else "Set"
                raise ValueError(
                    f"{section}.{name}.{key} must be a class with its settings, got settings alone. {meant} "
                    f"{section}.{name}.{key}.class_path."
                )


def _has_value(tokens: deque[str]) -> bool:
    return bool(tokens) and not tokens[0].startswith("--")


def _next_value(tokens: deque[str], name: str) -> str:
    if not _has_value(tokens):
        raise ValueError(f"{name} must be followed by a YAML file, got nothing.")
    return tokens.popleft()
