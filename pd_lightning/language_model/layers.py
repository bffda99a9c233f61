"""The layers of a language model: what is compiled, recomputed or gathered as one."""

from collections.abc import Iterator

from torch import nn


def hf_layers(model: nn.Module) -> list[nn.Module]:
    """Give the decoder layers of a transformers model, instances of its own block class; none of other models."""
    from transformers.modeling_layers import GradientCheckpointingLayer

    return [part for part in model.modules() if isinstance(part, GradientCheckpointingLayer)]


def layers(model: nn.Module) -> list[nn.Module]:
    """Give the layers of any model: those of transformers, else the members of its outermost lists of modules."""
    return hf_layers(model) or list(_listed(model))


def _listed(module: nn.Module) -> Iterator[nn.Module]:
    for child in module.children():
        if isinstance(child, nn.ModuleList):
            yield from child
        else:
            yield from _listed(child)
