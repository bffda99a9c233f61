"""The tokenizer of a student in training, and the tokens that it takes."""

from typing import Any

import lightning.pytorch as pl

from pd_lightning.language_model import LanguageModel
from pd_lightning.module.surroundings import manifest_of


def load_tokenizer(name: str, who: str) -> Any:
    """Load a Hugging Face tokenizer.

    Args:
        name: Folder or hub name. Code that comes with it is not run.
        who: The callback that asks, for the message.

    Raises:
        FileNotFoundError: If there is none.
    """
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise FileNotFoundError(
            f"The tokenizer must be a folder or a hub name, got {name!r}, which does not load. Set tokenizer of {who}."
        ) from error


def context_length(
    trainer: pl.Trainer, pl_module: pl.LightningModule, student: LanguageModel, given: int | None, key: str
) -> int:
    """Give the number of tokens that a student takes.

    Args:
        trainer: Its data tell the length of a block.
        pl_module: The module in training, for the message.
        student: May tell.
        given: What the user says.
        key: The setting that says so, for the message.

    Raises:
        ValueError: If nobody tells.
    """
    manifest = manifest_of(trainer)
    found = given or student.context_length or (manifest and manifest.block_size)
    if not found:
        raise ValueError(
            f"{key} must be set where the student does not tell how many tokens it takes, got "
            f"{type(pl_module).__name__}, which does not. Set it."
        )
    return found
