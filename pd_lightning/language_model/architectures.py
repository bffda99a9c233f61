"""From the configuration of an architecture to its model, with errors that name the YAML key."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from pd_lightning.language_model.isolation import is_causal

_KEY = "model.student.init_args.config"
_SIZES = {
    "head_dim",
    "hidden_size",
    "intermediate_size",
    "max_position_embeddings",
    "num_attention_heads",
    "num_hidden_layers",
    "num_key_value_heads",
    "vocab_size",
}


def check_sizes(model_type: str, fields: Mapping[str, Any]) -> None:
    """Refuse sizes below 1, of which transformers makes models without layers, or divides by zero.

    Args:
        model_type: The architecture.
        fields: Fields of its configuration.

    Raises:
        ValueError: One is below 1.
    """
    for name in sorted(_SIZES & fields.keys()):
        if type(fields[name]) is int and fields[name] < 1:
            raise ValueError(
                f"{name} of a {model_type} config must be at least 1, got {fields[name]}. Correct {_KEY}.{name}."
            )


def make_causal_lm(model_type: str, config: Any) -> nn.Module:
    """Initialise a Hugging Face causal model in float32.

    Args:
        model_type: The architecture.
        config: Its configuration.

    Raises:
        ValueError: If the architecture is no causal language model, a position of it sees those after it, sizes do not
            go together, or it lacks the activation or attention asked for.
    """
    from transformers import AutoModelForCausalLM

    try:
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, trust_remote_code=False)
    except (ImportError, KeyError, ValueError) as error:
        # What transformers says may go on with a list of all that there is.
        said = f"{error} is not known" if isinstance(error, KeyError) else str(error).strip().splitlines()[0]
        raise ValueError(
            f"The config of a {model_type} must make a causal language model, got: {said.rstrip('.')}. Correct {_KEY}, "
            "or model.student.init_args.attn_implementation."
        ) from error
    try:
        causal = is_causal(model)
    except RuntimeError as error:
        raise ValueError(
            f"A {model_type} config must have values that go together, got: {str(error).splitlines()[0].rstrip('.')}. "
            f"Correct {_KEY}: num_key_value_heads must divide num_attention_heads, say."
        ) from error
    if not causal:
        raise ValueError(
            f"The config of a {model_type} must make a causal language model, got one whose positions see the tokens "
            f"after them. Set {_KEY}.is_decoder to true, or {_KEY}.model_type to an architecture like llama."
        )
    return model
