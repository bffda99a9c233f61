"""Sizes of a model: counted on the model itself, made without weights, or estimated from its number of parameters."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pd_lightning.plan.settings import Assumptions, Described, check_described

if TYPE_CHECKING:
    from torch import nn

ASPECT = 100  # hidden channels for each layer, about what language models of 0.1B to 10B have
SHAPED_LIKE = "a Llama of 12 · layers · hidden² parameters, hidden = 100 · layers"
_NUMBER = re.compile(r"((?:\d+\.?\d*|\.\d+)(?:e\+?\d+)?)([kmbt]?)", re.IGNORECASE)
_UNITS = {"": 1.0, "k": 1e3, "m": 1e6, "b": 1e9, "t": 1e12}


@dataclass(frozen=True)
class Size:
    """Sizes of a model.

    Args:
        params: Parameters, shared ones once.
        params_non_embedding: Those that are no embedding of input or output.
        forward_flops: Floating-point operations of a token's forward pass.
        layers: Decoder layers.
        hidden: Width of hidden states.
        kv: Width of all keys of a position together.
        ffn: Inner units of feed-forward parts.
        vocab_size: Width of the logits.
        source: Where this is from.
        exact: Whether it was counted.
    """

    params: float
    params_non_embedding: float
    forward_flops: float
    layers: int
    hidden: int
    kv: int
    ffn: int
    vocab_size: int
    source: str
    exact: bool

    @property
    def layer_params(self) -> float:
        """Parameters of a layer."""
        return self.params_non_embedding / self.layers

    @property
    def head_params(self) -> float:
        """Parameters of the output embedding."""
        return float(self.vocab_size * self.hidden)


def size_of(described: Described | str, who: str, assume: Assumptions) -> tuple[Size, Described]:
    """Size a model up from its description.

    Args:
        described: Numbers or a configuration, or the name of one.
        who: `student` or `teacher`, for messages.
        assume: Block and vocabulary size.

    Returns:
        Its sizes, and what else was said of it.

    Raises:
        FileNotFoundError: If there is no such configuration.
        ValueError: If nothing is given, or too much, or it does not make a model.
    """
    given = _as_described(described)
    check_described(given, who)
    ways = [name for name in ("params", "config", "model") if getattr(given, name) is not None]
    if "params" not in ways and len(ways) != 1:
        raise ValueError(
            f"{who} must be described in one way, got {' and '.join(ways) or 'none'}. Set --{who}.params, or "
            f"--{who} to a model's folder or configuration."
        )
    if given.params is not None:
        if len(ways) > 1:
            raise ValueError(
                f"{who} must be described in one way, got {' and '.join(ways)}. Leave out --{who}.params, which a "
                "configuration gives exactly."
            )
        return _of_numbers(given.params, given.params_non_embedding, assume), given
    config = given.config if given.config is not None else _read(str(given.model), who)
    source = "its configuration" if given.config is not None else str(given.model)
    return _of_config(config, who, source, assume), given


def size_of_model(model: nn.Module, positions: int, source: str) -> Size:
    """Count a model.

    Args:
        model: A Hugging Face causal model, or a module around one; its weights may be on the meta device.
        positions: T, of a block.
        source: Where it is from.
    """
    from pd_lightning.flops import count_parameters, flops_per_token

    hf: Any = next((part for part in model.modules() if hasattr(part, "get_output_embeddings")), None)
    config = None if hf is None else hf.config.get_text_config()
    hidden = getattr(config, "hidden_size", 0)
    total, inner = count_parameters(model)
    trains = any(parameter.requires_grad for parameter in model.parameters())
    heads = getattr(config, "num_attention_heads", 1)
    head_dim = getattr(config, "head_dim", None) or hidden // heads
    return Size(
        params=float(total),
        params_non_embedding=float(inner),
        forward_flops=flops_per_token(model, positions) / (3 if trains else 1),
        layers=getattr(config, "num_hidden_layers", None) or 1,
        hidden=hidden,
        kv=(getattr(config, "num_key_value_heads", None) or heads) * head_dim,
        ffn=getattr(config, "intermediate_size", None) or 4 * hidden,
        vocab_size=getattr(config, "vocab_size", 0),
        source=source,
        exact=True,
    )


def _of_numbers(params: float, non_embedding: float | None, assume: Assumptions) -> Size:
    """Take 2 operations a parameter, and the shape of a usual model."""
    layers = max(1, round((params / (12 * ASPECT**2)) ** (1 / 3)))
    hidden = max(1, round((params / (12 * layers)) ** 0.5))
    return Size(
        params=params,
        params_non_embedding=params if non_embedding is None else non_embedding,
        forward_flops=2 * params,
        layers=layers,
        hidden=hidden,
        kv=hidden,
        ffn=round(8 / 3 * hidden),
        vocab_size=assume.vocab_size,
        source="numbers",
        exact=False,
    )


def _of_config(config: Any, who: str, source: str, assume: Assumptions) -> Size:
    import torch

    from pd_lightning.language_model import build_causal_lm
    from pd_lightning.language_model.architectures import make_causal_lm

    try:
        with torch.device("meta"):
            if isinstance(config, Mapping):
                model = build_causal_lm({"vocab_size": assume.vocab_size, **config})
            else:
                model = make_causal_lm(config.model_type, config)
    except ValueError as error:
        # They are the same settings under another name.
        raise ValueError(str(error).replace("model.student.init_args.config", f"--{who}.config")) from error
    return size_of_model(model, assume.block_size, source)


def _as_described(described: Described | str) -> Described:
    """The description, with a name that is a number or a configuration in its own place."""
    given = Described(model=described) if isinstance(described, str) else described
    name = (given.model or "").strip()
    if given.params is not None or given.config is not None:
        return given
    if number := _NUMBER.fullmatch(name):
        return replace(given, model=None, params=float(number[1]) * _UNITS[number[2].lower()])
    if name.startswith("{"):
        import yaml

        return replace(given, model=None, config=yaml.safe_load(name))
    return given


def _read(name: str, who: str) -> Any:
    """A configuration out of a file, a folder or the hub: a mapping of ours, or one of transformers."""
    from transformers import AutoConfig

    path = Path(name)
    if path.suffix in (".yaml", ".yml"):
        return _of_yaml(name, who)
    try:
        return AutoConfig.from_pretrained(name, trust_remote_code=False)
    except (OSError, ValueError) as error:
        found = "which does not exist" if not path.exists() else f"({str(error).strip().splitlines()[0].rstrip('.')})"
        raise FileNotFoundError(
            f"{who} must be a folder with config.json, a configuration, a name on the Hugging Face hub or a number, "
            f"got {name} {found}. Set --{who}, or --{who}.params."
        ) from error


def _of_yaml(name: str, who: str) -> Any:
    """The student's configuration in a YAML of `fit`, or a YAML that is nothing but one."""
    from pd_lightning.composition.yaml_files import read_yaml

    found: Any = read_yaml(name)
    inner = found
    for key in ("model", "student", "init_args", "config"):
        inner = inner.get(key, {}) if isinstance(inner, dict) else {}
    config = inner or found
    if not isinstance(config, dict) or not {"model_type", "hidden_size"} & config.keys():
        raise ValueError(
            f"{who} must be a configuration with model_type, got {name} without one. Set --{who} to another file, or "
            f"--{who}.config."
        )
    return {"model_type": "llama", **config}
