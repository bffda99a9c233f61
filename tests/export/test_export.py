from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
import yaml
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer

from pd_lightning.data import TokenBlocks
from pd_lightning.export import export, load_student
from pd_lightning.export.model_card import model_card
from pd_lightning.module import DistillationModule
from pd_lightning.students import HFStudent
from pd_lightning.teachers import OfflineTeacher

IDS = torch.arange(30).view(2, 15)


def trained(folder: Path, student: Any, store: Path) -> DistillationModule:
    module = DistillationModule(student, OfflineTeacher())
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "limit_val_batches": 0}
    trainer = pl.Trainer(accelerator="cpu", max_steps=2, default_root_dir=folder, enable_checkpointing=False, **quiet)
    trainer.fit(module, TokenBlocks(str(store), batch_size=4))
    trainer.save_checkpoint(folder / "checkpoints" / "last.ckpt")
    return module.eval()


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.usefixtures("offline")
def test_transformers_loads_the_export_and_gives_the_same_logits(
    tmp_path: Path, tiny: Any, truncated_store: Path, tied: bool
) -> None:
    module = trained(tmp_path, HFStudent(config={**tiny.config, "tie_word_embeddings": tied}), truncated_store)
    export(str(tmp_path / "checkpoints" / "last.ckpt"), str(tmp_path / "out"))
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert float((model(IDS).logits - module(IDS)).abs().max()) == 0
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    ours = AutoTokenizer.from_pretrained(truncated_store / "tokenizer")
    assert tokenizer("def f(x):").input_ids == ours("def f(x):").input_ids
    generated = model.generate(**tokenizer("def", return_tensors="pt"), max_new_tokens=3, do_sample=False)
    assert generated.shape[1] >= 2
    files = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"model.safetensors", "config.json", "generation_config.json", "tokenizer.json", "README.md"} <= files


def test_the_model_card_says_how_it_was_trained(tmp_path: Path, tiny: Any, truncated_store: Path) -> None:
    trained(tmp_path, HFStudent(config=tiny.config), truncated_store)
    export(str(tmp_path / "checkpoints" / "last.ckpt"), str(tmp_path / "my-model"), dtype="bfloat16")
    card = (tmp_path / "my-model" / "README.md").read_text()
    front_matter = yaml.safe_load(card.split("---")[1])
    assert front_matter["pipeline_tag"] == "text-generation"
    for text in ("# my-model", "| weights | bfloat16 |", "| training tokens | 128 |", "| optimizer steps | 2 |"):
        assert text in card
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "my-model").dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("metrics", "validated_at", "expected"),
    [
        ({"val/lm_loss": 2.5}, 40, "| val/lm_loss | 2.5000 |"),
        ({"val/lm_loss": 2.5}, 20, "| val/lm_loss at step 20 | 2.5000 |"),
        ({"val/lm_loss": 2.5}, None, "| val/lm_loss | 2.5000 |"),
        ({"train/loss": 2.5}, None, None),
    ],
)
def test_a_card_tells_of_which_step_its_figures_are(metrics: Any, validated_at: Any, expected: str | None) -> None:
    state = {"student_config": None, "teacher": None, "num_tokens": 1, "seed": 0, "metrics": metrics}
    checkpoint = {"global_step": 40, "pd_lightning": {**state, "validated_at": validated_at}}
    card = model_card(checkpoint, "name", "float32")
    assert ("in nats per token" in card) == (expected is not None)
    assert expected is None or expected in card


def test_a_checkpoint_tells_when_it_was_validated(tmp_path: Path, tiny: Any, truncated_store: Path) -> None:
    module = DistillationModule(HFStudent(config=tiny.config), OfflineTeacher())
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = pl.Trainer(accelerator="cpu", max_steps=3, val_check_interval=2, enable_checkpointing=False, **quiet)
    trainer.fit(module, TokenBlocks(str(truncated_store), batch_size=4))
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    state = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert (state["pd_lightning"]["validated_at"], state["global_step"]) == (2, 3)


class Bigram(nn.Module):
    def __init__(self, vocab_size: int, tie: bool = False) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, 8)
        self.out = nn.Linear(8, vocab_size, bias=False)
        if tie:
            self.out.weight = self.embedding.weight

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        return self.out(self.embedding(input_ids))


@pytest.mark.parametrize("tie", [False, True])
def test_a_student_of_the_users_own_is_exported_too(
    tmp_path: Path, truncated_store: Path, tie: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "my_model.py").write_text(Path(__file__).read_text())
    from my_model import Bigram as Importable  # type: ignore[import-not-found]

    module = trained(tmp_path, Importable(300, tie), truncated_store)
    student = {"class_path": "my_model.Bigram", "init_args": {"vocab_size": 300, "tie": tie}}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"model": {"student": student}}))
    export(str(tmp_path / "checkpoints" / "last.ckpt"), str(tmp_path / "out"))
    with pytest.raises(ValueError, match=r"student\.yaml names, got trust_remote_code false"):
        load_student(tmp_path / "out")
    loaded = load_student(tmp_path / "out", trust_remote_code=True)
    assert type(loaded).__name__ == "Bigram"
    assert torch.equal(loaded(IDS), module(IDS))


def test_overwriting_replaces_an_export_and_nothing_else(tmp_path: Path, tiny: Any, truncated_store: Path) -> None:
    trained(tmp_path / "run", HFStudent(config=tiny.config), truncated_store)
    checkpoint = str(tmp_path / "run" / "checkpoints" / "last.ckpt")
    for overwrite in (False, True):
        export(checkpoint, str(tmp_path / "out"), overwrite=overwrite)
    for folder in ("run", "run/checkpoints", "."):
        with pytest.raises(ValueError, match="--overwrite must find an earlier export"):
            export(checkpoint, str(tmp_path / folder), overwrite=True)
    assert Path(checkpoint).exists()


def test_mistakes(tmp_path: Path, tiny: Any, truncated_store: Path) -> None:
    with pytest.raises(
        FileNotFoundError, match=r"--ckpt_path must be a checkpoint file, got nothing.ckpt.*Set --ckpt_path"
    ):
        export("nothing.ckpt", str(tmp_path / "out"))
    (tmp_path / "torn.ckpt").write_bytes(b"PK torn")
    with pytest.raises(ValueError, match="ckpt_path must be a whole checkpoint"):
        export(str(tmp_path / "torn.ckpt"), str(tmp_path / "out"))
    torch.save({"pytorch-lightning_version": "2.6", "state_dict": {}}, tmp_path / "other.ckpt")
    with pytest.raises(ValueError, match="which is another module's"):
        export(str(tmp_path / "other.ckpt"), str(tmp_path / "out"))
    trained(tmp_path, HFStudent(config=tiny.config), truncated_store)
    (tmp_path / "there").mkdir()
    with pytest.raises(ValueError, match=r"output_dir must not exist yet.*--overwrite true"):
        export(str(tmp_path / "checkpoints" / "last.ckpt"), str(tmp_path / "there"))
    with pytest.raises(FileNotFoundError, match="tokenizer must be at hand, got '/no/such'"):
        export(str(tmp_path / "checkpoints" / "last.ckpt"), str(tmp_path / "out"), tokenizer="/no/such")
