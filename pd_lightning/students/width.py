"""Narrower layers: which channels, heads and inner units of a Llama-like model stay, and their weights cut out."""

from dataclasses import dataclass
from fnmatch import fnmatch
from typing import Any, Literal

import torch
from torch import Tensor

Importance = Literal["norm", "first"]
# What each dimension of a weight stands for: hidden channels, query heads, key and value heads, inner units of the
# feed-forward part, or what is not cut.
_LAYOUT: dict[str, tuple[str, ...]] = {
    "*embed_tokens.weight": ("", "hidden"),
    "*lm_head.weight": ("", "hidden"),
    "*lm_head.bias": ("",),
    "*self_attn.q_proj.weight": ("queries", "hidden"),
    "*self_attn.q_proj.bias": ("queries",),
    "*self_attn.[kv]_proj.weight": ("keys", "hidden"),
    "*self_attn.[kv]_proj.bias": ("keys",),
    "*self_attn.o_proj.weight": ("hidden", "queries"),
    "*self_attn.o_proj.bias": ("hidden",),
    "*self_attn.[qk]_norm.weight": ("",),  # of one head
    "*mlp.gate_proj.weight": ("inner", "hidden"),
    "*mlp.gate_proj.bias": ("inner",),
    "*mlp.up_proj.weight": ("inner", "hidden"),
    "*mlp.up_proj.bias": ("inner",),
    "*mlp.down_proj.weight": ("hidden", "inner"),
    "*mlp.down_proj.bias": ("hidden",),
    "*layernorm.weight": ("hidden",),
    "model.norm.weight": ("hidden",),
}


@dataclass(frozen=True)
class Widths:
    """Sizes of the narrower model.

    Args:
        hidden: Hidden channels.
        inner: Inner units of each feed-forward part.
        heads: Query heads.
        groups: Key and value heads, each with `heads / groups` query heads of its own.
        head_dim: Channels of a head, which are not cut.
    """

    hidden: int
    inner: int
    heads: int
    groups: int
    head_dim: int


def widths_of(config: Any) -> Widths:
    """Give the sizes of a model.

    Raises:
        ValueError: If it has no such sizes.
    """
    if getattr(config, "intermediate_size", None) is None:
        raise ValueError(_refusal(f"a {config.model_type}"))
    heads = config.num_attention_heads
    return Widths(
        config.hidden_size,
        config.intermediate_size,
        heads,
        getattr(config, "num_key_value_heads", None) or heads,
        getattr(config, "head_dim", None) or config.hidden_size // heads,
    )


def narrowed(
    weights: dict[str, Tensor], before: Widths, after: Widths, importance: Importance, who: str
) -> dict[str, Tensor]:
    """Cut the weights of a Llama-like model down to the channels, heads and units that stay, in their old order.

    Hidden channels are the same in all layers, since the residual stream runs through them; heads and inner units are
    chosen layer by layer, query heads within their group.

    Args:
        weights: Those of the source, by name.
        before: Its sizes.
        after: The sizes to cut to.
        importance: `norm` keeps those whose weights have the largest norm, all weights that read or write them taken
            together; `first` keeps the first ones.
        who: Name of the architecture, for the message.

    Returns:
        The narrower weights, by name.

    Raises:
        ValueError: If the model is laid out otherwise.
    """
    plan = {name: _dimensions(name, tensor, before, who) for name, tensor in weights.items()}
    scores = _Scores(weights, plan, importance)
    hidden = _best(scores.of("hidden", before.hidden), after.hidden)
    chosen: dict[str, dict[str, Tensor]] = {}
    narrow = {}
    for name, tensor in weights.items():
        layer = _layer(name)
        if layer not in chosen:
            chosen[layer] = _choose(scores, layer, before, after) if layer else {}
        kept = {"hidden": hidden, **chosen[layer]}
        for axis, kind in enumerate(plan[name]):
            tensor = tensor.index_select(axis, kept[kind]) if kind else tensor
        narrow[name] = tensor
    return narrow


@dataclass
class _Scores:
    """How much each channel, head or unit counts: the sum of squares of its weights."""

    weights: dict[str, Tensor]
    plan: dict[str, tuple[str, ...]]
    importance: Importance

    def of(self, kind: str, size: int, layer: str = "") -> Tensor:
        """Give float64 `[size]`, of one layer or of all the model."""
        total = torch.zeros(size, dtype=torch.float64)
        for name, dimensions in self.plan.items():
            # Vectors scale or shift what matrices write, and say little of how much there is.
            counts = len(dimensions) == 2 and kind in dimensions and name.startswith(layer)
            if self.importance == "norm" and counts:
                # In float32, weight by weight: a copy of an embedding in float64 may be several GB.
                norms = torch.linalg.vector_norm(
                    self.weights[name].detach(), dim=1 - dimensions.index(kind), dtype=torch.float32
                )
                total += norms.double().square()
        return total


def _choose(scores: _Scores, layer: str, before: Widths, after: Widths) -> dict[str, Tensor]:
    """Give the indices that a layer keeps, by kind."""
    inner = _best(scores.of("inner", before.inner, layer), after.inner)
    size = before.head_dim
    heads = scores.of("queries", before.heads * size, layer).view(before.groups, -1, size).sum(-1)
    groups = scores.of("keys", before.groups * size, layer).view(before.groups, size).sum(-1) + heads.sum(-1)
    kept_groups = _best(groups, after.groups)
    each = before.heads // before.groups
    queries = [group * each + _best(heads[group], after.heads // after.groups) for group in kept_groups]
    return {"inner": inner, "queries": _channels(torch.cat(queries), size), "keys": _channels(kept_groups, size)}


def _best(scores: Tensor, count: int) -> Tensor:
    """Give the indices of the largest scores, in ascending order; of equal ones the first."""
    return scores.argsort(descending=True, stable=True)[:count].sort().values


def _channels(heads: Tensor, size: int) -> Tensor:
    return (heads[:, None] * size + torch.arange(size)).flatten()


def _layer(name: str) -> str:
    """Give the prefix of the layer that a weight belongs to; empty where it is in none."""
    parts = name.split(".")
    at = next((index for index, part in enumerate(parts) if part.isdigit()), None)
    return "" if at is None else ".".join(parts[: at + 1]) + "."


def _dimensions(name: str, tensor: Tensor, widths: Widths, who: str) -> tuple[str, ...]:
    found = next((kinds for pattern, kinds in _LAYOUT.items() if fnmatch(name, pattern)), None)
    sizes = {
        "hidden": widths.hidden,
        "inner": widths.inner,
        "queries": widths.heads * widths.head_dim,
        "keys": widths.groups * widths.head_dim,
    }
    if found is None or len(found) != tensor.ndim or not _fits(name, tensor, found, sizes, widths):
        raise ValueError(_refusal(f"{name} of shape {list(tensor.shape)} in a {who}"))
    return found


def _refusal(found: str) -> str:
    return (
        f"Widths must be cut from a model laid out like Llama, got {found}. Leave out hidden_size, intermediate_size, "
        "num_attention_heads and num_key_value_heads of model.student.init_args, and set layers alone, or name another "
        "model (llama, qwen3, mistral, gemma3_text)."
    )


def _fits(name: str, tensor: Tensor, kinds: tuple[str, ...], sizes: dict[str, int], widths: Widths) -> bool:
    of_one_head = not fnmatch(name, "*self_attn.[qk]_norm.weight") or tensor.shape[0] == widths.head_dim
    return of_one_head and all(not kind or sizes[kind] == size for kind, size in zip(kinds, tensor.shape, strict=True))
