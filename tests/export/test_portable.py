import json
import stat
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from pd_lightning.export.portable import make_portable
from pd_lightning.language_model import build_causal_lm

LLAMA3 = {"rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
LLAMA3 |= {"original_max_position_embeddings": 8}
PARTIAL = {"rope_type": "default", "partial_rotary_factor": 0.5}
IDS = torch.arange(20)[None]


def saved(folder: Path, config: dict[str, Any], rope: dict[str, Any], blocks: Path) -> Any:
    """A folder as transformers writes it, with a card; gives the model."""
    model: Any = build_causal_lm({**config, "vocab_size": 300, "initializer_range": 0.3, "rope_parameters": rope})
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(blocks / "tokenizer").save_pretrained(folder)
    (folder / "README.md").write_text("card")
    return model.eval()


@pytest.mark.parametrize(
    ("model_type", "rope", "old"),
    [
        ("llama", {"rope_type": "default"}, {}),
        ("llama", LLAMA3, {"rope_scaling": LLAMA3}),
        ("glm", PARTIAL, {"partial_rotary_factor": 0.5}),
    ],
)
def test_positions_are_there_in_the_fields_of_transformers_4(
    tmp_path: Path, tiny: Any, blocks: Path, model_type: str, rope: dict[str, Any], old: dict[str, Any]
) -> None:
    rope = {**rope, "rope_theta": 500.0}
    config = {**tiny.config, "model_type": model_type, "head_dim": 16, "pad_token_id": 0}
    model = saved(tmp_path, config, rope, blocks)
    before = AutoConfig.from_pretrained(tmp_path).to_dict()
    make_portable(tmp_path)
    fields = json.loads((tmp_path / "config.json").read_text())
    names = {"rope_theta", "rope_scaling", "partial_rotary_factor"}
    assert {name: fields[name] for name in names & fields.keys()} == {"rope_theta": 500.0, **old}
    # transformers 5 reads what it read before.
    assert AutoConfig.from_pretrained(tmp_path).rope_parameters == before["rope_parameters"]
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert torch.equal(loaded(IDS).logits, model(IDS).logits)


def test_positions_that_differ_by_layer_stay_as_they_are(tmp_path: Path, tiny: Any, blocks: Path) -> None:
    rope = {kind: {"rope_type": "default", "rope_theta": 500.0} for kind in ("full_attention", "sliding_attention")}
    config = {**tiny.config, "model_type": "gemma3_text", "layer_types": list(rope), "head_dim": 16}
    saved(tmp_path, config, rope, blocks)
    before = json.loads((tmp_path / "config.json").read_text())
    make_portable(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text()) == before


def test_the_tokenizer_has_a_class_that_both_know(tmp_path: Path, tiny: Any, blocks: Path) -> None:
    saved(tmp_path, tiny.config, {"rope_type": "default", "rope_theta": 500.0}, blocks)
    before = AutoTokenizer.from_pretrained(tmp_path)
    make_portable(tmp_path)
    fields = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert fields["tokenizer_class"] == "PreTrainedTokenizerFast"
    after = AutoTokenizer.from_pretrained(tmp_path)
    assert after.eos_token_id == before.eos_token_id
    assert after("def f(é):").input_ids == before("def f(é):").input_ids


def test_whoever_may_read_the_card_may_read_the_weights(tmp_path: Path, tiny: Any, blocks: Path) -> None:
    saved(tmp_path, tiny.config, {"rope_type": "default", "rope_theta": 500.0}, blocks)
    (tmp_path / "README.md").chmod(0o640)
    make_portable(tmp_path)
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {0o640}
