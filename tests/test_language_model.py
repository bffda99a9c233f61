from pathlib import Path

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


@pytest.mark.parametrize(
    "settings",
    [
        {"model_type": "llama"},
        {"model_type": "qwen3", "head_dim": 8},
        {"model_type": "gemma2", "head_dim": 8, "final_logit_softcapping": 2.0},
        {"model_type": "cohere", "logit_scale": 0.3},
        {"model_type": "granite", "logits_scaling": 3.0},
    ],
    ids=lambda settings: settings["model_type"],
)
def test_the_two_halves_give_the_logits_of_the_whole(settings: dict) -> None:
    torch.manual_seed(0)
    whole = build_causal_lm({**SMALL, "initializer_range": 0.5, **settings}).eval()
    model = LanguageModel(whole)
    input_ids = torch.randint(0, 50, (2, 7))
    hidden = model.hidden(input_ids)
    assert hidden.shape == (2, 7, 32)
    assert torch.equal(model.head(hidden), whole(input_ids).logits)
    assert model.vocab_size == 50


class Bigram(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(9, 9)

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        return self.table(input_ids)


def test_any_module_from_ids_to_logits_will_do() -> None:
    module = Bigram()
    model = LanguageModel(module)
    input_ids = torch.tensor([[1, 2, 3]])
    assert torch.equal(model(input_ids), module(input_ids))
    assert (model.vocab_size, model.context_length, model.config()) == (None, None, None)


def test_a_model_that_does_more_than_its_head_is_not_split() -> None:
    whole = build_causal_lm({**SMALL, "model_type": "llama"})
    forward = whole.forward

    def with_bias(*args: object, **kwargs: object) -> object:
        output = forward(*args, **kwargs)
        output.logits = output.logits + 1.0
        return output

    whole.forward = with_bias  # type: ignore[method-assign]
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


def test_the_data_fill_in_what_the_config_leaves_out() -> None:
    student = HFStudent(config={**SMALL, "model_type": "llama", "eos_token_id": 3})
    model = student.build({"vocab_size": 77, "eos_token_id": 5})
    assert (model.vocab_size, model.model.config.eos_token_id) == (50, 3)
