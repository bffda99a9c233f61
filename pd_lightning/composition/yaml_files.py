"""YAML files as mappings, with errors that name file and line."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def read_yaml(path: str) -> dict[str, Any]:
    """The mapping in a YAML file; an empty file is an empty mapping.

    Args:
        path: The file.

    Returns:
        Its settings.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no YAML, or no mapping.
    """
    import yaml

    if not Path(path).is_file():
        raise FileNotFoundError(f"--config must name a YAML file, got {path}, which does not exist.")
    try:
        text = Path(path).read_text(encoding="utf-8")
        loaded = _load(text)
        twice = _twice(yaml.compose(text, yaml.SafeLoader))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise ValueError(f"{path}{place}: this is no valid YAML ({error.problem}).") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: this is no YAML text ({str(error).splitlines()[0]}).") from error
    if twice:
        raise ValueError(f"{path}, line {twice[1]}: each name must be given once, got {twice[0]} again. Remove one.")
    if not isinstance(loaded, dict):
        raise ValueError(f"{path} must hold a mapping of settings (name: value), got {_shorten(loaded)}.")
    return loaded


def as_yaml(settings: Any) -> str:
    """Plain values as YAML that `read_yaml` reads as what they were.

    Args:
        settings: Mappings, lists, text, numbers, truth values, nulls.
    """
    import yaml

    class Dumper(yaml.SafeDumper):
        """Quotes text such as 1e-3, which is a number to jsonargparse and none to PyYAML."""

    def quoted(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
        return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="'" if _is_number(text) else None)

    Dumper.add_representer(str, quoted)
    return str(yaml.dump(settings, Dumper=Dumper, sort_keys=False, allow_unicode=True))


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _twice(root: Any) -> tuple[str, int] | None:
    """A name that a mapping has twice, of which YAML takes the last without a word, and its line."""
    nodes, seen = [root], set()
    while nodes:
        node = nodes.pop()
        if node is None or id(node) in seen:  # an alias brings a node again
            continue
        seen.add(id(node))
        if node.id == "sequence":
            nodes += node.value
        elif node.id == "mapping":
            names: set[str] = set()
            for key, value in node.value:
                if key.id == "scalar" and key.value in names:
                    return str(key.value), key.start_mark.line + 1
                if key.id == "scalar" and key.value != "<<":
                    names.add(key.value)
                nodes.append(value)
    return None


def _load(text: str) -> Any:
    """A file's YAML with jsonargparse's rules for numbers; it gives a lone ``name:`` back as text."""
    from jsonargparse import get_loader

    loaded = get_loader("yaml")(text)
    if isinstance(loaded, str) and loaded == text and text.strip().endswith(":"):
        return {text.strip()[:-1]: None}
    return {} if loaded is None else loaded


def _shorten(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
