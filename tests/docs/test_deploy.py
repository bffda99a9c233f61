"""docs/deploy.md says what the benchmarks measured, and its Python runs."""

import importlib.util
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from pd_lightning.cli.command_line import COMMANDS
from pd_lightning.comparison.comparison import _rows

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "deploy.md").read_text(encoding="utf-8")
EXPORT = "runs/demo/offline/export"


def results(name: str) -> Any:
    return json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text(encoding="utf-8"))


def test_its_tables() -> None:
    report = results("compare")
    for (name, ours, form), (_, theirs, _) in zip(_rows(report["student"]), _rows(report["teacher"]), strict=True):
        assert f"| {name} | {ours:{form}} | {theirs:{form}} | {ours / theirs:.3f} |" in PAGE
    for name, row in results("int8")["rows"].items():
        assert f"| {name} | {row['mb']:.1f} | {row['tokens_per_second']:.1f} | {row['kl_nats']:.1e} |" in PAGE


@pytest.fixture
def export(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, teacher_dir: Path) -> None:
    """The folder that the page speaks of, in the working directory."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(teacher_dir, tmp_path / EXPORT)


def python(part: str) -> str:
    (found,) = [block for block in re.findall(r"^```python\n(.*?)^```", PAGE, flags=re.DOTALL | re.M) if part in block]
    return found


def divergence(model: Any) -> float:
    """Nats that its predictions are from those of the export."""
    ids = torch.arange(20)[None]
    with torch.no_grad():
        log_p = AutoModelForCausalLM.from_pretrained(EXPORT).eval()(ids).logits.log_softmax(-1)
        log_q = model.eval()(ids).logits.float().log_softmax(-1)
    return float((log_p.exp() * (log_p - log_q)).sum(-1).mean())


@pytest.mark.usefixtures("export")
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_torch_int8() -> None:
    names: dict[str, Any] = {}
    exec(compile(python("quantize_dynamic"), "deploy.md", "exec"), names)
    assert "Quantized" in type(names["model"].model.layers[0].mlp.up_proj).__module__ + repr(names["model"])
    assert 0 < divergence(names["model"]) < 0.02


@pytest.mark.usefixtures("export")
@pytest.mark.skipif(importlib.util.find_spec("torchao") is None, reason="torchao is not installed")
def test_torchao_int8_is_a_folder_like_any_other() -> None:
    exec(compile(python("torchao"), "deploy.md", "exec"), {})
    loaded = AutoModelForCausalLM.from_pretrained("runs/demo/offline/int8")
    assert 0 < divergence(loaded) < 0.02
    size = {name: Path(f"runs/demo/offline/{name}/model.safetensors").stat().st_size for name in ("export", "int8")}
    assert size["int8"] < size["export"]
    assert AutoTokenizer.from_pretrained("runs/demo/offline/int8").eos_token_id is not None


def test_its_commands_exist() -> None:
    commands = re.findall(r"^pd-lightning (\S+) .*", PAGE, flags=re.MULTILINE)
    assert {"compare", "export"} <= set(commands) <= COMMANDS.keys()


def test_every_heading_is_in_the_contents() -> None:
    headings = re.findall(r"^## (.*)$", PAGE, flags=re.MULTILINE)
    links = re.findall(r"^- \[(.*)\]\(#(.*)\)$", PAGE, flags=re.MULTILINE)
    assert links == [(title, title.lower().replace(" ", "-").replace(".", "")) for title in headings]
