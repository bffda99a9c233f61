"""docs/guards.md says what there is: its YAML runs, and its replay shows the loss again."""

import inspect
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from pd_lightning import callbacks
from pd_lightning.cli import main

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "guards.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```yaml\n(.*?)^```", PAGE, flags=re.DOTALL | re.MULTILINE)
FOLDER = "runs/demo/offline"


@pytest.fixture
def fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny: Any, truncated_store: Path) -> Any:
    """Run an offline distillation of a few steps, with overlays."""
    monkeypatch.chdir(tmp_path)
    settings = {
        "model": {
            "student": {"class_path": "pd_lightning.students.HFStudent", "init_args": {"config": tiny.config}},
            "teacher": {"class_path": "pd_lightning.teachers.OfflineTeacher"},
            "kd_weight": 0.5,
        },
        "data": {"class_path": "pd_lightning.data.TokenBlocks", "init_args": {"path": str(truncated_store)}},
        "trainer": {
            "accelerator": "cpu",
            "max_steps": 2,
            "default_root_dir": FOLDER,
            "enable_progress_bar": False,
            "limit_val_batches": 0,
        },
    }
    Path("base.yaml").write_text(yaml.safe_dump(settings))

    def fit(overlay: str) -> int:
        Path("overlay.yaml").write_text(overlay)
        return main(["fit", "--config", "base.yaml", "--config", "overlay.yaml"])

    return fit


@pytest.mark.parametrize("overlay", BLOCKS[:3], ids=["SkipNonFinite", "LossSpike", "StalledLoader"])
def test_its_yaml_runs(fit: Any, overlay: str) -> None:
    assert fit(overlay) == 0


def test_its_timeout_is_a_setting() -> None:
    from lightning.pytorch.cli import LightningArgumentParser
    from lightning.pytorch.strategies import DDPStrategy

    parser = LightningArgumentParser()
    parser.add_argument("--strategy", type=DDPStrategy)
    strategy = yaml.safe_load(BLOCKS[3])["trainer"]["strategy"]
    built = parser.instantiate_classes(parser.parse_object({"strategy": strategy})).strategy
    assert built._timeout.total_seconds() == 600


def test_defaults_are_those_of_the_page() -> None:
    for block in BLOCKS[1:3]:
        (entry,) = yaml.safe_load(block)["trainer"]["callbacks"]
        defaults = inspect.signature(getattr(callbacks, entry["class_path"].rpartition(".")[2])).parameters
        for name, value in entry["init_args"].items():
            assert defaults[name].default == value
    assert inspect.signature(callbacks.SkipNonFinite).parameters["patience"].default == 10


@pytest.mark.filterwarnings("ignore:step . is skipped")
def test_its_replay_shows_the_loss_again(fit: Any, capsys: pytest.CaptureFixture) -> None:
    # A learning rate that throws the weights out of all bounds in its first step.
    overlay = {
        "model": {"lr": 1e30},
        "trainer": {
            "max_steps": 9,
            "callbacks": [{"class_path": "pd_lightning.callbacks.SkipNonFinite", "init_args": {"patience": 4}}],
        },
    }
    assert fit(yaml.safe_dump(overlay)) == 1
    error = capsys.readouterr().err
    assert "Traceback" not in error
    assert "pd-lightning: error: training must have finite losses and gradients, got 4 steps in a row" in error
    assert f"{FOLDER}/non_finite/step=4 holds the step's batches" in error
    weights = torch.load(f"{FOLDER}/non_finite/step=4/weights.ckpt", weights_only=True)["state_dict"]
    assert all(tensor.isfinite().all() for tensor in weights.values())
    (snippet,) = re.findall(r"^```python\n(.*?)^```", PAGE, flags=re.DOTALL | re.MULTILINE)
    exec(compile(snippet, "guards.md", "exec"), {})
    found = json.loads(Path(f"{FOLDER}/non_finite/step=4/rank=0.json").read_text())["not_finite"]
    printed = re.findall(r"'train/(\w+)': (\S+)[,}]", capsys.readouterr().out)
    shown = {name for name, value in printed if value in ("nan", "inf")}
    assert len(printed) == 2
    assert {"loss": "loss", "gradient": "grad_norm"}[found[-1]] in shown


def test_every_heading_is_in_the_contents() -> None:
    headings = re.findall(r"^## (.*)$", PAGE, flags=re.MULTILINE)
    links = re.findall(r"^- \[(.*)\]\(#(.*)\)$", PAGE, flags=re.MULTILINE)
    assert links == [(title, title.lower().replace(" ", "-")) for title in headings]
