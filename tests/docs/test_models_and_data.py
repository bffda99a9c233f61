"""docs/models-and-data.md says what there is: each of its YAML blocks runs."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from transformers import AutoTokenizer

from pd_lightning import data, students, teachers
from pd_lightning.cli import main
from pd_lightning.store.manifest import read_manifest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "models-and-data.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```yaml\n(.*?)^```", PAGE, flags=re.DOTALL | re.MULTILINE)
FITS = [block for block in BLOCKS if block.startswith("model:")]
SOURCES = [block for block in BLOCKS if block.startswith("output_dir:")]
# The teacher of the tests is tiny: 2 layers of 32 channels, 2 heads.
SMALLER = {
    "layers: 16 ": "layers: 1 ",
    "2048": "16",
    "6144": "24",
    "num_attention_heads: 16\n": "num_attention_heads: 2\n",
    "hidden_size: 1024": "hidden_size: 32",
    "intermediate_size: 3072": "intermediate_size: 32",
    "num_hidden_layers: 28": "num_hidden_layers: 1",
}


def name(block: str) -> str:
    """The last class in it, with what sets it apart."""
    found = re.findall(r"pd_lightning\.\w+\.(\w+)", block)
    return found[-1] if found[0] != "TeacherEnsemble" else found[0]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, teacher_dir: Path, blocks: Path) -> Path:
    monkeypatch.chdir(tmp_path)
    for path in ("runs/teacher", "runs/code-teacher"):
        shutil.copytree(teacher_dir, path)
    base: dict[str, Any] = {
        "model": {"student": None, "teacher": {"class_path": "pd_lightning.teachers.NoTeacher"}},
        "data": {"class_path": "pd_lightning.data.TokenBlocks", "init_args": {"path": str(blocks), "batch_size": 2}},
        "trainer": {"accelerator": "cpu", "max_steps": 1, "default_root_dir": "runs/student", "limit_val_batches": 0},
    }
    config = {"model_type": "llama", "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    config |= {"num_attention_heads": 2, "max_position_embeddings": 32}
    base["model"]["student"] = {"class_path": "pd_lightning.students.HFStudent", "init_args": {"config": config}}
    base["trainer"] |= {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    Path("base.yaml").write_text(yaml.safe_dump(base))
    return tmp_path


@pytest.mark.parametrize("block", [block for block in FITS if "gguf" not in block], ids=name)
@pytest.mark.filterwarnings("ignore:.*no effect with NoTeacher")
def test_its_models_are_trained(folder: Path, block: str) -> None:
    if "quantization" in block:
        pytest.importorskip("torchao")
    for large, small in SMALLER.items():
        block = block.replace(large, small)
    Path("overlay.yaml").write_text(block)
    overlays = ["--config", "base.yaml", "--config", "overlay.yaml"]
    # A class of the overlay starts from its own defaults.
    assert main(["fit", *overlays]) == 0
    path = next(Path("runs/student/checkpoints").glob("*.ckpt"))
    saved = torch.load(path, weights_only=True)["pd_lightning"]
    expected = yaml.safe_load(block)["model"]
    kind = expected.get("teacher", {}).get("class_path", "x.NoTeacher").rpartition(".")[2]
    assert saved["teacher"]["kind"] == kind
    if "PrunedStudent" in block:
        assert (saved["student_config"]["num_hidden_layers"], saved["student_config"]["hidden_size"]) == (1, 16)


def test_the_way_of_minitron(folder: Path) -> None:
    """What configs/recipes/minitron.yaml says of the student."""
    text = (ROOT / "configs" / "recipes" / "minitron.yaml").read_text(encoding="utf-8")
    settings = re.findall(r"--model\.student\S*", text)
    assert settings[0] == "--model.student=PrunedStudent"
    settings = [setting.replace("runs/demo/teacher/export", "runs/teacher").replace("=2", "=1") for setting in settings]
    teacher = "--model.teacher.model=runs/teacher"
    recipe = str(ROOT / "configs" / "recipes" / "minitron.yaml")
    assert main(["fit", "--config", "base.yaml", "--config", recipe, *settings, teacher]) == 0
    path = next(Path("runs/student/checkpoints").glob("*.ckpt"))
    assert torch.load(path, weights_only=True)["pd_lightning"]["student_config"]["num_hidden_layers"] == 1


def test_its_gguf_is_a_setting() -> None:
    """tests/language_model/test_pretrained.py reads such files."""
    (block,) = [block for block in FITS if "gguf" in block]
    settings = yaml.safe_load(block)["model"]["student"]
    assert students.HFStudent(**settings["init_args"]).gguf_file == "model-Q8_0.gguf"


@pytest.mark.parametrize("block", SOURCES, ids=name)
def test_its_sources_are_classes_with_these_settings(block: str) -> None:
    """tests/data/ reads such files."""
    settings = yaml.safe_load(block)
    module, _, class_name = settings["source"]["class_path"].rpartition(".")
    assert module == "pd_lightning.data"
    assert issubclass(getattr(data, class_name), data.Source)
    assert repr(getattr(data, class_name)(**settings["source"]["init_args"])).startswith(class_name)


def test_a_text_and_its_ids_become_blocks(folder: Path, tiny: Any) -> None:
    """The page's own commands, from nanoGPT's file and from JSON lines, give the same blocks."""
    tokenizer = AutoTokenizer.from_pretrained("runs/teacher")
    texts = [f"text number {number}, and so on. " * 100 for number in range(9)]
    stream = [token for text in texts for token in [*tokenizer(text).input_ids, tokenizer.eos_token_id]]
    Path("raw/nano").mkdir(parents=True)
    np.array(stream, "<u2").tofile("raw/nano/train.bin")
    Path("raw/text.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    found = []
    for class_name in ("JSONLines", "NanoGPT"):
        (block,) = [block for block in SOURCES if name(block) == class_name]
        Path("tokenize.yaml").write_text(block)
        output = f"runs/{class_name}"
        assert main(["tokenize", "--config", "tokenize.yaml", "--val_fraction=0", f"--output_dir={output}"]) == 0
        manifest = read_manifest(output)
        assert manifest.block_size == 1024
        found.append(manifest.splits["train"])
    assert found[0].num_blocks == (len(stream) - 1) // 1024 > 0
    assert found[0].extra == found[1].extra


def test_every_class_stands_on_the_page() -> None:
    abstract = {"Student", "Teacher", "Surroundings", "Source", "TokenSource", "Document", "StandardLibrary"}
    there = {*students.__all__, *teachers.__all__, *data.__all__} - abstract - {"MixedIn", "TokenBlocks"}
    assert {name for name in there if not re.search(rf"\b{name}\b", PAGE)} == set()
