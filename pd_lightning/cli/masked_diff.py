"""A diff without secrets: values under a secret's name, private keys, and what has the form of a secret."""

from __future__ import annotations

import re
from collections.abc import Iterator

from pd_lightning.redaction import MASK, is_secret, redact_text

# In these a value without quotes is an expression: `token = tokens[0]` tells nothing, and is to be read.
_CODE = (".py", ".pyi", ".pyx", ".c", ".cc", ".cpp", ".cu", ".cuh", ".h", ".hpp", ".go", ".java", ".js", ".rs", ".ts")
_TEXT = r"""(?:"{3}.*?(?:"{3}|$)|'{3}.*?(?:'{3}|$)|"(?:[^"\\]|\\.)*(?:"|\\?$)|'(?:[^'\\]|\\.)*(?:'|\\?$))"""
_LITERAL = rf"{_TEXT}(?:\s*{_TEXT})*"
# From the beginning of a word on: else a long line of one word would be searched from each of its letters.
_NAME = r"""(?<![\w-])(?P<name>[\w-]+)["'\]]*\s*"""
_IN_CODE = re.compile(rf"""{_NAME}(?:[:=!]=|[:=]|:[^=(),{{}}]{{0,200}}=)\s*(?:\(\s*)?(?=[bfruBFRU]{{0,2}}["'])""")
_IN_SETTINGS = re.compile(rf"{_NAME}(?P<sign>[:=]{{1,2}})\s*")
_QUOTED = re.compile(rf"[bfruBFRU]{{0,2}}{_LITERAL}")
_QUOTED_SETTING = re.compile(rf"{_LITERAL}[^\s,;)}}\]]*")
_REST, _WORD, _ENTRY = re.compile(r".+"), re.compile(r"\S+"), re.compile(r"[^,}\]]+")
_READ = 1000  # characters of a line that are looked at once more for a name; a minified file is one line
# What may stand before the name of a setting that has its line for itself.
_BEFORE = re.compile(r"""(?:@@ .*? @@ |[+\- ])?\s*(?:[-*#;]\s*|//\s*|export\s+|set\s+)*["']?""")
_NOTHING = re.compile(r"(?:null|none|~|true|false)\s*,?\s*(?:#.*)?", re.IGNORECASE)
_OPENS = re.compile(r"\s*(?:[|>][-+\d]*|[{\[])?\s*(?:#.*)?")
_KEY_BEGINS = re.compile(r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY(?: BLOCK)?-----")
_KEY_ENDS = re.compile(r"-----END [A-Z0-9 ]*PRIVATE KEY(?: BLOCK)?-----")


def masked_lines(diff: str) -> Iterator[str]:
    """Give the lines of a diff, with `***` for what looks like a secret.

    In settings (.env, YAML, JSON, INI, shell) that is any value under a secret's name, to its end, and the lines below
    that belong to it; in code the text in quotes alone. A private key is masked line by line.

    Args:
        diff: As git prints it.

    Returns:
        As many lines.
    """
    code, key, block = False, False, None
    for line in diff.split("\n"):
        if line.startswith(("diff --git ", "@@")):
            code = line.rstrip('"').endswith(_CODE) if line.startswith("diff") else code
            key, block = False, None
        text, key = _without_key(line, key)
        if block is not None and _belongs(text, block):
            text = text[: _indentation(text) + 1] + MASK if text[1:].strip() else text
        else:
            block = None if code else _opened(text)
            text = _without_values(redact_text(text), code)
        yield text


def _without_key(line: str, within: bool) -> tuple[str, bool]:
    """A line without its share of a private key, and whether the key goes on."""
    begins = None if within else _KEY_BEGINS.search(line)
    if not within and begins is None:
        return line, False
    start = 1 if begins is None else begins.start()
    ends = _KEY_ENDS.search(line, start if begins is None else begins.end())
    return line[:start] + MASK + ("" if ends is None else line[ends.end() :]), ends is None


def _indentation(line: str) -> int:
    """Spaces before the text, after the sign of the diff."""
    return len(line[1:]) - len(line[1:].lstrip())


def _belongs(line: str, block: int) -> bool:
    """Whether a line is a part of the value whose name is indented by `block`; empty ones may be."""
    indentation, text = _indentation(line), line[1:].lstrip()
    return not text or indentation > block or (indentation == block and text.startswith("- "))


def _opened(line: str) -> int | None:
    """Indentation of a secret's name whose value is in the lines below."""
    found = _IN_SETTINGS.search(line)
    if found is None or not is_secret(found["name"]) or not _OPENS.fullmatch(line, found.end()):
        return None
    before = line[: found.start()]
    return len(before.rstrip("\"'")) - 1 if _BEFORE.fullmatch(before) else None


def _without_values(line: str, code: bool) -> str:
    """A line without the values under names of secrets."""
    kept, at = [], 0
    for found in (_IN_CODE if code else _IN_SETTINGS).finditer(line):
        if found.start() >= at and is_secret(found["name"]):
            value = _quoted(line, found) if code else _setting(line, found)
            if value is not None:
                kept += [line[at : found.end()], MASK]
                at = value.end()
    return "".join([*kept, line[at:]])


def _quoted(line: str, found: re.Match[str]) -> re.Match[str] | None:
    """Text in quotes, None where the quotes end here: `input("password: ")`."""
    read = found.end() < _READ and line.startswith('"', found.end())
    ends = read and line[: found.end()].replace('"""', "").count('"') % 2
    return None if ends else _QUOTED.match(line, found.end())


def _setting(line: str, found: re.Match[str]) -> re.Match[str] | None:
    """The value of a setting, None for one that tells nothing."""
    start, before = found.end(), line[max(0, found.start() - _READ) : found.start()].rstrip()
    if _NOTHING.fullmatch(line, start) or _OPENS.fullmatch(line, start):
        return None
    quoted = _QUOTED_SETTING.match(line, start)
    if quoted or _BEFORE.fullmatch(line, 0, found.start()):
        return quoted or _REST.match(line, start)
    if "=" in found["sign"]:
        return _WORD.match(line, start)
    # Else it is prose: what is said of a token: this.
    return _ENTRY.match(line, start) if before.endswith(("{", "[", "(", ",", '"', "'")) else None
