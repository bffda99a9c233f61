"""Models out of GGUF files, which are written here as llama.cpp's converter does."""

import json
import warnings
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
import transformers
from torch import Tensor
from transformers import AutoModelForCausalLM

from pd_lightning.data import TokenBlocks
from pd_lightning.export import export
from pd_lightning.language_model import build_causal_lm, pretrained
from pd_lightning.module import DistillationModule
from pd_lightning.students import HFStudent, PrunedStudent
from pd_lightning.teachers import FrozenTeacher, Surroundings

gguf = pytest.importorskip("gguf")
pytest.importorskip("accelerate")

IDS = torch.arange(20).view(2, 10)
NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
}


def llama_cpp_name(name: str) -> str:
    stem = name.removesuffix(".weight")
    if not stem.startswith("model.layers."):
        return f"{NAMES[stem]}.weight"
    number, part = stem.removeprefix("model.layers.").split(".", 1)
    return f"blk.{number}.{NAMES[part]}.weight"


def interleaved(weight: np.ndarray, heads: int) -> np.ndarray:
    """The two halves of each head that are rotated together, side by side."""
    halves = weight.reshape(heads, 2, -1, weight.shape[-1])
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(weight.shape))


def write(path: Path, model: Any, kind: str, tokenizer: Path) -> None:
    config, quantized = model.config, gguf.GGMLQuantizationType[kind]
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_vocab_size(config.vocab_size)
    described = json.loads((tokenizer / "tokenizer.json").read_text())["model"]
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(sorted(described["vocab"], key=described["vocab"].__getitem__))
    writer.add_token_types([3] + [1] * (config.vocab_size - 1))  # end-of-text is a token of control
    writer.add_token_merges([" ".join(pair) for pair in described["merges"]])
    writer.add_eos_token_id(0)
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    for name, tensor in model.state_dict().items():
        weight = tensor.numpy()
        part = name.split(".")[-2]
        weight = interleaved(weight, heads[part]) if part in heads else weight
        form = quantized if weight.ndim == 2 else gguf.GGMLQuantizationType.F32
        writer.add_tensor(llama_cpp_name(name), gguf.quants.quantize(weight, form), raw_dtype=form)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture(scope="module")
def source() -> Any:
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "max_position_embeddings": 64}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "initializer_range": 0.1}
    return build_causal_lm({"model_type": "llama", "vocab_size": 300, **sizes, **heads}).eval()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, source: Any, blocks: Path) -> Path:
    folder = tmp_path_factory.mktemp("gguf")
    for kind in ("F32", "F16", "Q8_0"):
        write(folder / f"{kind}.gguf", source, kind, blocks / "tokenizer")
    return folder


def logits(model: Any) -> Tensor:
    with torch.no_grad():
        found = model.eval()(IDS)
    return found if isinstance(found, Tensor) else found.logits


def half_a_step(weight: Tensor, kind: str) -> Tensor:
    """How far a weight may be from what is written of it: Q8_0 has a 127th of the largest of 32 as its step."""
    if kind == "F32":
        return torch.zeros_like(weight)
    if kind == "F16":
        return weight.abs() * 2**-11 + 2**-25
    step = weight.view(-1, 32).abs().amax(dim=-1, keepdim=True) / 127
    return (0.501 * step).expand(-1, 32).reshape(weight.shape) + weight.abs() * 2**-10  # its step is a float16


@pytest.mark.parametrize(("kind", "largest"), [("F32", 0.0), ("F16", 0.01), ("Q8_0", 0.15)])
def test_a_gguf_file_gives_the_models_weights_and_logits(folder: Path, source: Any, kind: str, largest: float) -> None:
    student = HFStudent(model=str(folder), gguf_file=f"{kind}.gguf").build({})
    own, read = source.state_dict(), student.model.state_dict()
    assert own.keys() == read.keys()
    for name, weight in own.items():
        bound = half_a_step(weight, kind if weight.ndim == 2 else "F32")
        assert bool(((weight - read[name]).abs() <= bound).all()), name
    difference = float((logits(student) - logits(source)).abs().max())
    assert difference <= largest < float(logits(source).std())
    assert (difference > 0) == (kind != "F32")
    assert all(p.requires_grad and p.dtype == torch.float32 for p in student.parameters())
    assert "quantization_config" not in (student.config() or {})


def test_teachers_and_pruned_students_read_them_too(folder: Path, source: Any, blocks: Path) -> None:
    teacher = FrozenTeacher(str(folder), gguf_file="Q8_0.gguf")
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # that the tokenizer in the file is not checked, say
        teacher.setup(Surroundings(torch.device("cpu"), tokenizer_dir=blocks / "tokenizer"))
    found = teacher({"input_ids": IDS}).rows(slice(None)).logprobs
    expected = logits(source).flatten(0, 1).log_softmax(-1)
    torch.testing.assert_close(found, expected, rtol=0, atol=0.15)
    assert teacher.describe()["gguf_file"] == "Q8_0.gguf"
    student = PrunedStudent(str(folder), layers=[1], gguf_file="F32.gguf").build({})
    assert torch.equal(student.model.model.layers[0].mlp.up_proj.weight, source.model.layers[1].mlp.up_proj.weight)
    assert (student.config() or {})["num_hidden_layers"] == 1


LFM2 = [
    ("model.layers.", "blk."),
    ("model.embed_tokens.", "token_embd."),
    ("model.embedding_norm.", "token_embd_norm."),
    ("lm_head.", "output."),
    ("operator_norm", "attn_norm"),
    ("feed_forward.w1", "ffn_gate"),
    ("feed_forward.w2", "ffn_down"),
    ("feed_forward.w3", "ffn_up"),
    ("self_attn.q_proj", "attn_q"),
    ("self_attn.k_proj", "attn_k"),
    ("self_attn.v_proj", "attn_v"),
    ("self_attn.out_proj", "attn_output"),
    ("self_attn.q_layernorm", "attn_q_norm"),
    ("self_attn.k_layernorm", "attn_k_norm"),
    (".conv.", ".shortconv."),
]


def test_weights_that_transformers_would_leave_packed_are_dense(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """LFM2 is among those that newer versions run in GGUF's own blocks, if they are not told otherwise."""
    if not hasattr(transformers, "GgufConfig"):
        pytest.skip("this version of transformers makes all dense")
    monkeypatch.setattr("transformers.quantizers.quantizer_gguf.get_gguf_kernel", None)  # which come from the hub
    torch.manual_seed(0)
    sizes = {"vocab_size": 300, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2}
    kinds = {"layer_types": ["conv", "full_attention"], "block_auto_adjust_ff_dim": False, "initializer_range": 0.1}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64}
    model: Any = build_causal_lm({"model_type": "lfm2", **sizes, **kinds, **heads}).eval()
    writer = gguf.GGUFWriter(str(tmp_path / "lfm2.gguf"), "lfm2")
    writer.add_context_length(64)
    writer.add_embedding_length(64)
    writer.add_block_count(2)
    writer.add_feed_forward_length(96)
    writer.add_head_count(4)
    writer.add_head_count_kv([0, 2])
    writer.add_layer_norm_rms_eps(model.config.norm_eps)
    writer.add_rope_freq_base(model.config.rope_parameters["rope_theta"])
    writer.add_uint32("lfm2.shortconv.l_cache", model.config.conv_L_cache)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list([f"t{number}" for number in range(300)])
    for name, tensor in model.state_dict().items():
        there = name
        for ours, theirs in LFM2:
            there = there.replace(ours, theirs)
        weight = tensor.numpy().squeeze(1) if there.endswith("shortconv.conv.weight") else tensor.numpy()
        packed = weight.ndim == 2 and weight.shape[1] % 32 == 0
        form = gguf.GGMLQuantizationType["Q8_0" if packed else "F32"]
        writer.add_tensor(there, gguf.quants.quantize(weight, form), raw_dtype=form)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    student = HFStudent(model=str(tmp_path), gguf_file="lfm2.gguf").build({})
    assert all(p.dtype == torch.float32 and p.requires_grad for p in student.parameters())
    assert 0 < float((logits(student) - logits(model)).abs().max()) < 0.15
    config = student.config() or {}
    assert "quantization_config" not in config
    config.pop("transformers_version")
    again = build_causal_lm(config)
    again.load_state_dict(student.model.state_dict())
    assert torch.equal(logits(again), logits(student))


def test_a_student_from_a_gguf_file_is_trained_and_exported(folder: Path, blocks: Path, tmp_path: Path) -> None:
    module = DistillationModule(HFStudent(model=str(folder), gguf_file="Q8_0.gguf"))
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "limit_val_batches": 0}
    trainer = pl.Trainer(accelerator="cpu", max_steps=2, enable_checkpointing=False, **quiet)
    trainer.fit(module, TokenBlocks(str(blocks), batch_size=2))
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    export(str(tmp_path / "last.ckpt"), str(tmp_path / "out"))
    exported = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert torch.equal(logits(exported), logits(module.student))
    before = HFStudent(model=str(folder), gguf_file="Q8_0.gguf").build({})
    assert not torch.equal(logits(before), logits(module.student))


def test_mistakes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FileNotFoundError, match=r"must name a file in .*, got .none\.gguf.*init_args\.gguf_file"):
        HFStudent(model=str(folder), gguf_file="none.gguf").build({})
    with pytest.raises(
        ValueError, match=r"gguf_file must name a file of a pretrained model, got 'F32\.gguf' without a"
    ):
        HFStudent(config={"model_type": "llama"}, gguf_file="F32.gguf")
    (folder / "torn.gguf").write_bytes((folder / "F32.gguf").read_bytes()[:3000])
    with pytest.raises((ValueError, FileNotFoundError), match=r"must .*torn\.gguf.*Set model\.student\.init_args\."):
        HFStudent(model=str(folder), gguf_file="torn.gguf").build({})
    (folder / "text.gguf").write_text("no model")
    with pytest.raises((ValueError, FileNotFoundError), match=r"must .*text\.gguf.*Set model\.student\.init_args\."):
        HFStudent(model=str(folder), gguf_file="text.gguf").build({})
    monkeypatch.setattr(pretrained, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"got no gguf and no accelerate\. Install .*model\.teacher\.init_args\.gg"):
        FrozenTeacher(str(folder), gguf_file="F32.gguf").setup(Surroundings(torch.device("cpu")))
