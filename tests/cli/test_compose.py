from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from jsonargparse import ActionConfigFile, ArgumentParser

from pd_lightning.composition.compose import as_arguments, compose, merge, read_yaml

UP = {"class_path": "pkg.Up", "init_args": {"peak": 3, "warmup": 0.5}}
BASE = {
    "model": {"lr": UP, "name": "WSD", "transforms": {"a": UP, "b": "pkg.Down"}, "width": 3},
    "trainer": {"max_steps": 5, "callbacks": [UP], "logger": None},
    "data": {"class_path": "pkg.Rows"},
    "seed": 1,
}


@pytest.mark.parametrize(
    ("overlay", "path", "expected"),
    [
        ({"model": {"width": 4}}, "model.width", 4),
        ({"model": {"width": 4}}, "model.lr", UP),
        ({"trainer": {"callbacks": []}}, "trainer.callbacks", []),
        ({"model": {"lr": {"init_args": {"peak": 9}}}}, "model.lr.init_args", {"peak": 9, "warmup": 0.5}),
        ({"model": {"lr": {"class_path": "pkg.Down"}}}, "model.lr", {"class_path": "pkg.Down"}),
        (
            {"model": {"lr": {"class_path": "pkg.Down", "init_args": {"warmup": 1}}}},
            "model.lr",
            {"class_path": "pkg.Down", "init_args": {"warmup": 1}},
        ),
        ({"model": {"lr": {"class_path": "other.Up"}}}, "model.lr", {"class_path": "other.Up"}),
        ({"model": {"lr": {"class_path": "Up", "init_args": {"peak": 9}}}}, "model.lr.class_path", "pkg.Up"),
        (
            {"model": {"lr": {"class_path": "Up", "init_args": {"peak": 9}}}},
            "model.lr.init_args",
            {"peak": 9, "warmup": 0.5},
        ),
        ({"model": {"lr": "Down"}}, "model.lr", {"class_path": "Down"}),
        ({"model": {"lr": "Up"}}, "model.lr", UP),
        ({"model": {"lr": None}}, "model.lr", None),
        ({"model": {"name": {"init_args": {"x": 1}}}}, "model.name", {"class_path": "WSD", "init_args": {"x": 1}}),
        ({"model": {"transforms": {"c": UP}}}, "model.transforms", {"a": UP, "b": "pkg.Down", "c": UP}),
        ({"model": {"transforms": {"a": None}}}, "model.transforms", {"b": "pkg.Down"}),
        ({"model": {"transforms": None}}, "model.transforms", None),
        ({"model": {"weighting": {"a": UP, "b": None}}}, "model.weighting", {"a": UP}),
        ({"trainer": {"logger": False}}, "trainer.logger", False),
    ],
)
def test_a_second_file_is_laid_over_the_first(
    write: Callable[..., Path], overlay: dict, path: str, expected: Any
) -> None:
    first, second = write("first.yaml", BASE), write("second.yaml", overlay)
    config, rest = compose(["--config", str(first), f"--config={second}"])
    assert lookup(config, path) == expected
    assert rest == []


def test_an_entry_set_to_null_comes_last_when_it_is_named_again(write: Callable[..., Path]) -> None:
    """Transforms act in their order, and an overlay may have to come before what is there."""
    files = [
        write("first.yaml", BASE),
        write("second.yaml", {"model": {"transforms": {"b": None, "c": UP}}}),
        write("third.yaml", {"model": {"transforms": {"b": "pkg.Other", "none": None}}}),
    ]
    config, _ = compose([f"--config={file}" for file in files])
    assert list(config["model"]["transforms"].items()) == [("a", UP), ("c", UP), ("b", "pkg.Other")]


@pytest.mark.parametrize(
    ("arguments", "path", "expected"),
    [
        ("--model.width=4", "model.width", 4),
        ("--model.width 4", "model.width", 4),
        ("--model.width -4", "model.width", -4),
        ("--model.new=[1,x]", "model.new", [1, "x"]),
        ("--model.lr.init_args.peak=1e-3", "model.lr.init_args", {"peak": 1e-3, "warmup": 0.5}),
        ("--model.lr.peak=1e-3", "model.lr.init_args", {"peak": 1e-3, "warmup": 0.5}),
        ("--model.lr.dict_kwargs.x=1", "model.lr.dict_kwargs", {"x": 1}),
        ("--model.lr=pkg.Down", "model.lr", {"class_path": "pkg.Down"}),
        ("--model.lr.class_path=pkg.Down", "model.lr", {"class_path": "pkg.Down"}),
        ("--model.lr=Up", "model.lr", UP),
        ("--model.lr=Down --model.lr.peak=2", "model.lr", {"class_path": "Down", "init_args": {"peak": 2}}),
        ("--model.lr.peak=2 --model.lr=Down", "model.lr", {"class_path": "Down"}),
        ("--model.lr=null", "model.lr", None),
        ("--model.name.x=1", "model.name", {"class_path": "WSD", "init_args": {"x": 1}}),
        ("--model.transforms.a.peak=7", "model.transforms.a.init_args.peak", 7),
        ("--model.transforms.b.name=n", "model.transforms.b", {"class_path": "pkg.Down", "init_args": {"name": "n"}}),
        ("--model.transforms.c=pkg.Up", "model.transforms.c", "pkg.Up"),
        ("--model.transforms.a=null", "model.transforms", {"b": "pkg.Down"}),
        ("--data.path=here", "data", {"class_path": "pkg.Rows", "init_args": {"path": "here"}}),
        ("--data=pkg.Other", "data", {"class_path": "pkg.Other"}),
        ("--trainer.max_steps=1.5e+2", "trainer.max_steps", 150.0),
        ("--model.width=", "model.width", ""),
        ("--model.width=#5", "model.width", "#5"),
        ("--model.width={a", "model.width", "{a"),
    ],
)
def test_an_override_on_the_command_line_counts(
    write: Callable[..., Path], arguments: str, path: str, expected: Any
) -> None:
    config, rest = compose(["--config", str(write("first.yaml", BASE)), *arguments.split(" ")])
    assert lookup(config, path) == expected
    assert rest == []


@pytest.mark.parametrize(
    "arguments",
    [
        "--seed=3",
        "--seed 3",
        "--print_config",
        "--ckpt_path last",
        "--trainer.callbacks+=EarlyStopping",
        "--trainer.callbacks+=EarlyStopping --trainer.callbacks.patience=3",
        "--trainer.callbacks.0.peak=3",
        "--trainer.max_steps.deeper=3",
        "--model.lr.help pkg.Down",
        "--model.help",
        "--model.unheard.of=3",
        "--optimizer.lr=3",
        "--optimizer=SGD --optimizer.lr=3",
        "--trainer.fast_dev_run --print_config",
        "value",
    ],
)
def test_what_needs_types_is_left_to_the_parser(write: Callable[..., Path], arguments: str) -> None:
    config, rest = compose(["-c", str(write("first.yaml", BASE)), *arguments.split(" ")])
    assert config == BASE
    assert rest == arguments.split(" ")


def test_files_and_overrides_count_in_their_order(write: Callable[..., Path]) -> None:
    first, second = write("first.yaml", BASE), write("second.yaml", {"model": {"width": 8}})
    assert compose(["-c", str(first), "--model.width=4", "-c", str(second)])[0]["model"]["width"] == 8
    assert compose(["-c", str(first), "-c", str(second), "--model.width=4"])[0]["model"]["width"] == 4


def test_merging_changes_neither_side() -> None:
    base, overlay = {"a": {"b": 1}}, {"a": {"c": 2}}
    assert merge(base, overlay) == {"a": {"b": 1, "c": 2}}
    assert (base, overlay) == ({"a": {"b": 1}}, {"a": {"c": 2}})


def test_shared_yaml_nodes_stay_apart(write: Callable[..., Path]) -> None:
    path = write("first.yaml", "a: &x {class_path: pkg.Up, init_args: {peak: 1}}\nb: *x\n")
    config, _ = compose(["-c", str(path), "--a.peak=2"])
    assert (config["a"]["init_args"]["peak"], config["b"]["init_args"]["peak"]) == (2, 1)


@pytest.mark.parametrize(("text", "expected"), [("", {}), ("# nothing\n", {}), ("trainer:\n", {"trainer": None})])
def test_an_empty_file_is_fine(write: Callable[..., Path], text: str, expected: dict) -> None:
    assert compose(["--config", str(write("empty.yaml", text))]) == (expected, [])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: c: 2\n", r"bad.yaml, line 2, column 5: this is no valid YAML \(mapping values are not allowed"),
        ("- 1\n- 2\n", r"bad.yaml must hold a mapping of settings \(name: value\), got \[1, 2\]"),
        ("a: \x01", r"bad.yaml: this is no YAML text"),
    ],
)
def test_a_broken_file_is_named(write: Callable[..., Path], text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        compose(["--config", str(write("bad.yaml", text))])


def test_a_missing_file_is_named() -> None:
    with pytest.raises(FileNotFoundError, match=r"--config must name a YAML file, got nowhere.yaml"):
        compose(["--config", "nowhere.yaml"])
    with pytest.raises(ValueError, match=r"--config must be followed by a YAML file"):
        compose(["--config"])


@pytest.mark.parametrize(
    "value", ["1e-3", "text", "on", "~", 1e-3, 1e-7, float("inf"), 3, True, None, [1, "2"], "ü: {"]
)
def test_the_parser_reads_back_what_was_merged(value: Any) -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--config", action=ActionConfigFile)
    parser.add_argument("--a", type=dict)
    parsed = parser.parse_args(as_arguments({"a": {"b": value}}, []))
    assert parsed.a == {"b": value}
    assert type(parsed.a["b"]) is type(value)


def test_no_settings_need_no_argument() -> None:
    assert as_arguments({}, ["--help"]) == ["--help"]


def lookup(config: Any, path: str) -> Any:
    for part in path.split("."):
        config = config[part]
    return config


def test_a_setting_of_an_entry_that_is_not_there_is_refused(write: Callable[..., Path]) -> None:
    file = str(write("first.yaml", BASE))
    with pytest.raises(ValueError, match=r"model.transforms.new must be there before its settings are, got none. Set"):
        compose(["--config", file, "--model.transforms.new.value=2"])
    for way in (["--model.transforms.new=pkg.New"], ["--model.transforms.new.class_path=pkg.New"]):
        config, rest = compose(["--config", file, *way, "--model.transforms.new.init_args.value=2"])
        assert config["model"]["transforms"]["new"] == {"class_path": "pkg.New", "init_args": {"value": 2}}
        assert rest == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: 1\nb: {c: 1,\n c: 2}\n", "line 3: each name must be given once, got c again"),
        ("a:\n- {b: 1}\n- b: 1\n  b: 2\n", "line 4: each name must be given once, got b again"),
        ("a: &x {q: 1}\nb: *x\nc:\n  <<: *x\n", None),
        ("a: {b: 1}\nc: {b: 1}\n", None),
    ],
)
def test_a_name_is_given_once(tmp_path: Path, text: str, said: str | None) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(text)
    if said is None:
        assert read_yaml(str(path))
    else:
        with pytest.raises(ValueError, match=said):
            read_yaml(str(path))
