from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from pd_lightning.language_model import LanguageModel, build_causal_lm, load_causal_lm
from pd_lightning.students import HFStudent

SMALL = {
    "vocab_size": 50,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": 0,
}


def model_type(settings: dict) -> str:
    return settings["model_type"]


def build(settings: dict) -> nn.Module:
    torch.manual_seed(0)
    return build_causal_lm({**SMALL, "initializer_range": 0.5, **settings}).eval()


@pytest.mark.parametrize(
    "settings",
    [
        {"model_type": "llama"},
        {"model_type": "llama", "tie_word_embeddings": True},
        {"model_type": "qwen3", "head_dim": 8},
        {"model_type": "gemma2", "head_dim": 8, "final_logit_softcapping": 2.0},
        {"model_type": "gemma3_text", "head_dim": 8, "final_logit_softcapping": 2.0},
        {"model_type": "cohere", "logit_scale": 0.3},
        {"model_type": "cohere2", "logit_scale": 0.3},
        {"model_type": "granite", "logits_scaling": 3.0},
    ],
    ids=model_type,
)
def test_the_two_halves_give_the_logits_and_gradients_of_the_whole(settings: dict) -> None:
    whole = build(settings)
    model = LanguageModel(whole)
    input_ids = torch.randint(0, 50, (2, 7))
    hidden = model.hidden(input_ids)
    assert hidden.shape == (2, 7, 32)
    logits = model.head(hidden)
    assert torch.equal(logits, whole(input_ids).logits)
    assert model.vocab_size == 50
    weights = torch.randn_like(logits)
    halves, at_once = (
        torch.autograd.grad((out * weights).sum(), list(whole.parameters()))
        for out in (logits, whole(input_ids).logits)
    )
    for one, other in zip(halves, at_once, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize(
    ("settings", "plain", "formula"),
    [
        ({"model_type": "cohere", "logit_scale": 0.3}, {"logit_scale": 1.0}, lambda logits: 0.3 * logits),
        ({"model_type": "granite", "logits_scaling": 3.0}, {"logits_scaling": 1.0}, lambda logits: logits / 3.0),
        (
            {"model_type": "gemma2", "head_dim": 8, "final_logit_softcapping": 2.0},
            {"final_logit_softcapping": None},
            lambda logits: 2.0 * np.tanh(logits / 2.0),
        ),
    ],
    ids=["cohere", "granite", "gemma2"],
)
def test_scaling_and_capping_follow_their_formulas(settings: dict, plain: dict, formula: Any) -> None:
    input_ids = torch.arange(10).view(2, 5)
    uncapped = LanguageModel(build({**settings, **plain}).double())(input_ids).detach().numpy()
    capped = LanguageModel(build(settings).double())(input_ids).detach().numpy()
    np.testing.assert_allclose(capped, formula(uncapped), rtol=1e-12)
    assert np.abs(capped - uncapped).max() > 0.1


def test_a_scale_that_we_do_not_know_is_found_out_though_id_0_is_padding() -> None:
    """The embedding of padding is zero, and so are its logits, scaled or not."""
    settings = {"model_type": "falcon_h1", "lm_head_multiplier": 0.3, "mamba_d_ssm": 32, "mamba_n_heads": 4}
    whole = build({**settings, "mamba_d_head": 8, "mamba_d_state": 8})
    with pytest.warns(UserWarning, match="FalconH1ForCausalLM does more between hidden states and logits"):
        model = LanguageModel(whole)
    input_ids = torch.arange(4)[None]
    torch.testing.assert_close(model(input_ids), whole(input_ids).logits)


ISOLATING = [
    {"model_type": "llama"},
    {"model_type": "qwen3", "head_dim": 8},
    {"model_type": "gemma3_text", "head_dim": 8, "sliding_window": 3},
    {"model_type": "gpt2", "n_embd": 32, "n_head": 4, "n_layer": 2},  # learned positions
]


@pytest.mark.filterwarnings("ignore:.* is no declared field")
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("settings", ISOLATING, ids=model_type)
def test_isolated_documents_do_not_see_one_another(settings: dict, attention: str) -> None:
    model = LanguageModel(build({**settings, "attn_implementation": attention}))
    model.check_isolation("student")
    lengths = [[4, 5, 3], [1, 9, 2]]
    positions = torch.stack([torch.cat([torch.arange(length) for length in row]) for row in lengths])
    before = torch.randint(0, 50, (2, 12))
    changed = before.clone()
    for row, (first, *_) in enumerate(lengths):
        changed[row, :first] = (before[row, :first] + 7) % 50
    isolated, after = model(before, positions), model(changed, positions)
    full, full_after = model(before), model(changed)
    for row, (first, second, third) in enumerate(lengths):
        assert torch.equal(isolated[row, first:], after[row, first:])
        assert not torch.allclose(isolated[row, :first], after[row, :first], atol=1e-2)
        assert not torch.allclose(full[row, first:], full_after[row, first:], atol=1e-2)
        start = 0
        for length in (first, second, third):
            alone = model(before[row : row + 1, start : start + length])[0]
            torch.testing.assert_close(isolated[row, start : start + length], alone, rtol=1e-5, atol=1e-4)
            start += length


OPT = {"model_type": "opt", "ffn_dim": 48, "word_embed_proj_dim": 32}  # learned positions, but no mask
REFUSED = r"The teacher must keep to one document .*isolated, got \w+, which does not\. .*--document_attention full"


@pytest.mark.filterwarnings("ignore:.* is no declared field")
@pytest.mark.parametrize(
    "settings",
    [OPT, {"model_type": "bloom", "n_head": 4, "n_layer": 2}, {"model_type": "mamba", "state_size": 4}],
    ids=model_type,
)
def test_an_architecture_that_cannot_isolate_is_refused(settings: dict) -> None:
    model = LanguageModel(build(settings))
    with pytest.raises(ValueError, match=REFUSED):
        model.check_isolation("teacher")
    assert not model.model.training


@pytest.mark.filterwarnings("ignore:.* is no declared field")
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("layers", [2, 12])
def test_rounding_and_looking_back_are_told_apart_in_any_precision(dtype: torch.dtype, layers: int) -> None:
    LanguageModel(build({**ISOLATING[0], "num_hidden_layers": layers}).to(dtype)).check_isolation("teacher")
    with pytest.raises(ValueError, match=REFUSED):
        LanguageModel(build({**OPT, "num_hidden_layers": layers}).to(dtype)).check_isolation("teacher")


def test_one_document_a_row_is_full_attention() -> None:
    model, input_ids = LanguageModel(build(ISOLATING[0])), torch.randint(0, 50, (2, 6))
    torch.testing.assert_close(model(input_ids, torch.arange(6).repeat(2, 1)), model(input_ids))


class Bigram(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(9, 9)

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        return self.table(input_ids)


class Attention(nn.Module):
    """One layer of attention without positions, over documents or over all that came before."""

    def __init__(self, masks: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.Embedding(9, 9)
        self.masks = masks

    def forward(self, input_ids: torch.Tensor, position_ids: torch.Tensor | None = None) -> torch.Tensor:
        values = self.table(input_ids)
        mask = torch.ones(input_ids.shape[1], input_ids.shape[1]).tril().bool()[None]
        if position_ids is not None and self.masks:
            documents = (position_ids == 0).cumsum(-1)
            mask = mask & (documents[:, :, None] == documents[:, None])
        return nn.functional.scaled_dot_product_attention(values, values, values, attn_mask=mask)


def test_a_plain_module_must_take_positions_and_heed_them() -> None:
    model = LanguageModel(Attention(masks=True))
    model.check_isolation("student")
    assert model.model.training
    for module in (Attention(masks=False), Bigram()):
        with pytest.raises(ValueError, match=f"The student must keep to one document .* got {type(module).__name__}"):
            LanguageModel(module).check_isolation("student")


def test_a_model_that_is_not_split_isolates_too() -> None:
    whole = shifted_by_one(build(ISOLATING[0]))
    with pytest.warns(UserWarning, match="does more between"):
        model = LanguageModel(whole)
    model.check_isolation("student")


def test_any_module_from_ids_to_logits_will_do() -> None:
    module = Bigram()
    model = LanguageModel(module)
    input_ids = torch.tensor([[1, 2, 3]])
    assert torch.equal(model(input_ids), module(input_ids))
    assert (model.vocab_size, model.context_length, model.config()) == (None, None, None)


def shifted_by_one(whole: nn.Module) -> nn.Module:
    """The model, with 1 added to its logits."""
    forward = whole.forward

    def with_bias(*args: object, **kwargs: object) -> object:
        output = forward(*args, **kwargs)
        output.logits = output.logits + 1.0
        return output

    whole.forward = with_bias  # type: ignore[method-assign]
    return whole


def test_a_model_that_does_more_than_its_head_is_not_split() -> None:
    whole = shifted_by_one(build_causal_lm({**SMALL, "model_type": "llama"}))
    with pytest.warns(UserWarning, match="LlamaForCausalLM does more between hidden states and logits"):
        model = LanguageModel(whole)
    input_ids = torch.tensor([[1, 2, 3]])
    torch.testing.assert_close(model(input_ids), whole(input_ids).logits)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({}, "must name its architecture, got no model_type"),
        ({"model_type": "lama"}, "must be an architecture that transformers knows, got 'lama'"),
        ({"model_type": "llama", "hiden_size": 3}, "got hiden_size: did you mean hidden_size"),
    ],
)
def test_bad_configs_name_the_setting(config: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_causal_lm(config)


def test_a_folder_without_a_model_is_an_error(tmp_path: object) -> None:
    with pytest.raises(FileNotFoundError, match=r"the folder exists.*Set model.teacher.init_args.model"):
        load_causal_lm(str(tmp_path), "auto", "model.teacher.init_args.model")


def test_pretrained_weights_are_loaded_whatever_device_lightning_is_on(tmp_path: Path) -> None:
    """Lightning builds models inside a context of the device; transformers would place them there by itself."""
    model = build_causal_lm({**SMALL, "model_type": "llama"})
    model.save_pretrained(tmp_path)
    with torch.device("meta"):
        loaded = load_causal_lm(str(tmp_path), "auto", "model")
    for one, other in zip(loaded.parameters(), model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_student_has_a_config_or_a_model() -> None:
    with pytest.raises(ValueError, match="must have either a config or a model, got neither"):
        HFStudent()
    with pytest.raises(ValueError, match="got both"):
        HFStudent(config={}, model="x")


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_a_students_attention_is_the_one_set(attention: str) -> None:
    model = HFStudent(config={**SMALL, "model_type": "llama"}, attn_implementation=attention).build({})
    assert model.model.config._attn_implementation == attention


def test_the_data_fill_in_what_the_config_leaves_out() -> None:
    student = HFStudent(config={**SMALL, "model_type": "llama", "eos_token_id": 3})
    model = student.build({"vocab_size": 77, "eos_token_id": 5})
    assert (model.vocab_size, model.model.config.eos_token_id) == (50, 3)
