"""Floating-point operations and parameters of a language model, by formula."""

from typing import Any

from torch import nn

_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts")


def flops_per_token(model: nn.Module, positions: int) -> float:
    """Count the operations of a model on one token, as papers do.

    2 for each weight that a token is multiplied by, and 4 · layers · width · positions for attention, over all
    positions whether masked or not; in training three times that, the backward pass being two forward passes. A table
    of embeddings is looked up, not multiplied, unless it is the head too. Of a mixture of experts the chosen ones
    count, and those that all tokens share. Recomputed activations don't count.

    Args:
        model: What is trained of it counts three times, what is frozen once.
        positions: T, of a block.

    Returns:
        Operations of a token. Without a Hugging Face configuration in the model attention is left out.

    Source: Kaplan et al. (arXiv 2001.08361), section 2.1; Chowdhery et al., PaLM (arXiv 2204.02311), appendix B.
    """
    config = _config(model)
    looked_up = {id(part.weight) for part in model.modules() if isinstance(part, nn.Embedding)}
    looked_up -= {id(part.weight) for part in model.modules() if isinstance(part, nn.Linear)}
    chosen = _share_of_experts(config)
    total, trains = 0.0, False
    for name, weight in model.named_parameters():
        if weight.dim() < 2 or id(weight) in looked_up:
            continue
        passes = 3 if weight.requires_grad else 1
        trains |= weight.requires_grad
        total += 2 * passes * weight.numel() * (chosen if ".experts." in f".{name}" else 1.0)
    return total + (3 if trains else 1) * 4 * _attention_width(config) * positions


def count_parameters(model: nn.Module) -> tuple[int, int]:
    """Count the parameters of a model, shared ones once.

    Args:
        model: Any. The head is the one that a Hugging Face model names, else what is as wide as the longest table of
            embeddings is long.

    Returns:
        All, and those that are no embedding of tokens, of positions or of the output, as scaling laws count.

    Source: Kaplan et al. (arXiv 2001.08361), section 2.1.
    """
    tables = [part for part in model.modules() if isinstance(part, nn.Embedding)]
    ends = {id(weight): weight.numel() for end in [*tables, *_heads(model, tables)] for weight in end.parameters()}
    total = sum(weight.numel() for weight in model.parameters())
    return total, total - sum(ends.values())


def _heads(model: nn.Module, tables: list[nn.Embedding]) -> list[nn.Module]:
    named: Any = next((part for part in model.modules() if hasattr(part, "get_output_embeddings")), None)
    head = None if named is None else named.get_output_embeddings()
    if isinstance(head, nn.Module):
        return [head]
    width = max((table.num_embeddings for table in tables), default=0)
    return [part for part in model.modules() if isinstance(part, nn.Linear) and part.out_features == width]


def _config(model: nn.Module) -> Any:
    """The first configuration in it that tells of layers, as Hugging Face models have one."""
    for part in model.modules():
        config: Any = getattr(part, "config", None)
        config = config.get_text_config() if hasattr(config, "get_text_config") else config
        if hasattr(config, "num_hidden_layers") and hasattr(config, "num_attention_heads"):
            return config
    return None


def _attention_width(config: Any) -> int:
    """Widths of all heads of all layers together."""
    if config is None:
        return 0
    heads = config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    return int(config.num_hidden_layers * heads * width)


def _share_of_experts(config: Any) -> float:
    number = next((getattr(config, name) for name in _EXPERTS if getattr(config, name, None)), None)
    chosen = getattr(config, "num_experts_per_tok", None)
    return 1.0 if number is None or chosen is None else chosen / number
