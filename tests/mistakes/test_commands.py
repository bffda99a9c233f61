"""Mistakes with the commands that train no student: each is one paragraph that names the remedy."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pd_lightning.cli import main

Run = Callable[..., int]
Told = Callable[[], str]
Settings = dict[str, Any]
Mistake = tuple[str, Settings | None, list[str], int, list[str]]


def of(class_path: str, **init_args: Any) -> Settings:
    return {"class_path": f"pd_lightning.{class_path}", **({"init_args": init_args} if init_args else {})}


def source(class_path: str, **init_args: Any) -> Settings:
    return {"source": of(class_path, **init_args)}


# Command, settings laid over sound ones, further arguments, exit code, and what the message says.
LAID_OVER: dict[str, Mistake] = {
    # tokenize
    "no block": ("tokenize", {"block_size": 0}, [], 1, ["block_size must be at least 1, got 0. Raise block_size."]),
    "all for validation": ("tokenize", {"val_fraction": 1.0}, [], 1, ["val_fraction must be", "got 1.0. Set val_"]),
    "share in words": ("tokenize", {"val_fraction": "a lot"}, [], 2, ["val_fraction: the value must be of type float"]),
    "few ids": ("tokenize", {"vocab_size": 10}, [], 1, ["vocab_size must be at least 257, got 10. Raise"]),
    "two vocabularies": ("tokenize", {"tokenizer": "<teacher>"}, [], 1, ["vocab_size must be left out", "got 300 and"]),
    "no such tokenizer": (
        "tokenize",
        {"tokenizer": "no/such/tokenizer", "vocab_size": None},
        [],
        1,
        ["tokenizer must name a Hugging Face tokenizer", "got 'no/such/tokenizer'", "Mend tokenizer"],
    ),
    "no such end": (
        "tokenize",
        {"tokenizer": "<teacher>", "vocab_size": None, "eos_token": "</s>"},
        [],
        1,
        ["got '</s>', which it does not know. Set eos_token"],
    ),
    "attention": ("tokenize", {"document_attention": "isolatd"}, [], 2, ["one of 'full', 'isolated', got isolatd"]),
    "long blocks": ("tokenize", {"block_size": 10**5}, [], 1, ["must fill a block of 100000", "lower block_size"]),
    "no threads": ("tokenize", {"num_workers": 0}, [], 1, ["num_workers must be at least 1, got 0"]),
    "negative chunk": ("tokenize", {"blocks_per_chunk": -1}, [], 1, ["blocks_per_chunk must be at least 1, got -1"]),
    "file for a folder": ("tokenize", {"output_dir": "text/a.txt"}, [], 1, ["must be a folder, got the file text/a"]),
    "folder of the user's": ("tokenize", {"output_dir": "text"}, [], 1, ["output_dir must be new", "with a.txt in it"]),
    "one path": (
        "tokenize",
        {"source": {"init_args": {"paths": "text/*"}}},
        [],
        2,
        ["paths: the value must be of type"],
    ),
    "no path": ("tokenize", {"source": {"init_args": {"paths": []}}}, [], 1, ["got []. Set source.paths of TextFiles"]),
    "path": ("tokenize", {"source": {"init_args": {"path": []}}}, [], 2, ["no setting 'path'. Did you mean 'paths'?"]),
    "encoding": ("tokenize", {"source": {"init_args": {"encoding": "utf-9"}}}, [], 1, ["got 'utf-9'. Set source.enc"]),
    "another encoding": (
        "tokenize",
        {"source": {"init_args": {"paths": ["latin.txt"]}}},
        [],
        1,
        ["latin.txt must be text in utf-8, got bytes", "set source.encoding"],
    ),
    "pieces of nothing": ("tokenize", {"source": {"init_args": {"split_bytes": 0}}}, [], 1, ["split_bytes must be at"]),
    "no such source": ("tokenize", {"source": {"class_path": "my_own.Wiki"}}, [], 2, ["source: ", "module 'my_own'"]),
    "field": (
        "tokenize",
        source("data.JSONLines", paths=["rows.jsonl"], field="body"),
        [],
        1,
        ["rows.jsonl, line 1 must hold text in the field 'body', got the fields text. Set source.field."],
    ),
    "text for JSON": (
        "tokenize",
        source("data.JSONLines", paths=["text/a.txt"]),
        [],
        1,
        ["text/a.txt, line 1 must be one JSON object, got", "use pd_lightning.data.TextFiles"],
    ),
    "no gzip": ("tokenize", source("data.JSONLines", paths=["bad.jsonl.gz"]), [], 1, ["bad.jsonl.gz must be", "Mend"]),
    "no Zstandard": ("tokenize", source("data.JSONLines", paths=["bad.jsonl.zst"]), [], 1, ["bad.jsonl.zst must be"]),
    "no Parquet": (
        "tokenize",
        source("data.Parquet", paths=["text/a.txt"]),
        [],
        1,
        ["text/a.txt must be a Parquet file, got something else", "pd_lightning.data.JSONLines"],
    ),
    "no such split": (
        "tokenize",
        source("data.HuggingFace", name="text", split="trian"),
        [],
        1,
        ["'trian' (Bad split: trian", "Mend source.name, source.config or source.split"],
    ),
    # record
    "into a store": (
        "record",
        {"model": {"output_dir": "<store>"}},
        [],
        1,
        ["selection was", "Set another model.output"],
    ),
    "into blocks": ("record", {"model": {"output_dir": "<blocks>"}}, [], 1, ["must be a new folder", "holds blocks"]),
    "kept and drawn": (
        "record",
        {"model": {"sampling": {"samples": 5}, "selection": {"k": 5}}},
        [],
        1,
        ["model.selection must be left out with model.sampling, got both"],
    ),
    "more than k": (
        "record",
        {"model": {"selection": {"k": 5, "min_k": 10}}},
        [],
        1,
        ["got k 5 and min_k 10. Set model"],
    ),
    "topk": ("record", {"model": {"selection": {"topk": 5}}}, [], 2, ["no setting 'topk'", "It has: p, k, min_k"]),
    "no draws": ("record", {"model": {"sampling": {"samples": 0}}}, [], 1, ["samples must be at least 1, got 0"]),
    "values": ("record", {"model": {"values": "haf"}}, [], 2, ["one of 'exact', 'half', 'compact', got haf"]),
    "budget": ("record", {"model": {"kl_budget": 0.1}}, [], 1, ["kl_budget must", "Set model.values to compact"]),
    "nobody": (
        "record",
        {"model": {"teacher": None}},
        [],
        2,
        ["model.teacher must be given, got nothing", "--model.t"],
    ),
    "no teacher": (
        "record",
        {"model": {"teacher": of("teachers.NoTeacher")}},
        [],
        1,
        ["got NoTeacher. Set model.teacher"],
    ),
    "stored teacher": ("record", {"model": {"teacher": of("teachers.OfflineTeacher")}}, [], 1, ["FrozenTeacher"]),
    "part of a chunk": (
        "record",
        {"trainer": {"limit_predict_batches": 3}},
        [],
        1,
        ["every block", "max_train_blocks"],
    ),
    "a second tokenizer": ("record", {"model": {"tokenizer": "<teacher>"}}, [], 1, ["Remove model.tokenizer"]),
    "storage": ("record", {"model": {"upload_to": "s3x://a/b"}}, [], 1, ["model.upload_to must", "got s3x://a/b"]),
    # validate, plot-schedules, and command lines
    "validate auto": (
        "validate",
        None,
        ["--ckpt_path", "auto"],
        1,
        ["is for fit, got it for validate. Use --ckpt_path"],
    ),
    "validate last": ("validate", None, ["--ckpt_path", "last"], 1, ["must find a checkpoint in run", "Run fit first"]),
    "validate none": ("validate", None, ["--ckpt_path", "no.ckpt"], 1, ["got no.ckpt, which does not exist"]),
    "validate text": (
        "validate",
        None,
        ["--ckpt_path", "text/a.txt"],
        1,
        ["must be a whole checkpoint", "another check"],
    ),
    "validate folder": (
        "validate",
        None,
        ["--ckpt_path", "text"],
        1,
        ["a whole checkpoint, got the folder text, which is none", "Set --ckpt_path to another"],
    ),
    "fit last": ("fit", None, ["--ckpt_path", "last"], 1, ["must find a checkpoint", "Use --ckpt_path auto to start"]),
    "fit weights": ("fit", None, ["--ckpt_path", "<teacher>/model.safetensors"], 1, ["must be a whole checkpoint"]),
    "picture": ("plot-schedules", None, ["--output_path", "a.txt"], 1, [".png, .pdf or .svg, got a.txt. Change"]),
    "plotted weight": (
        "plot-schedules",
        {"model": {"kd_weight": of("schedules.Linear", start=0.0, end=2.0)}},
        [],
        1,
        ["model.kd_weight must stay in [0, 1], got", "Change model.kd_weight"],
    ),
    "plotted length": ("plot-schedules", {"trainer": {"max_steps": -1}}, [], 1, ["length of a training must be set"]),
    "steps": (
        "fit",
        None,
        ["--trainer.max_stepz=3"],
        2,
        ["no setting 'trainer.max_stepz'. Did you mean 'trainer.max_s"],
    ),
    "no section": ("fit", None, ["--max_steps=3"], 2, ["no setting 'max_steps'. Did you mean 'trainer.max_steps'?"]),
    "no dashes": (
        "fit",
        None,
        ["trainer.max_steps=3"],
        2,
        ["is not expected here. Settings are given as --name=value"],
    ),
    "no file": ("fit", None, ["--config"], 1, ["--config must be followed by a YAML file, got nothing"]),
    "no entry": (
        "fit",
        None,
        ["--model.transforms.x.k=3"],
        1,
        ["model.transforms.x must be there before", "Set --model"],
    ),
    "below a number": (
        "fit",
        None,
        ["--model.kd_weight.peek=1"],
        2,
        ["'peek' must be below a class", "kd_weight.class_path"],
    ),
}
IMPORT = ["import-logits", "--output_dir", "o", "--tokenizer", "<teacher>", "--teacher", "x", "--paths"]
SELECT = ["select", "--output_dir", "o", "--reference_store", "<store>", "--teacher_store"]
# A whole command line, exit code, and what the message says.
TYPED: dict[str, tuple[list[str], int, list[str]]] = {
    "export of nothing": (
        ["export", "--ckpt_path", "no.ckpt", "--output_dir", "o"],
        1,
        ["got no.ckpt, where there is none"],
    ),
    "export to nowhere": (["export", "--ckpt_path", "no.ckpt"], 2, ["output_dir must be given, got nothing"]),
    "export of text": (["export", "--ckpt_path", "text/a.txt", "--output_dir", "o"], 1, ["must be a whole checkpoint"]),
    "export in words": (
        ["export", "--ckpt_path", "x", "--output_dir", "o", "--dtype", "float8"],
        2,
        ["dtype: the value must be one of 'float32', 'bfloat16', 'float16', got float8"],
    ),
    "compare nothing": (["compare", "<teacher>"], 2, ["teacher must be given, got nothing"]),
    "compare nowhere": (
        ["compare", "<teacher>", "nowhere"],
        1,
        ["teacher must be a Hugging Face folder, a run folder with", "got nowhere", "pd-lightning export"],
    ),
    "compare data": (["compare", "<blocks>", "<teacher>"], 1, ["student must be a Hugging Face folder, a run folder"]),
    "compare text": (["compare", "text/a.txt", "<teacher>"], 1, ["must be a whole checkpoint"]),
    "compare at length": (
        ["compare", "<teacher>", "<short>", "--prompt_tokens", "16", "--new_tokens", "8"],
        1,
        ["must together be at most 8, the teacher's max_position_embeddings, got 24. Lower --prompt_tokens"],
    ),
    "compare one token": (["compare", "<teacher>", "<teacher>", "--new_tokens", "1"], 1, ["new_tokens must be at le"]),
    "compare no prompt": (["compare", "<teacher>", "<teacher>", "--batch_sizes", "[0]"], 1, ["batch_sizes must be"]),
    "compare into a folder": (
        ["compare", "<teacher>", "<teacher>", "--output_path", "text"],
        1,
        ["output_path must be a file, got the folder text. Add a name"],
    ),
    "compare in words": (
        ["compare", "<teacher>", "<teacher>", "--dtype", "int8"],
        2,
        ["dtype: the value must be one of 'auto', 'float32', 'bfloat16', 'float16', got int8"],
    ),
    "inspect nothing": (["inspect"], 2, ["path must be given, got nothing"]),
    "inspect nowhere": (
        ["inspect", "nowhere"],
        1,
        ["the data folder must exist, got nowhere", "pd-lightning tokenize"],
    ),
    "inspect a model": (["inspect", "<teacher>"], 1, ["must hold manifest.json", "without it. Write one with"]),
    "inspect storage": (
        ["inspect", "s3://bucket/store"],
        1,
        ["path must be a folder on this machine", "Copy the folder"],
    ),
    "inspect two": (["inspect", "<store>", "<store>"], 2, ["is not expected here. Settings are given as --name=value"]),
    "verfy": (["inspect", "<store>", "--verfy"], 2, ["no setting 'verfy'. Did you mean 'verify'?"]),
    "less than no block": (["inspect", "<store>", "--recompute", "-1"], 1, ["recompute must be at least 0, got -1"]),
    "recomputed tokens": (["inspect", "<blocks>", "--recompute", "2"], 1, ["with token blocks. Leave out --recompute"]),
    "a teacher alone": (["inspect", "<store>", "--teacher", "x"], 1, ["teacher must come with recompute, got x alone"]),
    "import of nothing": ([*IMPORT, "[]"], 1, ["paths must name at least one file, got []. Set paths."]),
    "import of no file": ([*IMPORT, "[no.jsonl]"], 1, ["must name a file", "got 'no.jsonl'. Mend paths."]),
    "import of one": ([*IMPORT, "rows.jsonl"], 2, ["paths: the value must be of type list, got rows.jsonl"]),
    "import of text": (
        [*IMPORT, "[text/a.txt]"],
        1,
        ["text/a.txt, line 1 must be one JSON object, got", "Mend the file"],
    ),
    "import of other fields": (
        [*IMPORT, "[rows.jsonl]"],
        1,
        ["rows.jsonl, row 1 must have the fields", "got text. Set tokens_field and logprobs_field."],
    ),
    "import of no Parquet": (
        [*IMPORT, "[bad.parquet]"],
        1,
        ["bad.parquet must be a Parquet file, got", "Mend the file"],
    ),
    "import of no gzip": (
        [*IMPORT, "[bad.jsonl.gz]"],
        1,
        ["bad.jsonl.gz must be text in utf-8, got bytes", "leave it out"],
    ),
    "import of half a row": (
        [*IMPORT, "[said.jsonl]", "--tokens_field", "tokens", "--logprobs_field", "said"],
        1,
        ["said.jsonl, row 1", "3", "2"],
    ),
    "import as words": (
        [*IMPORT, "[rows.jsonl]", "--values", "haf"],
        2,
        ["one of 'exact', 'half', 'compact', got haf"],
    ),
    "import for validation": ([*IMPORT, "[rows.jsonl]", "--val_fraction", "2"], 1, ["val_fraction must be", "got 2.0"]),
    "import of nobody": ([*IMPORT[:5], "--paths", "[rows.jsonl]"], 2, ["teacher must be given, got nothing"]),
    "select nothing": ([*SELECT, "<store>", "--fraction", "0"], 1, ["fraction must be above 0 and below 1, got 0.0"]),
    "select of tokens": ([*SELECT, "<blocks>"], 1, ["teacher_store must be a logit store with the column", "record"]),
    "select from nowhere": ([*SELECT, "nowhere"], 1, ["the data folder must exist, got nowhere"]),
    "select unfinished": ([*SELECT, "<unfinished>"], 1, ["must be finished", "Run the command that writes it again"]),
    "trian": (["trian"], 2, ["the command must be one of tokenize", "got trian"]),
    "underscore": (["plot_schedules"], 2, ["got plot_schedules. Did you mean plot-schedules?"]),
    "command last": (["--config", "base.yaml", "fit"], 2, ["the command must come first, got --config. Choose one of"]),
    "fit of nothing": (["fit"], 2, ["model.student and data must be given, got nothing. Set it in a --config file"]),
    "record of nothing": (["record"], 2, ["model.teacher and model.output_dir and data must be given"]),
    "tokenize to nowhere": (["tokenize"], 2, ["output_dir must be given, got nothing"]),
}


@pytest.fixture(autouse=True)
def files(folder: Path) -> None:
    (folder / "rows.jsonl").write_text('{"text": "a b c"}\n')
    (folder / "said.jsonl").write_text(json.dumps({"tokens": [1, 2, 3], "said": [None, {"2": -1.0}]}) + "\n")
    (folder / "latin.txt").write_bytes("é".encode("latin-1") * 50)
    for name in ("bad.jsonl.gz", "bad.jsonl.zst", "bad.parquet"):
        (folder / name).write_bytes(b"neither gzip, nor Zstandard, nor Parquet")


def fill(argv: list[str], places: dict[str, str]) -> list[str]:
    for name, path in places.items():
        argv = [argument.replace(f"<{name}>", path) for argument in argv]
    return argv


@pytest.mark.parametrize("name", LAID_OVER)
def test_a_mistake_is_explained(run: Run, told: Told, places: dict[str, str], name: str) -> None:
    base, mistake, argv, code, fragments = LAID_OVER[name]
    assert run(base, mistake, *fill(argv, places)) == code
    message = told()
    assert [fragment for fragment in fragments if fragment not in message] == [], message


@pytest.mark.parametrize("name", TYPED)
def test_a_mistaken_command_line_is_explained(told: Told, places: dict[str, str], name: str) -> None:
    argv, code, fragments = TYPED[name]
    assert main(fill(argv, places)) == code
    message = told()
    assert [fragment for fragment in fragments if fragment not in message] == [], message


def test_damage_is_an_exit_code(places: dict[str, str], capsys: pytest.CaptureFixture) -> None:
    assert main(["inspect", places["store"], "--verify"]) == 0
    assert main(["inspect", places["bad_item"], "--verify"]) == 1
    assert "chunk-000000.bin" in capsys.readouterr().out
