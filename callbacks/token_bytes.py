"""How many bytes of text each token stands for."""

from typing import Any

import torch
from torch import Tensor


def token_bytes(tokenizer: Any, vocab_size: int) -> Tensor:
    """Count the UTF-8 bytes that each token of a vocabulary stands for.

    Byte-level tokens, of GPT-2's kind, may be a part of a character: each of their symbols is one byte. Those of
    SentencePiece are pieces of text with ▁ for a space, or single bytes, written <0x0A>. Special tokens, end-of-text
    among them, stand for no text.

    Args:
        tokenizer: A Hugging Face tokenizer.
        vocab_size: V; ids that the tokenizer lacks stand for no text.

    Returns:
        Int64 `[V]`.
    """
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    alphabet = set(bytes_to_unicode().values())
    special = set(tokenizer.all_special_ids)
    pieces = {id: piece for piece, id in tokenizer.get_vocab().items() if id not in special and id < vocab_size}
    added = {id: str(token) for id, token in tokenizer.added_tokens_decoder.items()}
    byte_level = all(set(piece) <= alphabet for id, piece in pieces.items() if id not in added)
    counts = torch.zeros(vocab_size, dtype=torch.long)
    for id, piece in pieces.items():
        if id in added:
            counts[id] = len(added[id].encode())
        else:
            counts[id] = len(piece) if byte_level else _piece_bytes(piece)
    return counts


def _piece_bytes(piece: str) -> int:
    if len(piece) == 6 and piece.startswith("<0x") and piece.endswith(">"):
        return 1
    return len(piece.replace("▁", " ").encode())
