"""Which parameters are those of embeddings."""

import pytest
import torch
from torch import nn

from pd_lightning.flops import count_parameters
from pd_lightning.language_model import build_causal_lm

V, D = 300, 32
LLAMA = {"model_type": "llama", "hidden_size": D, "intermediate_size": 64, "num_attention_heads": 2}


@pytest.mark.parametrize("tied", [False, True])
def test_embeddings_count_once(tied: bool) -> None:
    shape = {**LLAMA, "num_hidden_layers": 2, "vocab_size": V, "tie_word_embeddings": tied}
    with torch.device("meta"):
        total, inner = count_parameters(build_causal_lm(shape))
    assert inner == 2 * (4 * D * D + 3 * D * 64 + 2 * D) + D
    assert total == inner + (1 if tied else 2) * V * D


def test_layers_as_wide_as_there_are_positions_are_no_head() -> None:
    """As of GPT-Neo 1.3B, with 2,048 positions and 2,048 channels."""
    shape = {"num_layers": 2, "attention_types": [[["global"], 2]], "num_heads": 2, "intermediate_size": 64}
    sizes = {"vocab_size": V, "hidden_size": D, "max_position_embeddings": D, "tie_word_embeddings": True}
    with torch.device("meta"):
        total, inner = count_parameters(build_causal_lm({"model_type": "gpt_neo", **shape, **sizes}))
    assert total - inner == V * D + D * D


def test_a_module_of_one_s_own_shows_its_head_by_its_width() -> None:
    model = nn.ModuleDict({"words": nn.Embedding(V, D), "positions": nn.Embedding(D, D), "inner": nn.Linear(D, D)})
    model["head"] = nn.Linear(D, V)
    assert count_parameters(model)[1] == D * D + D
