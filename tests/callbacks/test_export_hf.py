"""Exports amid training: what `pd-lightning export` writes, of the same training."""

import shutil
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
import yaml
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import AutoModelForCausalLM, AutoTokenizer

from pd_lightning.callbacks import ExportHF
from pd_lightning.data import TokenBlocks
from pd_lightning.export import export, load_student
from pd_lightning.language_model import LanguageModel, build_causal_lm
from pd_lightning.module import DistillationModule
from pd_lightning.students import HFStudent
from pd_lightning.teachers import FrozenTeacher


def fit(module: pl.LightningModule, data: Any, *callbacks: pl.Callback, steps: int = 4, **settings: Any) -> pl.Trainer:
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    quiet |= {"logger": False, "limit_val_batches": 0}
    trainer = pl.Trainer(accelerator="cpu", max_steps=steps, callbacks=list(callbacks), **{**quiet, **settings})
    trainer.fit(module, data)
    return trainer


def test_an_export_is_that_of_the_checkpoint_of_its_step(
    tmp_path: Path, tiny: Any, blocks: Path, teacher_dir: Path
) -> None:
    module = DistillationModule(
        HFStudent(config={**tiny.config, "tie_word_embeddings": True}), FrozenTeacher(str(teacher_dir))
    )
    trainer = fit(module, TokenBlocks(str(blocks)), ExportHF(every_n_steps=2), steps=5, default_root_dir=tmp_path)
    exports = tmp_path / "exports"
    assert sorted(path.name for path in exports.iterdir()) == ["step-00000002", "step-00000004", "step-00000005"]
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    export(str(tmp_path / "last.ckpt"), str(tmp_path / "step-00000005"))
    names = {path.name for path in (tmp_path / "step-00000005").iterdir()}
    assert names == {path.name for path in (exports / "step-00000005").iterdir()}
    for name in names:
        ours, theirs = (folder / "step-00000005" / name for folder in (exports, tmp_path))
        assert ours.read_bytes() == theirs.read_bytes(), name
    model = AutoModelForCausalLM.from_pretrained(exports / "step-00000002")
    inputs = AutoTokenizer.from_pretrained(exports / "step-00000002")("def", return_tensors="pt")
    assert model.generate(**inputs, max_new_tokens=3, do_sample=False).shape[1] >= 2
    with torch.no_grad():
        last = AutoModelForCausalLM.from_pretrained(exports / "step-00000005")
        assert torch.equal(last(**inputs).logits, module.eval()(inputs["input_ids"]))


class Foreign(pl.LightningModule):
    """Other people's module around a Hugging Face model, that draws from the global random state."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.losses: list[float] = []

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        loss = self.model(batch, labels=batch).loss
        self.losses.append(loss.item())
        return loss

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.5)


def foreign(tiny: Any) -> Foreign:
    torch.manual_seed(0)
    return Foreign(build_causal_lm({**tiny.config, "vocab_size": 300, "attention_dropout": 0.3}))


def test_other_peoples_model_too_and_their_training_is_the_same(tmp_path: Path, tiny: Any, blocks: Path) -> None:
    data = torch.randint(0, 300, (32, 9), generator=torch.Generator().manual_seed(0))
    runs = []
    callback = ExportHF(
        str(tmp_path / "out"), 1, keep=2, dtype="bfloat16", module="model", tokenizer=str(blocks / "tokenizer")
    )
    for callbacks in ([], [callback]):
        module = foreign(tiny)
        pl.seed_everything(1, verbose=False)
        fit(module, DataLoader(data, batch_size=4, shuffle=True), *callbacks, default_root_dir=tmp_path)
        runs.append(module)
    assert runs[0].losses == runs[1].losses
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["step-00000003", "step-00000004"]
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out" / "step-00000004")
    for one, other in zip(loaded.parameters(), runs[1].model.parameters(), strict=True):
        assert torch.equal(one, other.to(torch.bfloat16))
    card = (tmp_path / "out" / "step-00000004" / "README.md").read_text()
    assert "| optimizer steps | 4 |" in card
    assert "None" not in card


def test_a_run_that_goes_on_keeps_what_it_wrote_last(tmp_path: Path, tiny: Any, blocks: Path) -> None:
    """And nothing is removed that is no export of ours."""
    (tmp_path / "exports" / "step-notes").mkdir(parents=True)
    (tmp_path / "exports" / "step-00000001").mkdir()
    (tmp_path / "exports" / "step-00000001" / "notes.odt").write_text("mine")
    (tmp_path / "exports" / "step-00000009").write_text("mine")
    settings: dict[str, Any] = {"default_root_dir": tmp_path}
    data = TokenBlocks(str(blocks))
    fit(DistillationModule(HFStudent(config=tiny.config)), data, ExportHF(keep=1), steps=6, **settings)
    fit(DistillationModule(HFStudent(config=tiny.config)), data, ExportHF(keep=1), steps=2, **settings)
    names = sorted(path.name for path in (tmp_path / "exports").iterdir())
    assert names == ["step-00000001", "step-00000002", "step-00000009", "step-notes"]


def test_a_torn_export_is_not_there(tmp_path: Path, tiny: Any, blocks: Path, monkeypatch: Any) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pd_lightning.export.exporting._export_tokenizer", full)
    with pytest.raises(OSError, match=r"disk full while writing the export .*step-00000002.* lower keep of ExportHF"):
        fit(
            DistillationModule(HFStudent(config=tiny.config)),
            TokenBlocks(str(blocks)),
            ExportHF(every_n_steps=2),
            default_root_dir=tmp_path,
        )
    assert list((tmp_path / "exports").iterdir()) == []


class Bigram(nn.Module):
    def __init__(self, vocab_size: int) -> None:
        super().__init__()
        self.table = nn.Embedding(vocab_size, vocab_size)

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.table(input_ids)


def test_a_student_of_the_users_own_is_told_by_the_runs_config(
    tmp_path: Path, blocks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    shutil.copy(__file__, tmp_path / "my_bigram.py")
    from my_bigram import Bigram as Importable  # type: ignore[import-not-found]

    module, data = DistillationModule(Importable(300)), TokenBlocks(str(blocks))
    with pytest.raises(ValueError, match=r"ExportHF must find a Hugging Face model, .*config\.yaml tells, got Bigram"):
        fit(module, data, ExportHF(), default_root_dir=tmp_path)
    student = {"class_path": "my_bigram.Bigram", "init_args": {"vocab_size": 300}}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"model": {"student": student}}))
    fit(module, data, ExportHF(), default_root_dir=tmp_path)
    loaded = load_student(tmp_path / "exports" / "step-00000004", trust_remote_code=True)
    ids = torch.arange(9)[None]
    assert torch.equal(loaded(ids), module(ids))


def test_mistakes_are_told_before_training(tmp_path: Path, tiny: Any) -> None:
    for settings, message in (
        ({"keep": 0}, "keep of ExportHF must be at least 1, got 0"),
        ({"at_end": False}, "ExportHF must export at some time, got never"),
    ):
        with pytest.raises(ValueError, match=message):
            ExportHF(**settings)  # type: ignore[arg-type]
    module = foreign(tiny)
    data = DataLoader(torch.zeros(4, 9, dtype=torch.long))
    for name, message in (
        (None, "ForeIgn"),
        ("modle", "module of ExportHF must name a submodule of Foreign, got 'modle'"),
    ):
        with pytest.raises(ValueError, match=message.replace("ForeIgn", r"Foreign\.forward must give logits")):
            fit(module, data, ExportHF(str(tmp_path), module=name))
    assert module.losses == []


class Around(Foreign):
    """Has the configuration of the model in it, and a `forward` that takes token ids alone."""

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        self.config = model.config

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.model(input_ids).logits


class Wide(nn.Module):
    """Has the configuration of a model, and a weight of its own."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.config, self.bias, self.lm = model.config, nn.Parameter(torch.zeros(1)), model

    def forward(self, input_ids: Tensor, labels: Tensor | None = None, use_cache: bool = False) -> Any:
        return self.lm(input_ids, labels=labels)


@pytest.mark.parametrize(
    ("make", "module", "message"),
    [
        (Around, None, r"got Around, which has other weights than a llama of its config, 'model\.model\.embed_tokens"),
        (
            lambda model: Foreign(Wide(model)),
            "model",
            r"got Wide, which has other weights than a llama .* 'bias' for one",
        ),
    ],
)
def test_what_is_no_model_of_its_config_is_refused_before_training(
    tmp_path: Path, tiny: Any, make: Any, module: str | None, message: str
) -> None:
    outer = make(foreign(tiny).model)
    data = DataLoader(torch.zeros(4, 9, dtype=torch.long))
    with pytest.raises(ValueError, match=rf"{message}.*Set module of ExportHF to the submodule that is one"):
        fit(outer, data, ExportHF(str(tmp_path), 1, module=module))
    assert outer.losses == []
    if make is Around:
        fit(outer, data, ExportHF(str(tmp_path), 1, module="model"), steps=1)
        assert (tmp_path / "step-00000001" / "config.json").is_file()


class Held(Foreign):
    """Holds a student as a DistillationModule does."""

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        self.student = LanguageModel(model)
        del self.model

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        return self.student(batch).logsumexp(-1).mean()


def test_a_student_of_other_peoples_module(tmp_path: Path, tiny: Any) -> None:
    module = Held(foreign(tiny).model)
    fit(module, DataLoader(torch.zeros(4, 9, dtype=torch.long)), ExportHF(str(tmp_path)), steps=1)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "step-00000001")
    for one, other in zip(loaded.parameters(), module.student.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("name", ["step-00000002", "step-00000003"])
def test_a_folder_in_the_way_is_told_before_training(tmp_path: Path, tiny: Any, name: str) -> None:
    (tmp_path / name).mkdir()
    (tmp_path / name / "notes.odt").write_text("mine")
    module, data = foreign(tiny), DataLoader(torch.zeros(8, 9, dtype=torch.long))
    with pytest.raises(ValueError, match=rf"output_dir of ExportHF must hold exports alone .*got .*{name}") as caught:
        fit(module, data, ExportHF(str(tmp_path), 2, module="model"), steps=3)
    assert "--" not in str(caught.value)
    assert module.losses == []
    fit(module, data, ExportHF(str(tmp_path), 4, module="model"), steps=5)
    assert (tmp_path / name / "notes.odt").is_file()


def test_a_folder_in_the_way_of_an_end_that_nobody_knew_is_told_without_the_command_line(
    tmp_path: Path, tiny: Any
) -> None:
    (tmp_path / "step-00000002").mkdir()
    (tmp_path / "step-00000002" / "notes.odt").write_text("mine")
    data = DataLoader(torch.zeros(2, 9, dtype=torch.long))
    with pytest.raises(ValueError, match="set another output_dir of ExportHF") as caught:
        fit(foreign(tiny), data, ExportHF(str(tmp_path), module="model"), steps=-1, max_epochs=1)
    assert "--" not in str(caught.value)


def test_a_tokenizer_that_does_not_load_is_told_before_training(tmp_path: Path, tiny: Any, monkeypatch: Any) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    module, data = foreign(tiny), DataLoader(torch.zeros(4, 9, dtype=torch.long))
    with pytest.raises(FileNotFoundError, match=r"got 'no/such/one', .* Set tokenizer of ExportHF"):
        fit(module, data, ExportHF(str(tmp_path), module="model", tokenizer="no/such/one"))
    assert module.losses == []


def test_each_step_is_exported_once_whatever_its_micro_batches(tmp_path: Path, tiny: Any, monkeypatch: Any) -> None:
    steps: list[int] = []
    monkeypatch.setattr(ExportHF, "act", lambda self, trainer, _: steps.append(trainer.global_step))
    data = DataLoader(torch.zeros(12, 9, dtype=torch.long))
    callback = ExportHF(str(tmp_path), 2, module="model")
    fit(foreign(tiny), data, callback, steps=5, accumulate_grad_batches=2)
    assert steps == [2, 4, 5]
