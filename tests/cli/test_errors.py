import errno
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from torch.utils.data import DataLoader, Dataset

from pd_lightning.cli.errors import CommandLineError, exit_code, user_message
from pd_lightning.cli.parse_errors import explain

Run = Callable[..., int]


def fit_error(run: Run, capsys: pytest.CaptureFixture, code: int, *argv: object) -> str:
    """What `fit` prints when it fails: one line, no traceback."""
    assert run("fit", *argv) == code
    error = capsys.readouterr().err
    lines = [line for line in error.splitlines() if line.startswith("pd-lightning: ")]
    assert len(lines) == 1
    assert error.endswith(lines[0] + "\n")
    assert "Traceback" not in error
    return lines[0].removeprefix("pd-lightning: error: ")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ({"trainer": {"max_stepz": 3}}, "there is no setting 'trainer.max_stepz'. Did you mean 'trainer.max_steps'?"),
        ({"modle": {"width": 3}}, "there is no setting 'modle.width'. Did you mean 'model.width'?"),
        (
            {"model": {"lr": {"class_path": "command_toys.Up", "init_args": {"peek": 3}}}},
            "model.lr: command_toys.Up has no setting 'peek'. Did you mean 'peak'? It has: peak, warmup.",
        ),
        (
            {"model": {"transforms": {"a": {"class_path": "command_toys.Upp"}}}},
            "model.transforms: there is no class 'Upp' in command_toys. Did you mean 'Up'?",
        ),
        (
            {"model": {"lr": {"class_path": "nowhere.Up"}}},
            "model.lr: class_path nowhere.Up can't be imported: there is no module 'nowhere'.",
        ),
        ({"model": {"lr": "Upp"}}, "model.lr: there is no class 'Upp'. Give its full class_path,"),
        ({"model": {"lr": {"class_path": "command_toys.Rows"}}}, "model.lr: the class must be a Ramp"),
        ({"trainer": {"max_steps": "many"}}, "trainer.max_steps: the value must be of type int, got many."),
        (
            {"data": {"init_args": {"path": 2024}}},
            "data.init_args.path: the value must be of type str, got 2024.",
        ),
        (
            {"trainer": {"callbacks": [{"class_path": "EarlyStopping"}]}},
            "trainer.callbacks: lightning.pytorch.callbacks.EarlyStopping needs a value for monitor.",
        ),
    ],
)
def test_a_wrong_yaml_is_explained(
    run: Run,
    base: Path,
    write: Callable[..., Path],
    capsys: pytest.CaptureFixture,
    override: dict,
    message: str,
) -> None:
    error = fit_error(run, capsys, 2, "--config", base, "--config", write("overlay.yaml", override))
    assert error.startswith(message)


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--trainer.max_stepz=3", "there is no setting 'trainer.max_stepz'. Did you mean 'trainer.max_steps'?"),
        ("--ckpt_pat=last", "there is no setting 'ckpt_pat'. Did you mean 'ckpt_path'?"),
        ("stray", "'stray' is not expected here. Settings are given as --name=value."),
        ("--model.lr.peak=high", "model.lr.init_args.peak: the value must be of type float, got high."),
    ],
)
def test_a_wrong_command_line_is_explained(
    run: Run, base: Path, capsys: pytest.CaptureFixture, argument: str, message: str
) -> None:
    assert fit_error(run, capsys, 2, "--config", base, argument).startswith(message)


def test_missing_data_is_explained(run: Run, capsys: pytest.CaptureFixture) -> None:
    assert fit_error(run, capsys, 2) == "data must be given, got nothing. Set it in a --config file, or as --data=…"


def test_a_missing_file_is_named(run: Run, capsys: pytest.CaptureFixture) -> None:
    error = fit_error(run, capsys, 1, "--config", "nowhere.yaml")
    assert error == "--config must name a YAML file, got nowhere.yaml, which does not exist."


def test_an_unknown_message_is_condensed() -> None:
    message = (
        'Parser key "a":\n  Does not validate against any of the Union subtypes\n  Subtypes: [x]\n  odd\n' + "y" * 999
    )
    assert explain(message).startswith('Parser key "a": odd yyy')
    assert len(explain(message)) == 400


def test_a_constructor_is_named_by_its_setting(run: Run, base: Path, capsys: pytest.CaptureFixture) -> None:
    error = fit_error(run, capsys, 1, "--config", base, "--model.lr.peak=-1")
    assert error == "model.lr: peak must be at least 0, got -1.0. Set peak."


def test_our_error_in_training_is_one_line(run: Run, base: Path, capsys: pytest.CaptureFixture) -> None:
    error = fit_error(run, capsys, 1, "--config", base, "--model.fail=ours")
    assert error == "the batch must be fine, got a bad one. Set data."


def test_a_bug_keeps_its_traceback(run: Run, base: Path) -> None:
    with pytest.raises(ValueError, match="a bug of the toy"):
        run("fit", "--config", base, "--model.fail=bug")


def test_what_lightning_says_of_a_misused_hook_is_a_bug(
    run: Run, base: Path, toys: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(toys.Toy, "training_step", lambda self, batch, batch_idx: self.log("loss", [1.0]))
    with pytest.raises(ValueError, match="cannot be logged"):
        run("fit", "--config", base)


def test_a_slip_in_our_own_code_is_a_bug() -> None:
    with pytest.raises(ValueError) as caught:
        exec("int('x')", {"__name__": "pd_lightning.somewhere"})
    assert user_message(caught.value) is None


@pytest.mark.parametrize(("value", "raised"), [("1", True), ("0", False), ("", False)])
def test_a_traceback_can_be_asked_for(
    run: Run, base: Path, monkeypatch: pytest.MonkeyPatch, value: str, raised: bool
) -> None:
    monkeypatch.setenv("PD_LIGHTNING_TRACEBACK", value)
    if raised:
        with pytest.raises(ValueError, match="the batch must be fine"):
            run("fit", "--config", base, "--model.fail=ours")
    else:
        assert run("fit", "--config", base, "--model.fail=ours") == 1


def test_an_interruption_is_one_line(run: Run, base: Path, capsys: pytest.CaptureFixture) -> None:
    import signal

    handler = signal.getsignal(signal.SIGINT)
    try:
        assert run("fit", "--config", base, "--model.fail=interrupt") == 130
    finally:
        signal.signal(signal.SIGINT, handler)  # Lightning leaves it off
    assert capsys.readouterr().err.endswith("pd-lightning: interrupted\n")


class Broken(Dataset):
    def __init__(self, raiser: Callable[[Exception], None]) -> None:
        self.raiser = raiser

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> int:
        self.raiser(ValueError("the item must be fine,\ngot a bad one"))
        return 0


def raise_plainly(error: Exception) -> None:
    raise error


def test_an_error_in_a_worker_is_ours_if_its_last_file_is(toys: ModuleType, tmp_path: Path) -> None:
    from pd_lightning.cli import errors

    own = {}
    source = "def fail(error):\n    raise error\n"
    exec(compile(source, str(Path(errors.__file__).parent / "callbacks" / "imagined.py"), "exec"), own)
    assert worker_message(own["fail"]) == "the item must be fine,\ngot a bad one"
    assert worker_message(raise_plainly) is None


def worker_message(raiser: Callable[[Exception], None]) -> str | None:
    # The message travels as text: an in-process stand-in for the worker would not show its form.
    with pytest.raises(ValueError, match="Caught ValueError in DataLoader worker process 0") as caught:
        next(iter(DataLoader(Broken(raiser), num_workers=1, multiprocessing_context="fork")))
    return user_message(caught.value)


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (errno.ENOSPC, "No space left on device: run/x. Make room there and run the command again."),
        (errno.EACCES, "Permission denied: run/x. Choose another folder, or change its permissions."),
        (errno.EROFS, "Read-only file system: run/x. Choose another folder, or change its permissions."),
    ],
)
def test_the_limits_of_the_machine_are_no_bug(number: int, message: str) -> None:
    import os

    error = RuntimeError("writing failed")
    error.__cause__ = OSError(number, os.strerror(number), "run/x")
    assert user_message(error) == message


def test_a_limit_of_the_machine_met_by_native_code_is_no_bug() -> None:
    remedy = "Choose another folder, or change its permissions."
    assert user_message(Exception("writing failed (os error 30)")) == f"Read-only file system. {remedy}"
    assert user_message(Exception("writing failed (os error 5)")) is None


def test_a_module_of_ours_that_is_missing_is_a_bug() -> None:
    def import_as_ours(module: str) -> str | None:
        with pytest.raises(ModuleNotFoundError) as caught:
            exec(f"import {module}", {"__name__": "pd_lightning.somewhere"})
        return user_message(caught.value)

    assert import_as_ours("pd_lightning.nothing") is None
    assert import_as_ours("no_such_extra") == "No module named 'no_such_extra'"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (CommandLineError("wrong"), 2),
        (KeyboardInterrupt(), 130),
        (SystemExit(0), 0),
        (SystemExit(None), 0),
        (SystemExit(3), 3),
        (TypeError("a bug"), None),
    ],
)
def test_exit_codes(error: BaseException, code: int | None) -> None:
    assert exit_code(error) == code
