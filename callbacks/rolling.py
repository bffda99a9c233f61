"""A text of any length in the windows of a model's context, each token scored once, as lm-evaluation-harness does."""

from collections.abc import Iterator, Sequence
from typing import Any


def rolling_windows(ids: Sequence[int], prefix: int, length: int) -> Iterator[tuple[list[int], int]]:
    """Cut a text into inputs of a model.

    The first window begins with the prefix. The others follow one another; the last is moved back to a full one, and
    only its new tokens are scored.

    Args:
        ids: Token ids of the text.
        prefix: Id before the first token, which it is predicted from.
        length: Longest input.

    Yields:
        `n + 1` token ids, of which the first n are the input, and how many of the last ones are scored.

    Source: `get_rolling_token_windows` of lm-evaluation-harness, with a `context_len` of 1.
    """
    text = [prefix, *ids]
    for start in range(0, len(ids), length):
        end = min(start + length, len(ids))
        first = max(0, end - length)
        yield text[first : end + 1], end - start


def prefix_id(tokenizer: Any) -> int:
    """The id that a text's first token is predicted from: beginning-of-text, or else end-of-text.

    Args:
        tokenizer: A Hugging Face tokenizer.

    Raises:
        ValueError: If it has neither.
    """
    found = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    if found is None:
        raise ValueError(
            f"The tokenizer must have a beginning-of-text or end-of-text token, got {tokenizer.name_or_path} without. "
            "Set its bos_token."
        )
    return int(found)


def encode_text(tokenizer: Any, text: str, **options: Any) -> list[int]:
    """Encode a text with the special tokens that its tokenizer adds, but no second beginning-of-text.

    Args:
        tokenizer: A Hugging Face tokenizer.
        text: The text.
        **options: Passed on; `add_special_tokens` decides otherwise.

    Returns:
        Token ids.
    """
    begins = text.startswith(tokenizer.decode([prefix_id(tokenizer)]))
    if begins and options.get("add_special_tokens") is None:
        options["add_special_tokens"] = False
    options = {name: value for name, value in options.items() if value is not None}
    # A text longer than the context is no mistake here.
    return list(tokenizer.encode(text, verbose=False, **options))
