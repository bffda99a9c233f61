import json
import math
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch.nn import functional as F
from transformers import AutoModelForCausalLM

from pd_lightning.cli import main
from pd_lightning.comparison import model_figures
from pd_lightning.comparison.model_figures import Measurement
from pd_lightning.data import TokenBlocks
from pd_lightning.module import DistillationModule
from pd_lightning.store.reader import BlockReader
from pd_lightning.students import HFStudent
from pd_lightning.teachers import OfflineTeacher


@pytest.fixture(autouse=True)
def _no_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PD_LIGHTNING_TRACEBACK", raising=False)


@pytest.fixture
def run_folder(tmp_path: Path, tiny: Any, truncated_store: Path) -> Path:
    """The folder of a training of one step, of a student half as deep as the teacher."""
    folder = tmp_path / "run"
    module = DistillationModule(HFStudent(config={**tiny.config, "num_hidden_layers": 1}), OfflineTeacher())
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "limit_val_batches": 0}
    trainer = pl.Trainer(accelerator="cpu", max_steps=1, default_root_dir=folder, enable_checkpointing=False, **quiet)
    trainer.fit(module, TokenBlocks(str(truncated_store), batch_size=4))
    trainer.save_checkpoint(folder / "checkpoints" / "last.ckpt")
    return folder


def parameters(config: dict[str, Any], layers: int, vocab_size: int) -> dict[str, int]:
    """Of a Llama with an output layer of its own, from its architecture."""
    D, ffn = config["hidden_size"], config["intermediate_size"]
    kv = D // config["num_attention_heads"] * config["num_key_value_heads"]
    layer = 2 * D * D + 2 * D * kv + 3 * D * ffn + 2 * D
    inner = layers * layer + D
    return {"parameters": inner + 2 * vocab_size * D, "non_embedding_parameters": inner}


def test_a_run_beside_its_teacher(
    tmp_path: Path, tiny: Any, run_folder: Path, teacher_dir: Path, blocks: Path, capsys: pytest.CaptureFixture
) -> None:
    target = tmp_path / "new" / "compare.json"
    settings = ["--prompt_tokens=8", "--new_tokens=6", "--batch_sizes=[1,3]", "--repeats=2", "--device=cpu"]
    settings += [f"--output_path={target}", f"--blocks={blocks}", "--num_blocks=5"]
    assert main(["compare", str(run_folder), str(teacher_dir), *settings]) == 0
    out = capsys.readouterr().out
    assert "non-embedding parameters" in out
    report = json.loads(target.read_text())
    assert report["machine"].keys() == {"cpu", "cores", "threads", "system", "torch", "transformers"}
    assert report["machine"]["torch"] == torch.__version__
    assert report["machine"]["cpu"] in " ".join(out.split())
    for role, layers in (("student", 1), ("teacher", 2)):
        figures = report[role]
        assert parameters(tiny.config, layers, tiny.vocab_size).items() <= figures.items()
        assert f"{figures['parameters']:,}" in out
        assert [run["batch_size"] for run in figures["generation"]] == [1, 3]
        for generation in figures["generation"]:
            assert generation.keys() == {
                "batch_size",
                "prefill_tokens_per_second",
                "decode_tokens_per_second",
                "peak_memory_mb",
            }
            assert min(generation.values()) > 0
        assert figures["peak_process_memory_mb"] > figures["generation"][0]["peak_memory_mb"]
    assert report["teacher"]["disk_mb"] == (teacher_dir / "model.safetensors").stat().st_size / 1e6
    assert report["teacher"]["disk_mb"] > report["student"]["disk_mb"] > 0
    assert report["teacher"]["dtype"] == "float32"
    assert report["teacher"]["perplexity"] == pytest.approx(perplexity(teacher_dir, blocks, 5), rel=1e-5)
    assert report["student"]["perplexity"] == pytest.approx(tiny.vocab_size, rel=0.2)  # it knows next to nothing


def perplexity(folder: Path, blocks: Path, num_blocks: int) -> float:
    model = AutoModelForCausalLM.from_pretrained(folder).double().eval()
    reader = BlockReader(blocks, "val")
    rows = torch.stack([torch.from_numpy(reader[index]["block"]) for index in range(num_blocks)])
    with torch.no_grad():
        logits = model(rows[:, :-1]).logits
    return math.exp(F.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten()))


def test_what_can_t_be_loaded_is_told(tmp_path: Path, teacher_dir: Path, capsys: pytest.CaptureFixture) -> None:
    shutil.copytree(teacher_dir, tmp_path / "torn")
    (tmp_path / "torn" / "model.safetensors").write_bytes(b"torn")
    lengths = ["--prompt_tokens=8", "--new_tokens=6"]
    assert main(["compare", str(tmp_path / "torn"), str(teacher_dir), *lengths]) == 1
    error = capsys.readouterr().err
    assert "Traceback" not in error
    assert "student must be a causal language model that transformers loads and generates with, got " in error
    assert "torn, which ended in: " in error
    assert "Error" in error.partition("ended in: ")[2]


def test_a_module_of_one_s_own_does_not_generate(
    tmp_path: Path, teacher_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "mine.ckpt").touch()
    monkeypatch.setattr("pd_lightning.export.export", lambda ckpt_path, output_dir: Path(output_dir).mkdir())
    assert main(["compare", str(tmp_path / "mine.ckpt"), str(teacher_dir)]) == 1
    assert "student must be a Hugging Face model to generate with" in capsys.readouterr().err


def test_generation_is_of_the_lengths_asked_for(teacher_dir: Path) -> None:
    """Whatever the model would rather say: the end of text as well."""
    model: Any = AutoModelForCausalLM.from_pretrained(teacher_dir).eval()
    with torch.no_grad():  # of equal logits, greedy generation takes the first id, which is the end of text
        model.lm_head.weight.zero_()
    model.generation_config.eos_token_id = 0
    lengths: list[tuple[int, ...]] = []
    forward = model.forward
    model.forward = lambda *args, **kwargs: (lengths.append(tuple(kwargs["input_ids"].shape)), forward(**kwargs))[1]
    what = Measurement(str(teacher_dir), 5, 7, (2,), 1, "auto", "cpu", None, 1)
    prefill, decode = model_figures._generate(model, what, 2)
    assert lengths == [(2, 5), *[(2, 1)] * 6]
    assert min(prefill, decode) > 0


# In a process of its own, as figures are made: of a large one, pages of long ago come back at any time.
PEAKS = """
from pd_lightning.comparison.model_figures import _forget_peak, _memory
before = _memory("cpu")
large = bytearray(200 * 2**20)
at_most = _memory("cpu", peak=True)
del large
_forget_peak("cpu")
print(before, at_most, _memory("cpu", peak=True))
"""


def test_the_peak_is_that_of_generating() -> None:
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("the system does not tell")
    done = subprocess.run([sys.executable, "-c", PEAKS], capture_output=True, text=True, check=True)
    before, at_most, after = map(int, done.stdout.split())
    assert at_most - before > 150 * 2**20
    assert after - before < 100 * 2**20
