"""Students that are cut out of a larger model."""

import copy
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
import yaml
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer

from pd_lightning.data import TokenBlocks
from pd_lightning.export.exporting import export, read_checkpoint
from pd_lightning.language_model import build_causal_lm
from pd_lightning.module import DistillationModule
from pd_lightning.students import HFStudent, PrunedStudent
from pd_lightning.teachers import FrozenTeacher

IDS = torch.arange(24).view(2, 12)
SIZES = {
    "vocab_size": 300,
    "hidden_size": 32,
    "intermediate_size": 40,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "initializer_range": 0.2,
    "max_position_embeddings": 64,
}
PATTERN = ["sliding_attention", "full_attention", "sliding_attention", "full_attention"]
ARCHITECTURES = {
    "llama": {"attention_bias": True, "mlp_bias": True},
    "qwen3": {"tie_word_embeddings": True, "use_sliding_window": True, "sliding_window": 3, "layer_types": PATTERN},
    "qwen2": {"head_dim": None},
    "mistral": {"sliding_window": 4},
    "gemma2": {"sliding_window": 3, "layer_types": PATTERN, "query_pre_attn_scalar": 8},
    "gemma3_text": {"sliding_window": 3, "layer_types": PATTERN, "query_pre_attn_scalar": 8},
    "smollm3": {"no_rope_layers": [1, 0, 1, 1], "pad_token_id": None},
}


def make(model_type: str, **settings: Any) -> Any:
    torch.manual_seed(5)
    fields = {**SIZES, **ARCHITECTURES.get(model_type, {}), **settings}
    fields = {name: value for name, value in fields.items() if name == "pad_token_id" or value is not None}
    model: Any = build_causal_lm({"model_type": model_type, **fields})
    for name, parameter in model.named_parameters():  # no norm is 1, no bias 0
        if parameter.ndim == 1:
            nn.init.normal_(parameter, 0.5 if "norm" in name else 0.0, 0.3)
    return model.eval()


def logits(model: Any) -> Tensor:
    with torch.no_grad():
        found: Tensor = model.eval()(IDS, use_cache=False).logits
    return found


def cut(source: Any, **settings: Any) -> Any:
    with torch.no_grad():
        return PrunedStudent("unused", **settings).cut(source).eval()


@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_what_cuts_nothing_gives_the_source_to_the_bit(model_type: str) -> None:
    source = make(model_type)
    same = cut(source, layers=4, hidden_size=32, intermediate_size=40, num_attention_heads=4)
    assert torch.equal(logits(same), logits(source))


@pytest.mark.parametrize("model_type", ARCHITECTURES)
@pytest.mark.parametrize("kept", [[0, 3], [1, 2]])
def test_fewer_layers_are_the_model_without_the_others(model_type: str, kept: list[int]) -> None:
    """By hand: the other layers are taken off the source, and what its configuration says of them."""
    source = make(model_type)
    pruned, expected = cut(source, layers=kept), copy.deepcopy(source)
    expected.model.layers = nn.ModuleList(expected.model.layers[layer] for layer in kept)
    expected.config.num_hidden_layers = 2
    for name in ("layer_types", "no_rope_layers"):
        if hasattr(expected.config, name):
            setattr(expected.config, name, [getattr(source.config, name)[layer] for layer in kept])
            assert getattr(pruned.config, name) == getattr(expected.config, name)
    assert torch.equal(logits(pruned), logits(expected))
    assert not torch.allclose(logits(pruned), logits(source), atol=1e-2)


def test_any_architecture_can_lose_layers() -> None:
    torch.manual_seed(0)
    sizes = {"n_embd": 32, "n_layer": 3, "n_head": 2, "vocab_size": 300, "initializer_range": 0.2}
    source: Any = build_causal_lm({"model_type": "gpt2", **sizes})
    pruned, expected = cut(source.eval(), layers=[0, 2]), copy.deepcopy(source)
    del expected.transformer.h[1]
    assert pruned.config.n_layer == 2
    assert torch.equal(logits(pruned), logits(expected))
    with pytest.raises(ValueError, match=r"laid out like Llama, got a gpt2\. Leave out hidden_size"):
        cut(source, hidden_size=16)


def test_which_layers_stay() -> None:
    source = make("llama", num_hidden_layers=8)
    marked = {layer: source.model.layers[layer].mlp.up_proj.weight for layer in range(8)}

    def found(**settings: Any) -> list[int]:
        layers = cut(source, **settings).model.layers
        return [next(n for n, w in marked.items() if torch.equal(w, layer.mlp.up_proj.weight)) for layer in layers]

    assert found(layers=3) == [0, 4, 7]
    assert found(layers=4) == [0, 2, 5, 7]
    assert found(layers=5, keep="ends") == [0, 1, 2, 6, 7]
    assert found(layers=3, keep="first") == [0, 1, 2]
    assert found(layers=1) == [0]
    assert found(layers=[2, 5]) == [2, 5]


@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_what_is_nothing_can_be_cut_without_a_difference(model_type: str) -> None:
    """Heads and inner units of zeros are found, wherever they are; and the function stays the same without them."""
    source = make(model_type)
    with torch.no_grad():
        for number, layer in enumerate(source.model.layers):
            attention, mlp = layer.self_attn, layer.mlp
            group, units = number % 2, slice(number, number + 30)
            for part, size in ((attention.q_proj, 16), (attention.k_proj, 8), (attention.v_proj, 8)):
                part.weight[group * size : (group + 1) * size] = 0
                if part.bias is not None:
                    part.bias[group * size : (group + 1) * size] = 0
            attention.o_proj.weight[:, group * 16 : (group + 1) * 16] = 0
            for part in (mlp.gate_proj, mlp.up_proj):
                part.weight[units] = 0
                if part.bias is not None:
                    part.bias[units] = 0
            mlp.down_proj.weight[:, units] = 0
    pruned = cut(source, intermediate_size=10, num_attention_heads=2)
    assert pruned.config.num_key_value_heads == 1
    assert pruned.model.layers[0].self_attn.q_proj.weight.shape == (16, 32)
    assert pruned.model.layers[0].mlp.up_proj.weight.shape == (10, 32)
    torch.testing.assert_close(logits(pruned), logits(source), rtol=1e-4, atol=1e-4)


def test_hidden_channels_of_nothing_are_found() -> None:
    """The norm divides by fewer channels then, and is scaled to give the same."""
    source = make("llama", attention_bias=False, mlp_bias=False, rms_norm_eps=1e-30)
    dead = torch.arange(32) % 4 == 1
    with torch.no_grad():
        for name, parameter in source.named_parameters():
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                parameter[dead] = 0
            elif parameter.ndim == 2:
                parameter[:, dead] = 0
    pruned = cut(source, hidden_size=24)
    assert pruned.model.layers[0].self_attn.q_proj.weight.shape == (32, 24)
    assert torch.equal(pruned.model.embed_tokens.weight, source.model.embed_tokens.weight[:, ~dead])
    with torch.no_grad():
        for name, parameter in pruned.named_parameters():
            if "norm" in name:
                parameter.mul_((32 / 24) ** 0.5)
    torch.testing.assert_close(logits(pruned), logits(source), rtol=1e-4, atol=1e-4)


def test_heads_keep_to_their_group() -> None:
    """Two of three query heads of each of two key and value heads, the ones with the larger weights."""
    source = make("llama", hidden_size=48, num_attention_heads=6, attention_bias=False)
    attention = source.model.layers[0].self_attn
    with torch.no_grad():
        for head in (1, 3):
            attention.q_proj.weight[head * 8 : (head + 1) * 8] *= 0.01
            attention.o_proj.weight[:, head * 8 : (head + 1) * 8] *= 0.01
    pruned = cut(source, num_attention_heads=4, num_key_value_heads=2)
    heads = torch.cat([torch.arange(head * 8, head * 8 + 8) for head in (0, 2, 4, 5)])
    found = pruned.model.layers[0].self_attn
    assert torch.equal(found.q_proj.weight, attention.q_proj.weight[heads])
    assert torch.equal(found.o_proj.weight, attention.o_proj.weight[:, heads])
    assert torch.equal(found.k_proj.weight, attention.k_proj.weight)


def test_the_first_ones_stay_where_that_is_asked_for() -> None:
    source = make("qwen3")
    pruned = cut(source, hidden_size=16, intermediate_size=8, num_attention_heads=2, importance="first")
    layer, old = pruned.model.layers[1], source.model.layers[1]
    assert torch.equal(layer.self_attn.q_proj.weight, old.self_attn.q_proj.weight[:16, :16])
    assert torch.equal(layer.self_attn.v_proj.weight, old.self_attn.v_proj.weight[:8, :16])
    assert torch.equal(layer.mlp.down_proj.weight, old.mlp.down_proj.weight[:16, :8])
    assert torch.equal(layer.input_layernorm.weight, old.input_layernorm.weight[:16])
    assert pruned.lm_head.weight is pruned.model.embed_tokens.weight
    assert logits(pruned).isfinite().all()


@pytest.mark.parametrize("model_type", ARCHITECTURES)
@pytest.mark.filterwarnings("ignore:head_dim is no declared field")
def test_it_is_an_ordinary_model(model_type: str, tmp_path: Path) -> None:
    """transformers saves and loads it, and its configuration alone makes a model for its weights."""
    sizes = {"hidden_size": 24, "intermediate_size": 20, "num_attention_heads": 2}
    pruned = cut(make(model_type), layers=[0, 3], **sizes)
    pruned.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(logits(loaded), logits(pruned))
    settings = {name: value for name, value in pruned.config.to_dict().items() if name != "transformers_version"}
    again: Any = build_causal_lm(settings)
    again.load_state_dict(pruned.state_dict())
    assert torch.equal(logits(again), logits(pruned))
    ((again(IDS).logits.float() ** 2).mean()).backward()
    assert all(parameter.grad is not None for parameter in again.parameters())


@pytest.mark.parametrize("model_type", ["phi3", "olmo2", "glm4"])
def test_other_layouts_lose_layers_alone(model_type: str) -> None:
    """Fused projections, and norms over all heads."""
    source = make(model_type, head_dim=None, pad_token_id=0)
    assert logits(cut(source, layers=[0, 3])).isfinite().all()
    with pytest.raises(
        ValueError, match=rf"laid out like Llama, got model\.layers\.0\.\S+ of shape .* in a {model_type}"
    ):
        cut(source, hidden_size=16)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"layers": 5}, r"layers must be from 1 to the source's 4, got 5\. Correct model\.student\.init_args\.layers"),
        ({"layers": [1, 1]}, r"numbers from 0 to 3 in ascending order, got \[1, 1\]"),
        ({"layers": [0, 4]}, r"numbers from 0 to 3 in ascending order, got \[0, 4\]"),
        ({"hidden_size": 64}, "hidden_size must be from 1 to the model's 32, got 64"),
        ({"intermediate_size": 0}, "intermediate_size must be from 1 to the model's 40, got 0"),
        (
            {"hidden_size": 30},
            r"go together, got: The hidden size \(30\) is not a multiple .*Correct model\.student\.init",
        ),
        ({"num_attention_heads": 3}, "must be up to 2 for each of 2 key and value heads, got 3"),
        ({"num_attention_heads": 4, "num_key_value_heads": 1}, "must be up to 2 for each of 1 key and value heads"),
    ],
)
def test_sizes_that_the_source_does_not_have(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        cut(make("llama"), **settings)


def test_a_layer_that_would_become_another_is_refused() -> None:
    """In a mixture of experts that has them in every other layer, which layer it is says what it is."""
    experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "decoder_sparse_step": 2}
    source = make("qwen3_moe", **experts)
    with pytest.raises(ValueError, match="got layer 1 of a qwen3_moe, which differs as layer 0"):
        cut(source, layers=[1, 2])
    assert logits(cut(source, layers=[0, 1])).isfinite().all()
    with pytest.raises(ValueError, match=r"laid out like Llama, got .* in a qwen3_moe"):
        cut(source, intermediate_size=8)


def test_something_must_be_left_out() -> None:
    with pytest.raises(ValueError, match=r"must leave something out, got no size\. Set model\.student\.init_args\.lay"):
        PrunedStudent("folder")
    with pytest.raises(FileNotFoundError, match=r"model\.student\.init_args\.model must be a folder"):
        PrunedStudent("./none", layers=1).build({})


def test_a_run_goes_on_and_is_exported(tmp_path: Path, tiny: Any, blocks: Path, teacher_dir: Path) -> None:
    """Trained on its own teacher; the checkpoint knows the pruned shape, and is enough to go on without the source."""
    pruned = PrunedStudent(str(teacher_dir), layers=1, hidden_size=24, intermediate_size=32, num_attention_heads=2)

    def fit(student: Any, steps: int, ckpt_path: Path | None = None) -> DistillationModule:
        module = DistillationModule(student, FrozenTeacher(str(teacher_dir)), kd_weight=1.0)
        quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "limit_val_batches": 0}
        trainer = pl.Trainer(accelerator="cpu", max_steps=steps, enable_checkpointing=False, **quiet)
        trainer.fit(module, TokenBlocks(str(blocks), batch_size=4, seed=1), ckpt_path=ckpt_path, weights_only=True)
        trainer.save_checkpoint(tmp_path / f"{steps}.ckpt")
        return module.eval()

    whole = fit(pruned, 4)
    fit(pruned, 2)
    saved = torch.load(tmp_path / "2.ckpt", weights_only=True)["pd_lightning"]["student_config"]
    assert (saved["num_hidden_layers"], saved["hidden_size"], saved["intermediate_size"]) == (1, 24, 32)
    saved.pop("transformers_version")
    for student in (pruned, HFStudent(config=saved)):
        resumed = fit(student, 4, tmp_path / "2.ckpt")
        for (name, one), (_, other) in zip(whole.state_dict().items(), resumed.state_dict().items(), strict=True):
            assert torch.equal(one, other), name
    export(str(tmp_path / "4.ckpt"), str(tmp_path / "out"))
    exported = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert torch.equal(logits(exported), whole(IDS))
    assert len(AutoTokenizer.from_pretrained(tmp_path / "out")) == tiny.vocab_size


def test_a_source_in_half_precision_is_trained_in_full(tmp_path: Path) -> None:
    source = make("llama").to(torch.bfloat16)
    source.save_pretrained(tmp_path)
    student = PrunedStudent(str(tmp_path), layers=2).build({})
    assert {parameter.dtype for parameter in student.parameters()} == {torch.float32}
    assert student.config()["dtype"] == "float32"
    assert torch.equal(student.model.lm_head.weight, source.lm_head.weight.float())
    assert student.training


@pytest.mark.slow
def test_two_ranks_train_it_as_one_does(tmp_path: Path, teacher_dir: Path, blocks: Path) -> None:
    """Spread over them by FSDP2, in processes of their own."""
    init_args = {"model": str(teacher_dir), "layers": 1, "hidden_size": 24}
    settings: dict[str, Any] = {
        "model": {
            "student": {"class_path": "pd_lightning.students.PrunedStudent", "init_args": init_args},
            "teacher": {"class_path": "pd_lightning.teachers.NoTeacher"},
            "lr": {"class_path": "pd_lightning.schedules.Constant", "init_args": {"value": 1e-2}},
        },
        "data": {"class_path": "pd_lightning.data.TokenBlocks", "init_args": {"path": str(blocks), "seed": 1}},
        "trainer": {"accelerator": "cpu", "max_steps": 2, "logger": False, "limit_val_batches": 0},
    }
    settings["trainer"] |= {"enable_progress_bar": False, "enable_model_summary": False}
    weights = []
    for devices in (1, 2):
        settings["data"]["init_args"]["batch_size"] = 4 // devices
        folder = tmp_path / str(devices)
        settings["trainer"] |= {"devices": devices, "default_root_dir": str(folder)}
        if devices == 2:
            settings["trainer"]["strategy"] = {"class_path": "pd_lightning.strategies.FSDP2Strategy"}
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(settings))
        command = [sys.executable, "-m", "pd_lightning", "fit", "--config", str(tmp_path / "config.yaml")]
        subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=True, timeout=200)
        checkpoint = read_checkpoint(str(next((folder / "checkpoints").glob("*.ckpt"))))
        assert checkpoint["pd_lightning"]["student_config"]["hidden_size"] == 24
        weights.append(checkpoint["state_dict"])
    assert weights[0].keys() == weights[1].keys()
    for name, tensor in weights[0].items():
        torch.testing.assert_close(weights[1][name], tensor, rtol=1e-4, atol=1e-5)
