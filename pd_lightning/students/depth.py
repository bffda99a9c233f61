"""Fewer layers: which of them, and a model made of those alone."""

import copy
from typing import Any, Literal

import torch
from torch import nn

from pd_lightning.language_model.layers import hf_layers

Keep = Literal["even", "ends", "first"]
# Lists of layer numbers; lists of one entry for each layer are known by their length.
_NUMBERS = ("mlp_only_layers", "moe_layers", "cross_attention_layers", "full_attn_idxs", "attn_layer_indices")
_KEY = "model.student.init_args.layers"


def choose_layers(layers: int | list[int], available: int, keep: Keep) -> list[int]:
    """Give the numbers of the layers to keep, from 0 on.

    Args:
        layers: How many, or their numbers, in ascending order.
        available: Layers of the source.
        keep: Which ones where `layers` is a number: `even` for evenly spaced ones, the first and the last among them;
            `ends` for the first and the last ones, the middle dropped; `first` for the first ones.

    Raises:
        ValueError: If there are no such layers.
    """
    if isinstance(layers, list):
        if not layers or layers != sorted({*layers}) or layers[0] < 0 or layers[-1] >= available:
            raise ValueError(
                f"layers must be numbers from 0 to {available - 1} in ascending order, got {layers}. Correct {_KEY}."
            )
        return layers
    if not 1 <= layers <= available:
        raise ValueError(f"layers must be from 1 to the source's {available}, got {layers}. Correct {_KEY}.")
    if keep == "first" or layers == 1:
        return list(range(layers))
    if keep == "ends":
        first = (layers + 1) // 2
        return [*range(first), *range(available - (layers - first), available)]
    return [round(number * (available - 1) / (layers - 1)) for number in range(layers)]


def kept_layers(config: Any, kept: list[int]) -> Any:
    """Give the configuration of a model with some of the layers alone: what it says layer by layer is cut too.

    Args:
        config: Configuration of the source.
        kept: Numbers of the layers.
    """
    available, pruned = config.num_hidden_layers, copy.deepcopy(config)
    for name, value in config.to_dict().items():
        if name in _NUMBERS and isinstance(value, list):
            setattr(pruned, name, [new for new, old in enumerate(kept) if old in value])
        elif (
            isinstance(value, list) and len(value) == available and not name.endswith(("_id", "_ids", "architectures"))
        ):
            setattr(pruned, name, [value[layer] for layer in kept])
    pruned.num_hidden_layers = len(kept)
    return pruned


def without_layers(source: Any, kept: list[int]) -> tuple[Any, dict[str, torch.Tensor]]:
    """Leave layers of a Hugging Face causal model out.

    Args:
        source: The model.
        kept: Numbers of the layers to keep.

    Returns:
        The configuration of the model that is left, and its weights by name, which are the source's own tensors.

    Raises:
        ValueError: If a layer would be another one elsewhere than in the source.
    """
    config, path = kept_layers(source.config, kept), _path(source)
    with torch.device("meta"):
        left = type(source)(config)
    for new, old in enumerate(kept):
        if _kind(left.get_submodule(f"{path}.{new}")) != _kind(source.get_submodule(f"{path}.{old}")):
            raise ValueError(
                f"Layers must stay what they are where others are dropped, got layer {old} of a "
                f"{source.config.model_type}, which differs as layer {new}. Set {_KEY} to layers in the source's own "
                "pattern of kinds."
            )
    places = {f"{path}.{old}.": f"{path}.{new}." for new, old in enumerate(kept)}
    weights = {}
    for name, tensor in source.state_dict().items():
        if not name.startswith(f"{path}."):
            weights[name] = tensor
            continue
        place = ".".join(name.split(".")[: path.count(".") + 2]) + "."
        if place in places:
            weights[places[place] + name.removeprefix(place)] = tensor
    return config, weights


def _path(model: Any) -> str:
    """Name of the list that holds the decoder layers."""
    layers = hf_layers(model)
    for name, module in model.named_modules():
        is_it = isinstance(module, nn.ModuleList) and list(module) == layers
        if is_it and len(layers) == model.config.num_hidden_layers:
            return name
    raise ValueError(
        f"A pruned student must come from a model with one list of decoder layers, got {type(model).__name__}. Set "
        "model.student.init_args.model to another architecture (llama, qwen3, gemma3_text, …)."
    )


def _kind(layer: nn.Module) -> dict[str, Any]:
    """What a layer is apart from its weights: the plain attributes of its modules, and the shapes."""
    kind: dict[str, Any] = {name: tuple(tensor.shape) for name, tensor in layer.state_dict().items()}
    for path, module in layer.named_modules():
        for name, value in vars(module).items():
            plain = isinstance(value, (bool, int, float, str, type(None)))
            if plain and name not in ("layer_idx", "training") and not name.startswith("_"):
                kind[f"{path}.{name}"] = value
    return kind
