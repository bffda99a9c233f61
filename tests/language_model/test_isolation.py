"""Probes of models: what they see, and what is left of the probe."""

import pytest
import torch

from pd_lightning.language_model import build_causal_lm
from pd_lightning.language_model.isolation import is_causal, probing

SIZES = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 32}


def test_what_is_causal() -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    assert is_causal(build_causal_lm({"model_type": "llama", **SIZES}))
    assert is_causal(build_causal_lm({"model_type": "bert", **SIZES, "is_decoder": True}))
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("bert", **SIZES))
    assert not is_causal(model)
    assert is_causal(model.to("meta"))


def test_a_fault_of_an_architecture_is_found() -> None:
    """transformers 5.23 lays the routing of Doge's experts out across positions."""
    fields = {"is_moe": True, "num_experts": 16, "num_experts_per_tok": 4}
    with pytest.raises(ValueError, match=r"config of a doge must .* positions see the tokens after them"):
        build_causal_lm({"model_type": "doge", **SIZES, **fields})


def test_a_probe_leaves_no_trace() -> None:
    """Flash attention has no kernel for the host's memory."""
    model = build_causal_lm({"model_type": "llama", **SIZES, "attention_dropout": 0.5})
    model.config._attn_implementation = "flash_attention_2"
    ids = torch.arange(4)[None]
    with probing(model):
        assert not model.training
        assert torch.equal(model(ids).logits, model(ids).logits)
    assert model.training
    assert model.config._attn_implementation == "flash_attention_2"
