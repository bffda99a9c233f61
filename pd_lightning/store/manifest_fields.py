"""Checks of a manifest's fields: it may come from anywhere, and the reader relies on them."""

from __future__ import annotations

from typing import Any

# What a block has beside its columns, decoded or in a batch.
RESERVED = {"block", "counts", "ids", "logprobs", "draws", "teacher_step"}
RESERVED |= {"labels", "document_ids", "position_ids", "step", "missing"}


def check(condition: bool, message: str) -> None:
    """Refuse a manifest.

    Raises:
        ValueError: With the message, to which the caller adds the file and the remedy.
    """
    if not condition:
        raise ValueError(message)


def count(data: dict[str, Any], key: str, least: int) -> int:
    """A whole number of at least `least`."""
    value = data[key]
    check(type(value) is int and value >= least, f"{key} must be a number of at least {least}, got {value!r}")
    return int(value)


def optional_object(data: dict[str, Any], key: str) -> dict[str, Any] | None:
    """An object, or None where it is null or left out."""
    value = data.get(key)
    check(value is None or isinstance(value, dict), f"{key} must be an object, got {value!r}")
    return value


def numbers(data: dict[str, Any], key: str) -> dict[str, Any]:
    """An object whose values are numbers, with nothing in it where it is left out."""
    values = optional_object(data, key) or {}
    for name, value in values.items():
        check(type(value) in (int, float), f"{key}.{name} must be a number, got {value!r}")
    return values


def column_names(data: dict[str, Any]) -> tuple[str, ...]:
    """Names of columns, each its own."""
    columns = data.get("columns") or []
    named = isinstance(columns, list) and all(isinstance(name, str) and name.isidentifier() for name in columns)
    check(named, f"columns must be names, got {columns!r}")
    check(len(set(columns)) == len(columns), f"columns must differ from each other, got {columns}")
    taken = sorted(RESERVED & set(columns))
    check(not taken, f"columns must have names that nothing else of a block has, got {taken}")
    return tuple(columns)
