"""Pretrained models as transformers keeps them, safetensors, or as llama.cpp does, GGUF. Neither can run code."""

import struct
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pd_lightning.language_model import load_causal_lm


def load_pretrained(name: str, gguf_file: str | None, dtype: torch.dtype | str, key: str, **options: Any) -> nn.Module:
    """Load a pretrained Hugging Face causal model.

    Args:
        name: A folder, or a name on the Hugging Face hub.
        gguf_file: Name of a GGUF file in it, or None for its safetensors.
        dtype: Data type of the weights, or "auto" for the one they are stored in; quantised ones become dense.
        key: YAML key that names the model, for the message.
        **options: Passed on to `from_pretrained`.

    Raises:
        FileNotFoundError: If there is no such model, or file in its folder.
        ValueError: If a package is missing that GGUF files need, or transformers can't read the file.
    """
    if gguf_file is None:
        return load_causal_lm(name, dtype, key, **options)
    missing = [package for package in ("gguf", "accelerate") if find_spec(package) is None]
    if missing:
        raise ValueError(
            f"gguf_file must have the packages that transformers reads GGUF with, got no {' and no '.join(missing)}. "
            f"Install them with: pip install 'pd-lightning[gguf]', or leave out {key.rpartition('.')[0]}.gguf_file."
        )
    if Path(name).is_dir() and not (Path(name) / gguf_file).is_file():
        raise FileNotFoundError(
            f"gguf_file must name a file in {name}, got {gguf_file!r}, which is not there. Set "
            f"{key.rpartition('.')[0]}.gguf_file."
        )
    try:
        return load_causal_lm(name, dtype, key, gguf_file=gguf_file, **_dense(), **options)
    except (RuntimeError, KeyError, NotImplementedError, IndexError, struct.error) as error:
        reason = " ".join([type(error).__name__, *str(error).strip().splitlines()[:1]]).rstrip(".")
        raise ValueError(
            f"gguf_file must hold a model that transformers can read, got {gguf_file!r} ({reason}). Set "
            f"{key.rpartition('.')[0]}.gguf_file to another, or leave it out for the model's safetensors."
        ) from error


def _dense() -> dict[str, Any]:
    """Have every weight unpacked: newer versions would run packed ones on kernels that they get from the hub."""
    import transformers

    config = getattr(transformers, "GgufConfig", None)
    return {} if config is None else {"quantization_config": config(dequantize=True)}
