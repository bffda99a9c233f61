"""Wrong settings and unfit data: each is one paragraph that names the remedy, and leaves nothing in the way."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., int]
Told = Callable[[], str]
Settings = dict[str, Any]


def of(class_path: str, **init_args: Any) -> Settings:
    return {"class_path": f"pd_lightning.{class_path}", **({"init_args": init_args} if init_args else {})}


def data(**init_args: Any) -> Settings:
    return {"data": {"init_args": init_args}}


def config(**fields: Any) -> Settings:
    return {"model": {"student": {"init_args": {"config": fields}}}}


def transforms(**entries: Settings) -> Settings:
    return {"model": {"transforms": entries}}


def teacher(**init_args: Any) -> Settings:
    return {"model": {"teacher": of("teachers.FrozenTeacher", **init_args)}}


MISTAKES: dict[str, tuple[str, Settings | str, int, list[str]]] = {
    # Data
    "no such data": ("fit", data(path="nowhere"), 1, ["data folder must exist, got nowhere", "pd-lightning tokenize"]),
    "unfinished data": ("fit", data(path="<unfinished>"), 1, ["must be finished", "Run the command that writes it"]),
    "newer store": ("offline", data(path="<newer>"), 1, ["must be at most 1, got 2", "pip install -U pd-lightning"]),
    "damaged item": ("offline", data(path="<bad_item>"), 1, ["item 39 of", "train/chunk-000000.bin", "--verify"]),
    "damaged index": ("offline", data(path="<bad_index>"), 1, ["train/index.json does not match", "--verify"]),
    "no validation split": (
        "fit",
        data(path="<no_val>"),
        1,
        ["val split, got none", "data.val_path", "--val_fraction"],
    ),
    "validation of other ids": ("offline", data(val_path="<other>"), 1, ["data.val_path must", "--tokenizer"]),
    "no logits": (
        "offline",
        data(path="<blocks>"),
        1,
        ["OfflineTeacher must have a logit store", "data.init_args.path"],
    ),
    "no batch": ("fit", data(batch_size=0), 1, ["data.batch_size must be at least 1, got 0"]),
    # Student and teacher
    "short student": ("fit", config(max_position_embeddings=8), 1, ["student's context, got 16 positions for 8"]),
    "narrow student": ("fit", config(vocab_size=200), 1, ["got 200 for 300 ids", "config.vocab_size to 300"]),
    "short teacher": ("fit", teacher(model="<short>"), 1, ["teacher's context, got 16 positions for 8", "block_size"]),
    "foreign teacher": ("online", data(path="<other>"), 1, ["Model and data must use the same tokenizer"]),
    "no such teacher": (
        "fit",
        teacher(model="no/such/teacher"),
        1,
        ["got 'no/such/teacher' (there is no such folder)"],
    ),
    "two students": (
        "fit",
        {"model": {"student": {"init_args": {"model": "x"}}}},
        1,
        ["a config or a model, got both"],
    ),
    "no such architecture": ("fit", config(model_type="lama"), 1, ["got 'lama'", "config.model_type"]),
    "misspelt field": ("fit", config(hidden_sise=8), 1, ["hidden_sise: did you mean hidden_size?"]),
    "field of another type": ("fit", config(hidden_size="many"), 1, ["'hidden_size' expected int", "init_args.config"]),
    "fields at odds": ("fit", config(hidden_size=33), 1, ["33) is not a multiple", "model.student.init_args.config"]),
    # Loss, transforms, schedules
    "weight above 1": (
        "fit",
        {"model": {"kd_weight": of("schedules.Constant", value=1.5)}},
        1,
        ["model.kd_weight must"],
    ),
    "p of 0": ("fit", transforms(t=of("transforms.TopPK", p=0)), 1, ["model.transforms: p must be in (0, 1], got 0"]),
    "k of 0": (
        "fit",
        transforms(t=of("transforms.TopPK", k=0)),
        1,
        ["model.transforms: k must be at least 1, got 0", "init_args.k"],
    ),
    "below zero": ("fit", transforms(t=of("transforms.Temperature", value=-1)), 1, ["must be positive, got -1"]),
    "order": (
        "fit",
        transforms(a=of("transforms.Temperature", value=2), b=of("transforms.TopPK")),
        1,
        ["Truncation must come before temperature", "model.transforms"],
    ),
    "parts beyond the run": (
        "fit",
        {"model": {"lr": of("schedules.WSD", peak=1e-3, warmup=10)}},
        1,
        ["model.lr: The parts of a WSD schedule must fit into the run, got 10", "trainer.max_steps"],
    ),
    "misspelt entry": (
        "fit",
        {"model": {"transforms": {"truncate": of("transforms.TopPK"), "truncat": {"init_args": {"k": 3}}}}},
        1,
        ["model.transforms.truncat must be a class with its settings", "Did you mean truncate? Else set"],
    ),
    "list of transforms": (
        "fit",
        {"model": {"transforms": [of("transforms.TopPK")]}},
        2,
        ["model.transforms: the value must be a mapping of names to values"],
    ),
    "two-sided and one-sided": (
        "online",
        {
            "model": {
                "transforms": {"t": of("transforms.Standardize")},
                "loss": of("losses.ForwardKL", student_temperature=False, temperature_squared=False),
            }
        },
        1,
        ["student_temperature must be true with Standardize", "model.loss.init_args.student_temperature"],
    ),
    "samples of truncated targets": (
        "online",
        transforms(a=of("transforms.TopK", k=5, tail="uniform"), b=of("transforms.SampleTokens")),
        1,
        ["model.transforms.b: SampleTokens must have all of the teacher's targets", "FrozenTeacher"],
    ),
    "temperature after WTTM": (
        "online",
        transforms(a=of("transforms.WTTM"), b=of("transforms.Temperature", value=2.0)),
        1,
        ["model.transforms.b: Temperature must not follow WTTM"],
    ),
    "p above 1": ("fit", transforms(t=of("transforms.TopP", p=1.2)), 1, ["p must be in (0, 1], got 1.2", "of TopP"]),
    "k above V": (
        "offline",
        transforms(t=of("transforms.TopK", k=301)),
        1,
        ["k must be at most the size of the vocabulary, got 301 for 300 ids", "init_args.k of TopK"],
    ),
    "k above V online": ("online", transforms(t=of("transforms.TopK", k=301)), 1, ["got 301 for 300 ids"]),
    "weight as a number": ("fit", {"model": {"kd_weight": -0.1}}, 1, ["model.kd_weight must stay in [0, 1], got -0.1"]),
    "temperature of 0": (
        "offline",
        transforms(
            t=of("transforms.Temperature", value=of("schedules.Linear", start=0.0, end=2.0)),
        ),
        1,
        ["model.transforms.t.value must stay in (0, inf), got 0 at step 0"],
    ),
    "parts of a piecewise schedule": (
        "fit",
        {
            "model": {
                "kd_weight": of(
                    "schedules.Piecewise",
                    parts={
                        "one": {"schedule": of("schedules.Constant", value=1.0), "length": 0.8},
                        "two": {"schedule": of("schedules.Constant", value=0.0), "length": 0.4},
                    },
                )
            }
        },
        1,
        ["model.kd_weight", "parts"],
    ),
    "two adaptive temperatures": (
        "online",
        transforms(a=of("transforms.Standardize"), b=of("transforms.NormKD")),
        1,
        ["NormKD", "Standardize", "Keep one of them in model.transforms"],
    ),
    "temperature of samples": (
        "online",
        transforms(a=of("transforms.SampleTokens"), b=of("transforms.Temperature", value=2.0)),
        1,
        ["Temperature must have the teacher's probabilities, got estimates from samples", "model.transforms"],
    ),
    "samples of a store": (
        "offline",
        transforms(a=of("transforms.SampleTokens")),
        1,
        ["SampleTokens", "FrozenTeacher"],
    ),
    "forgotten tail tempered": (
        "offline",
        transforms(a=of("transforms.TopK", k=5, tail="none"), b=of("transforms.Temperature", value=2.0)),
        1,
        ["got tail none before it", "init_args.tail"],
    ),
    "reverse KL of renormalized": (
        "offline",
        {
            "model": {
                "loss": of("losses.ReverseKL"),
                "transforms": {"a": of("transforms.TopK", k=5, tail="renormalize")},
            }
        },
        1,
        ["ReverseKL must have", "got renormalized", "SkewedReverseKL"],
    ),
    "a loss for dense targets": (
        "offline",
        {"model": {"loss": of("losses.TailAware")}},
        1,
        ["TailAware", "FrozenTeacher"],
    ),
    "fraction of 2": (
        "online",
        {"model": {"weighting": {"w": of("weightings.StudentEntropy", fraction=2.0)}}},
        1,
        ["model.weighting: fraction must be in (0, 1], got 2.0"],
    ),
    # Trainer
    "no length": ("fit", {"trainer": {"max_steps": -1}}, 1, ["length of a training must be set", "trainer.max_steps"]),
    "no steps": ("fit", {"trainer": {"max_steps": 0}}, 1, ["trainer.max_steps must be at least 1, got 0"]),
    "no such device": (
        "fit",
        {"trainer": {"accelerator": "gpuu"}},
        1,
        ["trainer: ", "invalid accelerator name", "cuda"],
    ),
    "late validation": ("fit", {"trainer": {"val_check_interval": 99}}, 1, ["trainer: `val_check_interval` (99) must"]),
    # YAML
    "top level": ("fit", {"modle": {"loss": 1}}, 2, ["no setting 'modle.loss'. Did you mean 'model.loss'?"]),
    "model level": ("fit", {"model": {"kd_wieght": 1}}, 2, ["Did you mean 'model.kd_weight'?"]),
    "init_args level": ("fit", data(batch_sise=1), 2, ["TokenBlocks has no setting 'batch_sise'", "'batch_size'?"]),
    "optimizer": (
        "fit",
        {"model": {"optimizer": {"class_path": "torch.optim.AdamW", "init_args": {"bettas": [0.9, 0.9]}}}},
        2,
        ["model.optimizer: torch.optim.AdamW has no setting 'bettas'. Did you mean 'betas'?"],
    ),
    "unknown class": ("fit", {"model": {"loss": of("losses.ForwardKLL")}}, 2, ["model.loss: ", "mean 'ForwardKL'?"]),
    "class of another kind": (
        "fit",
        {"model": {"kd_weight": of("losses.ForwardKL")}},
        2,
        ["model.kd_weight: the class must be a Schedule, got pd_lightning.losses.ForwardKL."],
    ),
    "no class": (
        "fit",
        {"model": {"loss": 0.5}},
        2,
        ["model.loss: the value must be a Loss", "class_path"],
    ),
    "wrong type": ("fit", data(batch_size="many"), 2, ["batch_size: the value must be of type int, got many"]),
    "wrong choice": (
        "fit",
        transforms(t=of("transforms.TopPK", tail="buckett")),
        2,
        ["tail: the value must be one of 'bucket', 'renormalize', 'uniform', 'none', got buckett"],
    ),
    "broken YAML": ("fit", "model: {a: [1\n", 1, ["mistake.yaml, line 2", "no valid YAML"]),
    # record
    "teacher of other ids": ("record", data(path="<other>"), 1, ["Model and data must use the same tokenizer"]),
    "teacher's context": ("record", teacher(model="<short>"), 1, ["fit into the teacher's context, got 16"]),
    "store for blocks": ("record", data(path="<store>"), 1, ["record must have token blocks", "got a logit store"]),
    "unknown split": ("record", {"model": {"splits": ["trian"]}}, 1, ["model.splits must", "got trian", "train, val"]),
    "empty chunks": ("record", {"model": {"blocks_per_chunk": 0}}, 1, ["blocks_per_chunk must be at least 1, got 0"]),
    "kept mass": ("record", {"model": {"selection": {"p": 0}}}, 1, ["model.selection.p"]),
    # tokenize
    "no text": ("tokenize", {"source": {"init_args": {"paths": ["none/*"]}}}, 1, ["must name a file", "'none/*'"]),
    "misspelt": ("tokenize", {"blok_size": 8}, 2, ["Did you mean 'block_size'?"]),
    "wrong source": ("tokenize", {"source": of("losses.ForwardKL")}, 2, ["source: the class must be a Source"]),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_explained(run: Run, told: Told, folder: Path, name: str) -> None:
    base, mistake, code, fragments = MISTAKES[name]
    before = set(folder.rglob("*"))
    assert run(base, mistake) == code
    message = told()
    assert [fragment for fragment in fragments if fragment not in message] == [], message
    left = {str(path.relative_to(folder)) for path in set(folder.rglob("*")) - before if path.is_file()}
    # Nothing that a later start would trip over: see the test below.
    assert all(Path(file).match("*.yaml") or file.startswith("run/logs/") for file in left)


@pytest.mark.parametrize(
    ("base", "mistake"),
    [
        ("offline", data(path="<bad_item>")),
        ("record", teacher(model="<short>")),
        ("tokenize", {"val_fraction": 0.001}),
    ],
)
def test_the_corrected_command_runs_in_the_same_folder(run: Run, base: str, mistake: Settings) -> None:
    assert run(base, mistake) == 1
    assert run(base) == 0


def test_an_empty_corpus(run: Run, told: Told) -> None:
    text = Path("text/a.txt").read_text()
    Path("text/a.txt").write_text("")
    assert run("tokenize") == 1
    message = told()
    assert "the corpus must hold text, got none from TextFiles" in message
    assert "Name another source" in message
    Path("text/a.txt").write_text(text)
    assert run("tokenize") == 0


def test_a_tokenizer_without_end_of_text(run: Run, told: Told) -> None:
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    wrap: Any = PreTrainedTokenizerFast
    wrap(tokenizer_object=Tokenizer(models.WordLevel({"a": 0}, unk_token="a"))).save_pretrained("words")
    assert run("tokenize", {"tokenizer": "words", "vocab_size": None}) == 1
    assert "end-of-text token of the tokenizer, got a tokenizer without any. Set eos_token" in told()


def test_a_missing_yaml_file(run: Run, told: Told) -> None:
    assert run("fit", None, "--config", "no.yaml") == 1
    assert "--config must name a YAML file, got no.yaml" in told()


def test_a_traceback_comes_when_asked_for(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PD_LIGHTNING_TRACEBACK", "1")
    with pytest.raises(FileNotFoundError, match="the data folder must exist"):
        run("fit", data(path="nowhere"))
