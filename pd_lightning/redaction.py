"""Secrets stay out of what is saved and said: `***` stands in their place, and is refused where it is read again."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

MASK = "***"

# Names whose text is a secret. A token of a tokenizer (eos_token) is none, and counts (num_tokens) are in the plural.
_SECRET_NAME = re.compile(
    r"(^|_)(pass|passwd|password|passphrase|pwd|secret|secrets|credential|credentials|authorization|signature|sig"
    r"|connection_string|bearer|(api|access|secret|private|account|auth|encryption|signing|shared|license)_?key"
    r"|token)$"
)
_TOKENIZER = re.compile(
    r"(^|_)(eos|bos|pad|unk|mask|sep|cls|start|end|eot|eod|image|video|audio|special|next|first|last)_token$"
)
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")

_USER_INFO = re.compile(r"(?<=://)[^/?#\s@'\"]*:[^/?#\s'\"]*@")
_PARAMETER = re.compile(r"(?<=[?&])([^?=&#\s'\"]+)=([^&#\s'\"]+)")
# Access keys that their services mark: Hugging Face, OpenAI, GitHub, GitLab, Slack, Amazon, Google.
_KNOWN_KEYS = re.compile(
    r"\b(hf_[A-Za-z0-9]{16,}|sk-[A-Za-z0-9_-]{20,}|gh[pousr]_[A-Za-z0-9]{20,}|github_pat_\w{20,}|glpat-[\w-]{16,}"
    r"|xox[abprs]-[\w-]{10,}|(AKIA|ASIA)[A-Z0-9]{16}|AIza[\w-]{30,})"
)

_REDACTED = re.compile(rf"(^|//|=|\s){re.escape(MASK)}($|[@&#\s])")


def redact(value: Any, name: str = "") -> Any:
    """Settings with `***` in place of what looks like a secret, by its name or by itself.

    Args:
        value: Plain values; nothing of it is changed.
        name: The name that it stands under.

    Returns:
        The same where it holds no secret.
    """
    if isinstance(value, dict):
        return {key: redact(entry, str(key)) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        entries = [redact(entry, name) for entry in value]
        return entries if isinstance(value, list) else tuple(entries)
    if not isinstance(value, str):
        return value
    marked = value[:1] in ("<", "[")  # a tokenizer's, whatever it is called
    return MASK if value and not marked and is_secret(name) else redact_text(value)


def redacted_yaml(text: str) -> str:
    """A YAML mapping of settings with `***` in place of secrets; without any it stays as it is."""
    import yaml

    settings = yaml.safe_load(text)
    redacted = redact(settings)
    return text if redacted == settings else yaml.safe_dump(redacted, sort_keys=False)


def redact_text(text: str) -> str:
    """Text without passwords and signatures in its addresses, and without well-known forms of access keys.

    Args:
        text: A setting, or a message.

    Returns:
        The text, `***` in place of each.
    """
    text = _USER_INFO.sub(f"{MASK}@", text)
    text = _PARAMETER.sub(lambda found: f"{found[1]}={MASK}" if is_secret(found[1]) else found[0], text)
    return _KNOWN_KEYS.sub(MASK, text)


def is_secret(name: str) -> bool:
    """Whether what stands under a name is a secret.

    Args:
        name: Of a setting, in any spelling: `api_key`, `apiKey`, `X-Amz-Signature`.

    Returns:
        True for `token`, but not for `num_tokens`, `tokenizer` or `eos_token`.
    """
    plain = _CAMEL.sub("_", name).replace("-", "_").lower()
    return bool(_SECRET_NAME.search(plain)) and not _TOKENIZER.search(plain)


def refuse_redacted(settings: Any) -> None:
    """Refuse settings from which a secret was left out.

    Args:
        settings: As they were saved.

    Raises:
        ValueError: One of them is, or holds, `***`.
    """
    for path in _redacted(settings, ()):
        key = ".".join(path)
        raise ValueError(
            f"{key} must be given anew, got {MASK}, which stands for a secret that is not saved. Leave it out and use "
            f"the environment variable of the service (WANDB_API_KEY, HF_TOKEN, AWS_…), or give it as --{key}=…"
        )


def refuse_secrets(settings: Any) -> None:
    """Refuse settings that are to be saved as they are, for others to run.

    Args:
        settings: Plain values.

    Raises:
        ValueError: One of them looks like a secret; its name is told, and its value is not.
    """
    for path in _redacted(redact(settings), ()):
        raise ValueError(
            f"{'.'.join(path)} must hold no secret, since it would be saved for the trials to read, got one. Leave it "
            "out, and use the environment variable of the library that needs it (WANDB_API_KEY, HF_TOKEN, …)."
        )


def _redacted(value: Any, path: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    if isinstance(value, dict):
        for key, entry in value.items():
            yield from _redacted(entry, (*path, str(key)))
    elif isinstance(value, list | tuple):
        for entry in value:
            yield from _redacted(entry, path)
    elif isinstance(value, str) and _REDACTED.search(value):
        yield path
