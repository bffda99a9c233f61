"""The tokenizer that goes into a store."""

import shutil
from pathlib import Path

from pd_lightning.data import bpe
from pd_lightning.store.durable import publish, temporary_beside
from pd_lightning.store.manifest import TokenizerInfo, tokenizer_digest

# Of a tokenizer's files: a model's folder may have weights beside it, and code.
_SUFFIXES = {".json", ".jinja", ".model", ".txt"}


def save_tokenizer(name: str, folder: Path) -> TokenizerInfo:
    """Put a copy of a tokenizer into a store.

    Args:
        name: Folder or hub name of a fast tokenizer. One in a folder keeps its digest, and so goes with data that have
            the same.
        folder: Where to put it, whole or not at all; left as it is where there is one.

    Returns:
        What the manifest says of it.

    Raises:
        ValueError: There is no such tokenizer, it has no fast form, or no end-of-text.
    """
    if not folder.exists():
        temporary = temporary_beside(folder)
        try:
            if (Path(name) / "tokenizer.json").is_file():
                temporary.mkdir(parents=True)
                for path in Path(name).iterdir():
                    if path.suffix in _SUFFIXES:
                        shutil.copy(path, temporary)
            else:
                bpe.fetch(name, temporary)
            publish(temporary, folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return describe_tokenizer(folder)


def describe_tokenizer(folder: Path) -> TokenizerInfo:
    """Say what a manifest says of the tokenizer in a folder."""
    loaded = bpe.load(folder)
    special = (loaded.eos_token_id, loaded.bos_token_id, loaded.pad_token_id)
    return TokenizerInfo(tokenizer_digest(folder), *special, vocab_size=loaded.vocab_size)
