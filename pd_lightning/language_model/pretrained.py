"""Pretrained models as transformers keeps them, safetensors, or as llama.cpp does, GGUF. Neither can run code."""

import struct
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pd_lightning.language_model.language_model import load_causal_lm


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


def outline_pretrained(name: str, gguf_file: str | None, key: str, **options: Any) -> nn.Module:
    """Make a pretrained Hugging Face causal model without its weights, on the meta device.

    Args:
        name: A folder, or a name on the Hugging Face hub.
        gguf_file: Name of a GGUF file in it, or None.
        key: YAML key that names the model, for the message.
        **options: Passed on to transformers.

    Raises:
        FileNotFoundError: If there is no such model, or it has no weights.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    path = Path(name)
    weights = [path / gguf_file] if gguf_file is not None else list(path.glob("*.safetensors"))
    if path.is_dir() and not any(file.is_file() for file in weights):
        raise FileNotFoundError(
            f"{key} must be a folder with weights, got {name} without {gguf_file or 'safetensors'}."
        )
    file = {} if gguf_file is None else {"gguf_file": gguf_file}
    try:
        config = AutoConfig.from_pretrained(name, **file, **options)
        with torch.device("meta"):
            trust = options.get("trust_remote_code", False)
            model: nn.Module = AutoModelForCausalLM.from_config(config, trust_remote_code=trust)
    except (OSError, ValueError) as error:
        found = "there is no such folder" if not path.is_dir() else str(error).strip().splitlines()[0].rstrip(".")
        raise FileNotFoundError(
            f"{key} must be a folder with a causal language model or a name on the Hugging Face hub, got {name!r} "
            f"({found}). Set {key}."
        ) from error
    return model


def _dense() -> dict[str, Any]:
    """Have every weight unpacked: newer versions would run packed ones on kernels that they get from the hub."""
    import transformers

    config = getattr(transformers, "GgufConfig", None)
    return {} if config is None else {"quantization_config": config(dequantize=True)}
