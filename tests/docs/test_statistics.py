"""docs/statistics.md says what there is: its YAML and its Python run, and what they log is in its tables.

Its tables of statistics: tests/callbacks/test_logits_statistics.py.
"""

import csv
import inspect
import re
from pathlib import Path
from typing import Any

import lightning
import lightning.pytorch as pl
import pytest
import torch
import yaml
from torch import Tensor, nn
from torch.nn import functional as F

from pd_lightning import callbacks
from pd_lightning.cli import main
from pd_lightning.data import TokenBlocks
from pd_lightning.language_model import build_causal_lm
from pd_lightning.loggers import MetricsCSV

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "statistics.md").read_text(encoding="utf-8")
OVERLAYS = [yaml.safe_load(text) for text in re.findall(r"^```yaml\n(.*?)^```", PAGE, flags=re.DOTALL | re.MULTILINE)]
(SNIPPET,) = re.findall(r"^```python\n(.*?)^```", PAGE, flags=re.DOTALL | re.MULTILINE)
BOTH, PEAK = (overlay["trainer"]["callbacks"] for overlay in OVERLAYS)


@pytest.fixture
def fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny: Any, blocks: Path, teacher_dir: Path) -> Any:
    """Run a distillation of a few steps with an overlay; gives the names that it logged."""
    monkeypatch.chdir(tmp_path)
    settings = {
        "model": {
            "student": {"class_path": "pd_lightning.students.HFStudent", "init_args": {"config": tiny.config}},
            "teacher": {
                "class_path": "pd_lightning.teachers.FrozenTeacher",
                "init_args": {"model": str(teacher_dir)},
            },
        },
        "data": {
            "class_path": "pd_lightning.data.TokenBlocks",
            "init_args": {"path": str(blocks), "batch_size": 4, "max_val_blocks": 8},
        },
        "trainer": {
            "accelerator": "cpu",
            "max_steps": 2,
            "val_check_interval": 2,
            "check_val_every_n_epoch": None,
            "log_every_n_steps": 1,
            "default_root_dir": "run",
        },
    }
    Path("base.yaml").write_text(yaml.safe_dump(settings))

    def fit(overlay: Path) -> set[str]:
        assert main(["fit", "--config", "base.yaml", "--config", str(overlay)]) == 0
        with Path("run/logs/metrics.csv").open(newline="") as file:
            return set(next(csv.reader(file)))

    return fit


def test_its_yaml_runs_and_throughput_logs_what_the_table_says(fit: Any) -> None:
    overlay = {"trainer": {"callbacks": [BOTH[0], *PEAK]}}
    Path("overlay.yaml").write_text(yaml.safe_dump(overlay))
    names = fit(Path("overlay.yaml"))
    (table,) = re.findall(r"<!-- throughput -->\n(.*?)\n\n", PAGE, flags=re.DOTALL)
    documented = set(re.findall(r"^\| `([^`]+)`", table, flags=re.MULTILINE))
    assert {name for name in names if name.startswith("throughput/")} == documented
    assert {"train_statistics/kl", "val_statistics/kl", "val_statistics/kd_loss_gap"} <= names


def test_the_overlay_runs(fit: Any) -> None:
    names = fit(ROOT / "configs" / "callbacks" / "statistics.yaml")
    assert {"train_statistics/kl", "throughput/tokens_per_second"} <= names
    assert "throughput/mfu" not in names
    assert list(Path("run/checkpoints").glob("best-*.ckpt"))


class Theirs(pl.LightningModule):
    """A LightningModule around a Hugging Face model, which knows nothing of us."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        self.model: nn.Module = build_causal_lm(config)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        logits = self.model(batch["input_ids"]).logits
        return F.cross_entropy(logits.flatten(0, 1), batch["labels"].flatten())

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_its_python_runs(
    tmp_path: Path, tiny: Any, blocks: Path, teacher_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logger = MetricsCSV(str(tmp_path))
    settings = {
        "accelerator": "cpu",
        "max_steps": 2,
        "log_every_n_steps": 1,
        "logger": logger,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "limit_val_batches": 0,
    }

    class Trainer(pl.Trainer):
        def __init__(self, **given: Any) -> None:
            super().__init__(**{**settings, **given})

    monkeypatch.setattr(lightning, "Trainer", Trainer)
    names: dict[str, Any] = {"lightning": lightning}
    exec(compile(SNIPPET.replace("path/to/teacher", str(teacher_dir)), "statistics.md", "exec"), names)
    module = Theirs({**tiny.config, "vocab_size": tiny.vocab_size})
    names["trainer"].fit(module, TokenBlocks(str(blocks), batch_size=4))
    logged = {name for row in logger.rows() for name in row}
    assert {"train_statistics/kl", "train_statistics/gradient_cosine", "throughput/tflops_per_device"} <= logged


def test_defaults_are_those_of_the_page() -> None:
    defaults = inspect.signature(callbacks.LogitsStatistics).parameters
    for name, value in BOTH[0]["init_args"].items():
        assert defaults[name].default == value


def test_every_heading_is_in_the_contents() -> None:
    headings = re.findall(r"^## (.*)$", PAGE, flags=re.MULTILINE)
    links = re.findall(r"^- \[(.*)\]\(#(.*)\)$", PAGE, flags=re.MULTILINE)
    assert links == [(title, title.lower().replace(" ", "-")) for title in headings]
