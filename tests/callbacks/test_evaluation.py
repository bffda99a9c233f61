"""Evaluation amid training: the same training, and figures that others get too."""

import inspect
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
import yaml
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger, WandbLogger
from lightning.pytorch.strategies import FSDPStrategy
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader
from transformers import AutoModelForCausalLM, AutoTokenizer

from pd_lightning.callbacks import Distill, Evaluation
from pd_lightning.callbacks.live_student import live_student
from pd_lightning.data import TextFiles, TokenBlocks
from pd_lightning.data.layout import as_hugging_face, as_next_tokens
from pd_lightning.data.tokenize import tokenize
from pd_lightning.language_model import build_causal_lm
from pd_lightning.module import DistillationModule
from pd_lightning.record import Recorder
from pd_lightning.store.reader import BlockReader
from pd_lightning.students import HFStudent
from pd_lightning.teachers import FrozenTeacher, OfflineTeacher
from pd_lightning.trainer import PDTrainer

COUNT = 40  # blocks
PLAIN = {"lm_loss", "perplexity", "bits_per_byte", "top1_accuracy", "calibration_error"}
AGREEMENT = {"top1_agreement", "top5_agreement"}


@pytest.fixture(scope="session")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two texts, one longer than a context and one shorter."""
    folder = tmp_path_factory.mktemp("texts")
    (folder / "long.txt").write_text("class Naïve:\n    '''Words, words, words — and € signs.'''\n\n" * 6)
    (folder / "short.txt").write_text("import re")
    return folder


class Foreign(pl.LightningModule):
    """Other people's module, with dropout, that draws from the global random state."""

    def __init__(self, vocab_size: int = 300) -> None:
        super().__init__()
        torch.manual_seed(0)
        layers = (nn.Embedding(vocab_size, 8), nn.Dropout(0.5), nn.Linear(8, vocab_size))
        self.net = nn.Sequential(*layers)
        self.losses: list[float] = []

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.net(input_ids)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        loss = F.cross_entropy(self(batch["input_ids"]).flatten(0, 1), batch["labels"].flatten())
        self.losses.append(loss.item())
        return loss

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        self(batch["input_ids"])

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.5)


def fit(module: pl.LightningModule, data: Any, *callbacks: pl.Callback, steps: int = 4, **settings: Any) -> pl.Trainer:
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    ckpt_path = settings.pop("ckpt_path", None)
    trainer = pl.Trainer(
        accelerator="cpu",
        max_steps=steps,
        callbacks=list(callbacks),
        val_check_interval=2,
        **{"logger": False, "limit_val_batches": 1, **quiet, **settings},
    )
    if isinstance(data, dict):
        trainer.fit(module, data["train"], data["val"])
    else:
        trainer.fit(module, data, ckpt_path=ckpt_path, weights_only=True)
    return trainer


def student(tiny: Any) -> HFStudent:
    return HFStudent(config={**tiny.config, "initializer_range": 0.3})


def test_blocks_give_the_figures_of_their_tokens(tiny: Any, blocks: Path, teacher_dir: Path) -> None:
    """Perplexity is that of the module's own validation; bytes are those of the text."""
    module = DistillationModule(student(tiny), FrozenTeacher(str(teacher_dir)))
    data, callback = TokenBlocks(str(blocks), max_val_blocks=COUNT), Evaluation({"code": str(blocks)}, limit=COUNT)
    trainer = fit(module, data, callback, limit_val_batches=1.0)
    metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
    names = PLAIN | AGREEMENT | {"kl", "acceptance"}
    assert {name.removeprefix("val/code/") for name in metrics if name.startswith("val/code/")} == names
    for ours, theirs in (("perplexity", "perplexity"), ("kl", "kd_loss"), ("top1_agreement", "top1_agreement")):
        assert metrics[f"val/code/{ours}"] == pytest.approx(metrics[f"val/{theirs}"], rel=1e-4)
    reader = BlockReader(blocks, "val")
    labels = torch.cat([torch.from_numpy(reader[i]["block"][1:]) for i in range(COUNT)])
    tokenizer = AutoTokenizer.from_pretrained(blocks / "tokenizer")
    special = labels == tokenizer.eos_token_id
    text = tokenizer.decode(labels[~special].tolist(), errors="surrogateescape")
    with torch.no_grad():
        inputs = torch.stack([torch.from_numpy(reader[i]["block"][:-1]) for i in range(COUNT)])
        nats = F.cross_entropy(module.eval()(inputs.long()).flatten(0, 1), labels, reduction="none")
    num_bytes = len(text.encode(errors="replace"))
    assert text.isascii()  # or parts of characters at the ends of blocks would count otherwise
    expected = float(nats[~special].double().sum()) / num_bytes / math.log(2)
    assert metrics["val/code/bits_per_byte"] == pytest.approx(expected, rel=1e-5)


def test_a_store_tells_of_its_teacher(tiny: Any, truncated_store: Path, exact_store: Path, teacher_dir: Path) -> None:
    domains: dict[str, Any] = {"truncated": str(truncated_store), "exact": str(exact_store)}
    trainer = fit(
        DistillationModule(student(tiny), OfflineTeacher()), TokenBlocks(str(exact_store)), Evaluation(domains)
    )
    live = DistillationModule(student(tiny), FrozenTeacher(str(teacher_dir)))
    live_trainer = fit(live, TokenBlocks(str(exact_store)), Evaluation(domains))
    for name in ("truncated", "exact"):
        assert {f"val/{name}/kl_bucket", f"val/{name}/acceptance_bucket"} <= trainer.callback_metrics.keys()
        assert f"val/{name}/kl" in live_trainer.callback_metrics
    found = trainer.callback_metrics
    assert found["val/truncated/top1_agreement"] == found["val/exact/top1_agreement"]
    # One outcome for the tail: the divergence can only shrink, the overlap only grow.
    assert found["val/truncated/kl_bucket"] < found["val/exact/kl_bucket"]
    assert found["val/truncated/acceptance_bucket"] > found["val/exact/acceptance_bucket"]


def test_the_training_is_the_same_to_the_bit(blocks: Path, texts: Path, teacher_dir: Path) -> None:
    runs, settings = [], {"prompts": ["def"], "temperature": 1.0, "teacher": FrozenTeacher(str(teacher_dir)), **LENGTH}
    for callbacks in ([], [Evaluation({"code": str(blocks), "prose": str(texts)}, **settings)]):
        pl.seed_everything(1, verbose=False)
        module = Foreign()
        fit(module, TokenBlocks(str(blocks)), *callbacks, steps=6)
        assert module.training
        runs.append((module.losses, module.state_dict()))
    assert runs[0][0] == runs[1][0]
    for name, tensor in runs[0][1].items():
        assert torch.equal(tensor, runs[1][1][name])


LENGTH = {"context_length": 16}


def test_any_module_with_logits_will_do(blocks: Path, teacher_dir: Path, texts: Path, caplog: Any) -> None:
    """By forward, or by the name of a submodule; against a teacher that the training has not."""
    domains: dict[str, Any] = {"code": str(blocks), "prose": TextFiles([str(texts)])}
    for module in (None, "net"):
        teacher = FrozenTeacher(str(teacher_dir))
        callback = Evaluation(domains, module=module, teacher=teacher, limit=2, prompts=["def"], **LENGTH)
        trainer = fit(Foreign(), TokenBlocks(str(blocks)), callback)
        for name, further in (("code", set()), ("prose", {"word_perplexity"})):
            logged = {key for key in trainer.callback_metrics if key.startswith(f"val/{name}/")}
            figures = PLAIN | AGREEMENT | {"kl", "acceptance"} | further
            assert logged == {f"val/{name}/{figure}" for figure in figures}


def test_the_teacher_of_a_distill_callback_is_found(blocks: Path, teacher_dir: Path) -> None:
    distill = Distill(FrozenTeacher(str(teacher_dir)), "net.2", kd_weight=0.5)
    held: list[int] = []

    class Held(pl.Callback):
        def on_validation_epoch_end(self, *_: Any) -> None:
            held.append(len(distill._seen))

    evaluation = Evaluation({"code": str(blocks)}, limit=20, prompts=["def"], **LENGTH)
    trainer = fit(Foreign(), TokenBlocks(str(blocks)), distill, evaluation, Held())
    assert {f"val/code/{name}" for name in (*AGREEMENT, "kl", "acceptance")} <= trainer.callback_metrics.keys()
    assert held[-1] == 0, "logits of an evaluation stay with nobody"


def test_what_is_logged_can_be_read_back_from_tensorboard(
    tiny: Any, blocks: Path, texts: Path, tmp_path: Path, teacher_dir: Path
) -> None:
    module = DistillationModule(student(tiny), FrozenTeacher(str(teacher_dir)))
    callback = Evaluation({"prose": str(texts)}, prompts=["def f(", "# two\n"], max_new_tokens=4)
    fit(module, TokenBlocks(str(blocks)), callback, logger=TensorBoardLogger(tmp_path))
    events = EventAccumulator(str(next(tmp_path.rglob("events.*"))))
    events.Reload()
    figures = PLAIN | AGREEMENT | {"kl", "acceptance", "word_perplexity"}
    assert {f"val/prose/{figure}" for figure in figures} <= set(events.Tags()["scalars"])
    assert [event.step for event in events.Scalars("val/prose/kl")] == [1, 3]
    shown = events.Tensors("val/completions/1/text_summary")
    assert [event.step for event in shown] == [1, 3]
    assert shown[0].tensor_proto.string_val[0].decode().startswith("    # two\n\n→\n\n    ")


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_completions_are_those_of_transformers_or_of_the_seed(
    blocks: Path, teacher_dir: Path, temperature: float, capsys: Any, caplog: Any
) -> None:
    from pd_lightning.callbacks.completions import complete
    from pd_lightning.language_model import LanguageModel

    tokenizer, model = AutoTokenizer.from_pretrained(teacher_dir), AutoModelForCausalLM.from_pretrained(teacher_dir)
    state = torch.get_rng_state()
    with torch.no_grad():
        said = [
            complete(LanguageModel(model), tokenizer, "def ", 6, temperature, seed, 32, torch.device("cpu"))
            for seed in (0, 0, 1)
        ]
        assert torch.equal(torch.get_rng_state(), state)
        ids = model.generate(**tokenizer("def ", return_tensors="pt"), max_new_tokens=6, do_sample=False)
    greedy = tokenizer.decode(ids[0], skip_special_tokens=True).removeprefix("def ")
    assert said[0] == said[1]
    assert (said[0] == said[2] == greedy) if temperature == 0 else (said[0] != said[2])


class TextLogger(CSVLogger):
    """Takes text as W&B's logger does."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.texts: list[Any] = []

    def log_text(self, *args: Any, **kwargs: Any) -> None:
        inspect.signature(WandbLogger.log_text).bind(self, *args, **kwargs)
        self.texts.append((args, kwargs))


def test_completions_are_given_to_who_takes_text_and_else_printed(blocks: Path, tmp_path: Path, caplog: Any) -> None:
    said: list[Any] = []
    for logger in (TextLogger(tmp_path), CSVLogger(tmp_path), False):
        caplog.clear()
        callback = Evaluation(prompts=["def", "x"], max_new_tokens=2, **LENGTH)
        with caplog.at_level("INFO", logger="lightning.pytorch"):
            fit(Foreign(), TokenBlocks(str(blocks)), callback, logger=logger, steps=2)
        printed = [record.message for record in caplog.records if record.message.startswith("val/completions: ")]
        said.append((printed, getattr(logger, "texts", [])))
    (nothing, ((name, table),)), (printed, _), (again, _) = said
    assert nothing == []
    assert (name, table["columns"]) == (("val/completions",), ["prompt", "completion"])
    assert [row[0] for row in table["data"]] == ["def", "x"]
    assert printed == again == [f"val/completions: {prompt!r} → {text!r}" for prompt, text in table["data"]]


def test_fsdp1_is_refused() -> None:
    trainer: Any = SimpleNamespace(strategy=FSDPStrategy())
    with pytest.raises(ValueError, match=r"Evaluation must be able to call .*trainer.strategy to fsdp2, or to ddp"):
        live_student(trainer, Foreign(), None, "Evaluation")


def test_every_n_validations_and_never_in_the_sanity_check(blocks: Path, tmp_path: Path) -> None:
    callback = Evaluation({"code": str(blocks)}, every_n_validations=2, limit=2, **LENGTH)
    logger = TensorBoardLogger(tmp_path)
    trainer = fit(Foreign(), TokenBlocks(str(blocks)), callback, steps=8, num_sanity_val_steps=1, logger=logger)
    events = EventAccumulator(str(next(tmp_path.rglob("events.*"))))
    events.Reload()
    assert [event.step for event in events.Scalars("val/code/perplexity")] == [3, 7]
    assert trainer.validate(Foreign(), TokenBlocks(str(blocks)), verbose=False)[0].keys() >= {"val/code/perplexity"}


def test_a_resumed_run_goes_on_counting_beside_another_evaluation(blocks: Path, tmp_path: Path) -> None:
    """Of validations after steps 2, 4, 6 and 8 every third is the one after 6."""

    def evaluations() -> list[pl.Callback]:
        return [Evaluation({"code": str(blocks)}, 3, limit=2, **LENGTH), Evaluation(prompts=["x"], **LENGTH)]

    trainer = fit(Foreign(), TokenBlocks(str(blocks)), *evaluations(), steps=4)
    trainer.save_checkpoint(tmp_path / "4.ckpt")
    going_on: dict[str, Any] = {"ckpt_path": tmp_path / "4.ckpt", "logger": TensorBoardLogger(tmp_path)}
    fit(Foreign(), TokenBlocks(str(blocks)), *evaluations(), steps=8, **going_on)
    events = EventAccumulator(str(next(tmp_path.rglob("events.*"))))
    events.Reload()
    assert len(events.Scalars("val/code/perplexity")) == 1, "anew there would be none"


def settings(**given: Any) -> Any:
    return lambda blocks: Evaluation(**{"domains": {"code": str(blocks)}, **LENGTH, **given})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (settings(every_n_validations=0), "every_n_validations of Evaluation must be at least 1, got 0"),
        (settings(temperature=-1), "temperature of Evaluation must be at least 0"),
        (settings(domains=None), "must have something to evaluate, got neither. Set its domains or its prompts"),
        (
            settings(module="ne"),
            "module of Evaluation must name a submodule of Foreign, got 'ne'. There are net.2, net",
        ),
        (settings(module="net.1"), r"The submodule 'net.1' must give logits .* got a Tensor of shape \[1, 2\]"),
        (settings(context_length=8), "must fit into the student's context, got 16 positions of code for 8"),
        (
            settings(domains={"code": "no/such"}),
            r"must name a file, .* got 'no/such'\. Mend domains\.code of Evaluation",
        ),
        (settings(tokenizer="no/such/one"), "The tokenizer must be a folder or a hub name, got 'no/such/one'"),
    ],
)
def test_mistakes_are_told_before_training(blocks: Path, make: Any, message: str, monkeypatch: Any) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    module = Foreign()
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        fit(module, TokenBlocks(str(blocks)), make(blocks))
    assert module.losses == []


def test_other_peoples_data_do_not_tell_tokenizer_and_context(blocks: Path) -> None:
    loader = DataLoader([{"input_ids": torch.arange(9), "labels": torch.arange(9)}] * 8, batch_size=2)
    for given, message in (
        ({}, "Evaluation must know the tokenizer of the data, got none"),
        (
            {"tokenizer": str(blocks / "tokenizer")},
            "context_length of Evaluation must be set where .* got Foreign, which does not",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            fit(Foreign(), {"train": loader, "val": loader}, Evaluation(prompts=["def"], **given))
    callback = Evaluation({"code": str(blocks)}, tokenizer=str(blocks / "tokenizer"), limit=2, **LENGTH)
    trainer = fit(Foreign(), {"train": loader, "val": loader}, callback)
    assert trainer.callback_metrics["val/code/perplexity"] > 1


def test_a_training_without_validation_is_refused(blocks: Path) -> None:
    with pytest.raises(ValueError, match="must have validations to evaluate at, got a training without"):
        fit(Foreign(), TokenBlocks(str(blocks)), settings()(blocks), limit_val_batches=0)


def test_blocks_of_another_tokenizer_are_refused(blocks: Path, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("other words for another tokenizer " * 40)
    tokenize(str(tmp_path / "other"), TextFiles([str(tmp_path / "text")]), None, 280, block_size=16, val_fraction=0)
    with pytest.raises(ValueError, match=r"must hold blocks of the training's tokenizer, got .*other for code"):
        fit(Foreign(), TokenBlocks(str(blocks)), Evaluation({"code": str(tmp_path / "other")}, **LENGTH))


def test_settings_in_yaml(tmp_path: Path) -> None:
    from jsonargparse import ArgumentParser

    domains = {"code": "blocks", "prose": {"class_path": "pd_lightning.data.JSONLines", "init_args": {"paths": ["x"]}}}
    callback = {"class_path": "pd_lightning.callbacks.Evaluation", "init_args": {"domains": domains}}
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(pl.Callback, "callback")
    (tmp_path / "settings.yaml").write_text(yaml.safe_dump({"callback": callback}))
    made = parser.instantiate(parser.parse_path(str(tmp_path / "settings.yaml"))).callback
    assert made.domains["code"] == "blocks"
    assert type(made.domains["prose"]).__name__ == "JSONLines"


def validate(module: pl.LightningModule, data: Any, *callbacks: pl.Callback, **settings: Any) -> dict[str, float]:
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False, "limit_val_batches": 1}
    trainer = pl.Trainer(accelerator="cpu", callbacks=list(callbacks), **{**quiet, **settings})
    return dict(trainer.validate(module, data, verbose=False)[0])


class Silent(Foreign):
    """Takes batches of any layout."""

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        pass


class Flipping(Silent):
    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return {**batch, "input_ids": batch["input_ids"].flip(1)}


@pytest.mark.parametrize(("kind", "batch_map"), [(Silent, as_hugging_face), (Silent, as_next_tokens), (Flipping, None)])
def test_domains_are_no_batches_of_the_projects_own(blocks: Path, kind: type[Silent], batch_map: Any) -> None:
    """Layout and hooks of its data change nothing of what is evaluated."""
    own, plain = (
        validate(
            module,
            TokenBlocks(str(blocks), batch_map=layout),
            Evaluation({"code": str(blocks)}, limit=8, **LENGTH),
        )
        for module, layout in ((kind(), batch_map), (Silent(), None))
    )
    assert plain["val/code/lm_loss"] > 1
    assert own == plain


def test_a_config_of_the_modules_own_does_not_give_it_more_arguments(blocks: Path, teacher_dir: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(teacher_dir)

    class Configured(Silent):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.config = model, model.config

        def forward(self, input_ids: Tensor) -> Tensor:
            return self.net(input_ids).logits

    found = [
        validate(Configured(), TokenBlocks(str(blocks)), Evaluation({"code": str(blocks)}, module=module, limit=4))
        for module in (None, "net")
    ]
    assert found[0] == found[1]


class Leaky(nn.Module):
    """Takes positions, and sees all documents."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Embedding(300, 8), nn.Linear(8, 300))

    def forward(self, input_ids: Tensor, position_ids: Tensor | None = None) -> Tensor:
        return self.net(input_ids).cumsum(1)


@pytest.fixture(scope="session")
def isolated(tmp_path_factory: pytest.TempPathFactory, blocks: Path) -> Path:
    """Blocks of short documents that are kept apart."""
    folder = tmp_path_factory.mktemp("isolated")
    for number in range(30):
        (folder / f"{number}.txt").write_text(f"x = {number}\n" * (number + 3))
    settings: dict[str, Any] = {"block_size": 16, "document_attention": "isolated", "val_fraction": 0.4}
    tokenize(str(folder / "blocks"), TextFiles([f"{folder}/*.txt"]), str(blocks / "tokenizer"), **settings)
    return folder / "blocks"


def test_the_teacher_of_the_callback_must_fit_to_the_domains(
    tiny: Any, blocks: Path, texts: Path, isolated: Path, teacher_dir: Path
) -> None:
    """Told before the first step, whatever the training's own data are."""
    sizes = {"n_embd": 16, "n_layer": 1, "n_head": 2, "vocab_size": 300}
    short = build_causal_lm({"model_type": "gpt2", "n_positions": 8, **sizes})
    remedy = "It is the teacher of Evaluation: set another there"
    for model, domain, message in (
        (short, blocks, f"must fit into the teacher's context, got 16 positions for 8.*{remedy}"),
        (short, texts, f"must fit into the teacher's context, got 32 positions for 8.*{remedy}"),
        (Leaky(), isolated, f"teacher must keep to one document .*got Leaky, which does not.*{remedy}"),
    ):
        module = DistillationModule(student(tiny))
        callback = Evaluation({"code": str(domain)}, teacher=FrozenTeacher(model))
        with pytest.raises(ValueError, match=message):
            fit(module, TokenBlocks(str(blocks)), callback)
        assert module.num_tokens == 0
    domains: dict[str, Any] = {"code": str(blocks), "prose": str(texts), "apart": str(isolated)}
    fitting = Evaluation(domains, teacher=FrozenTeacher(str(teacher_dir)), limit=4)
    found = validate(DistillationModule(student(tiny)), TokenBlocks(str(blocks)), fitting)
    assert {f"val/{name}/kl" for name in domains} <= found.keys()
    fits = Evaluation({"short": f"{texts}/short.txt"}, teacher=FrozenTeacher(short))
    assert "val/short/kl" in validate(DistillationModule(student(tiny)), TokenBlocks(str(blocks)), fits)


def test_several_evaluations_of_one_training(blocks: Path, teacher_dir: Path) -> None:
    """By module or teacher told apart in checkpoints; by the names of domains in logs."""
    teacher = FrozenTeacher(str(teacher_dir))
    variants: list[dict[str, Any]] = [{}, {"module": "net"}, {"teacher": teacher}]
    variants += [{"teacher": FrozenTeacher(Leaky())}]
    assert len({Evaluation({"code": str(blocks)}, **each).state_key for each in variants}) == len(variants)
    for each in variants[1:]:
        both = [Evaluation({"code": str(blocks)}, **LENGTH), Evaluation({"code": str(blocks)}, **each, **LENGTH)]
        with pytest.raises(ValueError, match=r"another name in each Evaluation, got code in two.*Rename it in domains"):
            validate(Silent(), TokenBlocks(str(blocks)), *both)


def test_a_domain_without_labels_is_refused(blocks: Path, teacher_dir: Path, tmp_path: Path) -> None:
    class Unlabelled(pl.LightningDataModule):
        tokenizer_dir = str(blocks / "tokenizer")

        def loader(self, labels: Tensor) -> Any:
            return DataLoader([{"input_ids": torch.arange(17), "labels": labels}] * 8, batch_size=4)

        def train_dataloader(self) -> Any:
            return self.loader(torch.arange(1, 18))

        def val_dataloader(self) -> Any:
            return self.loader(torch.full((17,), -100))

    recorder = Recorder(FrozenTeacher(str(teacher_dir)), str(tmp_path / "store"))
    PDTrainer(accelerator="cpu", logger=False, enable_progress_bar=False).record(recorder, Unlabelled())
    callback = Evaluation({"code": str(tmp_path / "store")}, context_length=17)
    with pytest.raises(ValueError, match=r"must hold labels to score, got 8 blocks of .*store without any"):
        fit(Foreign(), TokenBlocks(str(blocks)), callback)
