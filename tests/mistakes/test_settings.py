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


def trainer(**settings: Any) -> Settings:
    return {"trainer": settings}


def callback(class_path: str, **init_args: Any) -> Settings:
    return {"trainer": {"callbacks": [{"class_path": class_path, "init_args": init_args}]}}


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
    # Trainer, callbacks, loggers
    "no device": ("fit", trainer(devices=0), 1, ["trainer.devices must be at least 1, got 0", "Raise trainer.devices"]),
    "devices in words": ("fit", trainer(devices="two"), 1, ["trainer: `devices`", "should be an int > 0"]),
    "no such strategy": ("fit", trainer(strategy="ddpp"), 1, ["trainer: ", "strategy='ddpp'", "auto, ddp"]),
    "a strategy for GPUs": ("fit", trainer(strategy="fsdp"), 1, ["requires a GPU", "accelerator='cpu'"]),
    "a strategy that is not installed": ("fit", trainer(strategy="deepspeed"), 1, ["pip install -U deepspeed"]),
    "no such precision": (
        "fit",
        trainer(precision="bf8"),
        2,
        ["trainer.precision: the value must be one of", "'bf16-mixed'", "got bf8"],
    ),
    "16-bit floats": ("fit", trainer(precision="16-true"), 1, ["trainer.precision must", "got 16-true", "bf16"]),
    "seed in words": ("fit", {"seed_everything": "x"}, 2, ["seed_everything: the value must be of type bool or int"]),
    "negative seed": ("fit", {"seed_everything": -1}, 1, ["-1 is not in bounds", "from 0 to 4294967295"]),
    "steps in words": (
        "fit",
        trainer(max_steps="ten"),
        2,
        ["trainer.max_steps: the value must be of type int, got ten"],
    ),
    "no epoch": (
        "fit",
        trainer(max_steps=-1, max_epochs=0),
        1,
        ["max_epochs must be at least 1, got 0", "Raise trainer"],
    ),
    "epochs below -1": ("fit", trainer(max_epochs=-2), 1, ["trainer.max_epochs must be at least -1, got -2"]),
    "time in words": ("fit", trainer(max_time="1 day"), 1, ["duration='1 day'", "DD:HH:MM:SS"]),
    "no accumulation": (
        "fit",
        trainer(accumulate_grad_batches=0),
        1,
        ["accumulate_grad_batches must be at least 1, got 0"],
    ),
    "negative clipping": (
        "fit",
        trainer(gradient_clip_val=-1.0),
        1,
        ["gradient_clip_val must be at least 0, got -1.0"],
    ),
    "clipping by nothing known": (
        "fit",
        trainer(gradient_clip_val=1.0, gradient_clip_algorithm="nrom"),
        1,
        ["trainer: ", "nrom", "['value', 'norm']"],
    ),
    "validation never": (
        "fit",
        trainer(val_check_interval=0),
        1,
        ["val_check_interval must be above 0, got 0", "limit_val"],
    ),
    "no epoch between validations": ("fit", trainer(check_val_every_n_epoch=0), 1, ["must be at least 1, got 0"]),
    "sanity": ("fit", trainer(num_sanity_val_steps=-3), 1, ["num_sanity_val_steps must be at least -1, got -3"]),
    "a share above 1": (
        "fit",
        trainer(limit_val_batches=2.5),
        1,
        ["trainer: ", "2.5 for limit_val_batches", "[0.0, 1.0]"],
    ),
    "a file as run folder": (
        "fit",
        trainer(default_root_dir="text/a.txt"),
        1,
        ["default_root_dir must be the folder of a run, got the file text/a.txt", "Choose another"],
    ),
    "a list as section": ("fit", {"trainer": [1]}, 1, ["trainer must hold settings (name: value), got [1]", "YAML"]),
    "misspelt callback": (
        "fit",
        callback("lightning.pytorch.callbacks.ModelChekpoint"),
        2,
        ["trainer.callbacks: there is no class 'ModelChekpoint'", "Did you mean 'ModelCheckpoint'?"],
    ),
    "no callback": ("fit", callback("pd_lightning.losses.ForwardKL"), 2, ["the class must be a Callback, got"]),
    "a metric that is not logged": (
        "fit",
        callback("lightning.pytorch.callbacks.EarlyStopping", monitor="val/loss"),
        1,
        ["trainer: Early stopping conditioned on metric `val/loss` which is not available", "`val/lm_loss`"],
    ),
    "a checkpoint by no metric": (
        "fit",
        callback("lightning.pytorch.callbacks.ModelCheckpoint", save_top_k=2),
        1,
        ["trainer.callbacks: ModelCheckpoint(save_top_k=2, monitor=None) is not a valid"],
    ),
    "a mode of no kind": (
        "fit",
        callback("lightning.pytorch.callbacks.EarlyStopping", monitor="val/lm_loss", mode="least"),
        1,
        ["trainer.callbacks: `mode` can be min, max, got least"],
    ),
    "learning rates without a logger": (
        "fit",
        {
            "trainer": {
                "logger": False,
                "callbacks": [{"class_path": "lightning.pytorch.callbacks.LearningRateMonitor"}],
            }
        },
        1,
        ["trainer: Cannot use `LearningRateMonitor` callback with `Trainer` that has no logger"],
    ),
    "misspelt logger": (
        "fit",
        trainer(logger={"class_path": "lightning.pytorch.loggers.CSVLoger"}),
        2,
        ["trainer.logger: there is no class 'CSVLoger'", "Did you mean 'CSVLogger'?"],
    ),
    "no such profiler": ("fit", trainer(profiler="foo"), 1, ["trainer: ", "`profiler`", "'simple', 'advanced'"]),
    # More of data, models and optimizers
    "a file as data": (
        "fit",
        data(path="text/a.txt"),
        1,
        ["the data folder must exist, got text/a.txt", "correct the path"],
    ),
    "a model as data": ("fit", data(path="<teacher>"), 1, ["must hold manifest.json, got", "pd-lightning tokenize"]),
    "storage of no kind": (
        "fit",
        data(path="s3x://bucket/store"),
        1,
        ["data.path must be a folder or an address that fsspec can open, got s3x://bucket/store", "s3fs"],
    ),
    "part of the data": ("fit", data(train_fraction=2.0), 1, ["train_fraction must be above 0 and at most 1, got 2.0"]),
    "negative workers": ("fit", data(num_workers=-1), 1, ["data.num_workers must be at least 0, got -1"]),
    "negative cache": ("fit", data(cache_gb=-1), 1, ["data.cache_gb must be at least 0, got -1.0"]),
    "shuffle in words": ("fit", data(shuffle="maybe"), 2, ["data.init_args.shuffle: the value must be of type bool"]),
    "a mixture of lists": ("fit", data(mix=["<blocks>"]), 2, ["data.init_args.mix: the value must be a mapping"]),
    "a mixture of two tokenizers": (
        "fit",
        data(mix={"a": {"path": "<other>"}}),
        1,
        ["data.mix must", "tokenizer of data"],
    ),
    "a mixture of nothing": ("fit", data(mix={"a": {"path": "<blocks>", "weight": -1}}), 1, ["weight must be above 0"]),
    "a mixture past its end": (
        "fit",
        data(mix={"a": {"path": "<blocks>", "skip_blocks": 10**8}}),
        1,
        ["skip_blocks must leave some", "got 100000000 of", "Lower data.mix"],
    ),
    "late teachers of no training": (
        "offline",
        data(min_teacher_step=5),
        1,
        ["min_teacher_step must be 0", "LogitsRecorder"],
    ),
    "data of another class": (
        "fit",
        {"data": of("losses.ForwardKL")},
        2,
        ["data: the class must be a LightningDataModule"],
    ),
    "no student": (
        "fit",
        {"model": {"student": of("students.HFStudent", config=None)}},
        1,
        ["must have either", "neither"],
    ),
    "a student by its name alone": (
        "fit",
        {"model": {"student": "gpt2"}},
        2,
        ["there is no class 'gpt2'", "class_path"],
    ),
    "no heads": (
        "fit",
        config(num_attention_heads=0),
        1,
        ["num_attention_heads of a llama config must be at least 1, got 0"],
    ),
    "layers below zero": ("fit", config(num_hidden_layers=-1), 1, ["num_hidden_layers of a llama config", "got -1"]),
    "no such activation": (
        "fit",
        config(hidden_act="sillu"),
        1,
        ["got: 'sillu' is not known", "student.init_args.config"],
    ),
    "a model of pictures": ("fit", config(model_type="vit"), 1, ["config of a vit must make a causal language model"]),
    "a model that sees ahead": (
        "fit",
        config(model_type="bert", num_key_value_heads=None),
        1,
        ["one whose positions see the tokens after them", "config.is_decoder to true"],
    ),
    "heads at odds": (
        "fit",
        config(model_type="qwen3", num_key_value_heads=32),
        1,
        ["A qwen3 config must have values that go together", "num_key_value_heads must divide"],
    ),
    "no such attention": (
        "fit",
        {"model": {"student": {"init_args": {"attn_implementation": "flash"}}}},
        1,
        ['attn_implementation="flash"` is not supported', "model.student.init_args.attn_implementation"],
    ),
    "a pretrained student of other ids": (
        "fit",
        {"model": {"student": of("students.HFStudent", config=None, model="<teacher>")}, **data(path="<other>")},
        1,
        ["Model and data must use the same tokenizer, got", "pd-lightning tokenize"],
    ),
    "a folder without a model": (
        "online",
        teacher(model="<blocks>"),
        1,
        ["must be a folder with a causal", "model_type"],
    ),
    "a teacher of no data type": (
        "online",
        teacher(dtype="float8"),
        2,
        ["dtype: the value must be one of 'auto', 'float32'"],
    ),
    "a device that is not there": (
        "online",
        teacher(device="cuda:9"),
        1,
        ["The teacher's device must be there, got cuda:9"],
    ),
    "a device of no kind": ("online", teacher(device="gpu"), 1, ["device must be one of torch, got 'gpu'", "cuda:1"]),
    "a teacher that is not training": (
        "fit",
        {"model": {"teacher": of("teachers.CheckpointTeacher", folder="nowhere")}},
        1,
        ["must hold a checkpoint, got nowhere", "teacher.init_args.folder"],
    ),
    "rate below zero": ("fit", {"model": {"lr": -1e-3}}, 1, ["model.lr must stay in [0, inf), got -0.001"]),
    "a part of a number": ("fit", {"model": {"kd_weight": {"peek": 1}}}, 2, ["model.kd_weight"]),
    "beta above 1": (
        "fit",
        {"model": {"optimizer": {"class_path": "torch.optim.AdamW", "init_args": {"betas": [0.9, 1.5]}}}},
        1,
        ["model.optimizer must be able to take its settings", "got: Invalid beta parameter at index 1: 1.5"],
    ),
    "one beta": (
        "fit",
        {"model": {"optimizer": {"class_path": "torch.optim.AdamW", "init_args": {"betas": 0.9}}}},
        2,
        ["model.optimizer.init_args.betas: the value must be of type tuple, got 0.9."],
    ),
    "an optimizer without groups": (
        "fit",
        {"model": {"optimizer": {"class_path": "torch.optim.LBFGS"}}},
        1,
        ["groups of parameters, got: LBFGS doesn't support", "Correct model.optimizer"],
    ),
    "no such optimizer": (
        "fit",
        {"model": {"optimizer": "adamw"}},
        2,
        ["there is no class 'adamw'", "full class_path"],
    ),
    "no chunk": ("fit", {"model": {"chunk_size": 0}}, 1, ["chunk_size must be at least 1, got 0", "model.chunk_size"]),
    "two halves": (
        "offline",
        {"model": {"loss": of("losses.JensenShannon", beta=2.0)}},
        1,
        ["beta must be above 0", "got 2.0"],
    ),
    "skew above 1": (
        "offline",
        {"model": {"loss": of("losses.SkewedForwardKL", skew=1.5)}},
        1,
        ["skew must be", "got 1.5"],
    ),
    "a sum of nothing": (
        "offline",
        {"model": {"loss": of("losses.WeightedSum", losses={})}},
        1,
        ["at least one entry"],
    ),
    "decoupled without its bucket": (
        "offline",
        {
            "model": {
                "loss": of("losses.DecoupledTopK"),
                "transforms": {"a": of("transforms.TopK", k=5, tail="renormalize")},
            }
        },
        1,
        ["DecoupledTopK must have bucket targets, got renormalized ones", "tail bucket"],
    ),
    "tab in YAML": ("fit", "model:\n\tloss: 1\n", 1, ["mistake.yaml, line 2, column 1", "no valid YAML"]),
    "list in YAML": ("fit", "- a\n- b\n", 1, ["mistake.yaml must hold a mapping of settings (name: value), got ['a'"]),
    "code in YAML": (
        "fit",
        "model: !!python/object/apply:os.system [x]\n",
        1,
        ["no valid YAML", "python/object/apply"],
    ),
    "a name twice": (
        "fit",
        "data: {}\nmodel: {}\ndata: {}\n",
        1,
        ["line 3: each name must be given once, got data again"],
    ),
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
    harmless = {file for file in left if file.endswith(("config.yaml", "mistake.yaml", "base.yaml", "starts.jsonl"))}
    assert [file for file in left - harmless if not file.startswith("run/logs/")] == []


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
