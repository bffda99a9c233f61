"""Parameters and FLOPs of a plan are those of a model, counted by PyTorch."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch.utils.flop_counter import FlopCounterMode

from pd_lightning.flops import flops_per_token
from pd_lightning.language_model import build_causal_lm
from pd_lightning.plan.settings import Assumptions, Described
from pd_lightning.plan.sizes import _as_described, size_of

T = 32
BASE = {
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
EXPERTS = {"moe_intermediate_size": 48, "num_experts": 8, "num_experts_per_tok": 2}
CONFIGS = {
    "llama, untied": {"model_type": "llama", "tie_word_embeddings": False},
    "llama, tied, one head of keys": {"model_type": "llama", "tie_word_embeddings": True, "num_key_value_heads": 1},
    "qwen3, head_dim above hidden / heads": {"model_type": "qwen3", "head_dim": 32, "tie_word_embeddings": True},
    "qwen3, untied": {"model_type": "qwen3", "head_dim": 16, "tie_word_embeddings": False},
    "gemma2, capped": {"model_type": "gemma2", "head_dim": 32, "sliding_window": 16},
    "gemma3, windows": {"model_type": "gemma3_text", "head_dim": 24, "sliding_window": 16},
    "qwen3, experts": {"model_type": "qwen3_moe", **EXPERTS},
}


def counted(model: Any, *, backward: bool) -> float:
    """Operations of a block by PyTorch's counter. Attention is eager: of a fused one it counts other kernels."""
    model.config._experts_implementation = "eager"  # grouped products it does not know
    ids = torch.arange(T)[None] % 500
    with FlopCounterMode(display=False) as counter:
        loss = model(ids, use_cache=False).logits.float().mean()
        if backward:
            loss.backward()
    return counter.get_total_flops() / T


@pytest.mark.parametrize("fields", CONFIGS.values(), ids=CONFIGS)
def test_sizes_are_those_of_the_model(fields: dict) -> None:
    config = {**BASE, **fields, "attn_implementation": "eager"}
    size, _ = size_of(Described(config=config), "student", Assumptions(block_size=T))
    model: Any = build_causal_lm(config)
    params = {id(p): p.numel() for p in model.parameters()}
    ends = {id(p): p.numel() for p in (model.get_input_embeddings().weight, model.get_output_embeddings().weight)}
    assert size.exact
    assert size.params == sum(params.values())
    assert size.params_non_embedding == size.params - sum(ends.values())
    assert (size.vocab_size, size.hidden, size.layers) == (512, 64, 2)
    assert size.forward_flops == pytest.approx(counted(model, backward=False), rel=0.02)
    assert 3 * size.forward_flops == pytest.approx(counted(model, backward=True), rel=0.02)
    assert 3 * size.forward_flops == pytest.approx(flops_per_token(model, T))


def test_a_configuration_can_be_given_in_many_ways(tmp_path: Path) -> None:
    config = {"model_type": "llama", **BASE}
    model: Any = build_causal_lm(config)
    model.config.save_pretrained(tmp_path)
    yaml_file = tmp_path / "student.yaml"
    student = {"class_path": "pd_lightning.students.HFStudent", "init_args": {"config": config}}
    yaml_file.write_text(yaml.safe_dump({"model": {"student": student}}))
    expected = sum(p.numel() for p in model.parameters())
    ways: list[Any] = [tmp_path, tmp_path / "config.json", yaml_file, json.dumps(config)]
    for way in [*map(str, ways), Described(config=config), Described(model=str(tmp_path))]:
        assert size_of(way, "student", Assumptions())[0].params == expected, way


def test_a_name_with_points_is_no_number() -> None:
    described = _as_described("1.2.3")
    assert (described.model, described.params) == ("1.2.3", None)


@pytest.mark.parametrize("text", ["1900000000", "1.9e9", "1.9B", "1900M"])
def test_a_number_is_a_number_of_parameters(text: str) -> None:
    size, _ = size_of(text, "student", Assumptions())
    assert (size.params, size.params_non_embedding) == (1.9e9, 1.9e9)
    assert size.forward_flops == 2 * 1.9e9
    assert 12 * size.layers * size.hidden**2 == pytest.approx(1.9e9, rel=0.01)
    assert not size.exact


def test_the_papers_students_have_the_sizes_that_it_names() -> None:
    folder = Path(__file__).parents[2] / "configs" / "paper" / "student"
    for name, params in (("330m", 0.33e9), ("670m", 0.67e9), ("1.9b", 1.9e9), ("3.8b", 3.8e9), ("6.8b", 6.8e9)):
        size, _ = size_of(str(folder / f"{name}.yaml"), "student", Assumptions(vocab_size=151_552))
        assert size.params == pytest.approx(params, rel=0.06), name


@pytest.mark.parametrize(
    ("described", "message"),
    [
        (Described(), "student must be described in one way, got none. Set --student.params"),
        (Described(params=1e9, model="x"), "got params and model. Leave out --student.params"),
        (Described(params=-1), "student.params must be above 0, got -1."),
        (Described(params=1e6, params_non_embedding=2e6), "must be at most student.params, got 2e+06 of 1e+06."),
        (Described(config={"model_type": "lama"}), "Set --student.config.model_type"),
        ("nowhere/at/all", "got nowhere/at/all which does not exist. Set --student"),
    ],
)
def test_what_describes_no_model_is_refused(described: Any, message: str) -> None:
    with pytest.raises((ValueError, FileNotFoundError)) as error:
        size_of(described, "student", Assumptions())
    assert message in str(error.value)
