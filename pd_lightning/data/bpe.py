"""The tokenizer of a data folder: trained on the corpus, or any fast one of Hugging Face."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

EOS_TOKEN = "<|endoftext|>"
ALPHABET = 256  # every byte has an id of its own, so that no text is out of vocabulary


@dataclass(frozen=True)
class Tokenizer:
    """What packing needs of a tokenizer.

    Args:
        backend: A `tokenizers.Tokenizer`; it adds nothing and takes special tokens in the text for plain text.
        vocab_size: One more than the largest id.
        eos_token_id: Ends each document.
        bos_token_id: None where there is none.
        pad_token_id: None where there is none.
    """

    backend: Any
    vocab_size: int
    eos_token_id: int
    bos_token_id: int | None
    pad_token_id: int | None

    def encode(self, texts: list[str]) -> list[list[int]]:
        """Token ids of each text, nothing added, in parallel over texts."""
        batch = self.backend.encode_batch_fast(texts, add_special_tokens=False)
        return [encoding.ids for encoding in batch]


def train(texts: Iterable[str], vocab_size: int, eos_token: str, max_bytes: int, block_size: int, folder: Path) -> None:
    """Trains a byte-level BPE and saves it as a folder that `AutoTokenizer` loads.

    The same texts give the same tokenizer, whatever the number of threads.

    Args:
        texts: The corpus; read up to `max_bytes`.
        vocab_size: Ids in all, the 256 bytes and `eos_token` included. A small corpus may give fewer.
        eos_token: The end-of-text token; it serves as beginning and padding as well.
        max_bytes: How much UTF-8 to look at.
        block_size: Becomes the tokenizer's `model_max_length`.
        folder: Where to save.
    """
    from tokenizers import Tokenizer as Backend
    from tokenizers import decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[eos_token],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    backend.train_from_iterator(_first_bytes(texts, max_bytes), trainer)
    special = {"eos_token": eos_token, "bos_token": eos_token, "pad_token": eos_token}
    wrap: Any = PreTrainedTokenizerFast
    _save(wrap(tokenizer_object=backend, model_max_length=block_size, **special), folder)


def fetch(name: str, folder: Path) -> None:
    """Saves a copy of a Hugging Face tokenizer.

    Args:
        name: Name on the hub or a local folder. Code that comes with it is not run.
        folder: Where to save.

    Raises:
        ValueError: There is no such tokenizer, or it has no fast (`tokenizer.json`) form.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).strip().split("\n")[0]
        raise ValueError(
            f"tokenizer must name a Hugging Face tokenizer or a folder that holds one, got {name!r} ({reason}). "
            "Mend tokenizer, or leave it out to train one on the corpus."
        ) from error
    if not tokenizer.is_fast:
        raise ValueError(
            f"tokenizer must have a fast form (a tokenizer.json), got {type(tokenizer).__name__} from {name!r}. "
            "Convert it, or leave tokenizer out to train one on the corpus."
        )
    _save(tokenizer, folder)


def load(folder: Path, eos_token: str | None = None) -> Tokenizer:
    """Loads a tokenizer folder for encoding.

    Args:
        folder: What `train` or `fetch` saved. Code that comes with it is not run.
        eos_token: The token that ends a document; None takes the tokenizer's own.

    Raises:
        ValueError: There is no tokenizer that loads without code of its own, or it has no end-of-text token, or not
            the one named.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).strip().split("\n")[0]
        raise ValueError(
            f"{folder} must hold a tokenizer that loads without code of its own, got: {reason} Name another tokenizer."
        ) from error
    vocabulary = tokenizer.get_vocab()
    eos_token_id = tokenizer.eos_token_id if eos_token is None else vocabulary.get(eos_token)
    if eos_token_id is None:
        got = "a tokenizer without any" if eos_token is None else f"{eos_token!r}, which it does not know"
        raise ValueError(
            f"documents must end with an end-of-text token of the tokenizer, got {got}. Set eos_token to a token "
            "that it has, or name another tokenizer."
        )
    backend = tokenizer.backend_tokenizer
    backend.no_truncation()
    backend.no_padding()
    backend.encode_special_tokens = True  # or a text that spells "<|endoftext|>" could end its own document
    largest = max(vocabulary.values())
    return Tokenizer(backend, largest + 1, eos_token_id, tokenizer.bos_token_id, tokenizer.pad_token_id)


def _save(tokenizer: Any, folder: Path) -> None:
    tokenizer.save_pretrained(str(folder))
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    if config.get("tokenizer_class") == "TokenizersBackend":
        # The same class under the name that transformers 4 knows too, which vLLM and others may still run on.
        config["tokenizer_class"] = "PreTrainedTokenizerFast"
        path.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _first_bytes(texts: Iterable[str], limit: int) -> Iterator[str]:
    seen = 0
    for text in texts:
        if seen >= limit:
            return
        seen += len(text.encode())
        yield text
