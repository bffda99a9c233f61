"""What the data of a training say of themselves."""

import lightning.pytorch as pl


def tokenizer_of(trainer: pl.Trainer, given: str | None, who: str = "LogitsRecorder") -> str:
    """Folder or hub name of the tokenizer, as given or as the data know it.

    Raises:
        ValueError: If neither tells.
    """
    name = given or tokenizer_dir(trainer)
    if name is None:
        raise ValueError(
            f"{who} must know the tokenizer of the data, got none. Set its tokenizer to a folder or hub name, "
            "or give the data an attribute tokenizer_dir."
        )
    return name


def tokenizer_dir(trainer: pl.Trainer) -> str | None:
    """Folder of the tokenizer, where the data know it."""
    found = getattr(getattr(trainer, "datamodule", None), "tokenizer_dir", None)
    return None if found is None else str(found)
