"""The real command line in this process, with sound settings to lay mistakes over."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from pd_lightning.cli import main
from pd_lightning.composition.compose import merge

TEXT = "".join(f"line {i} of a text that a tokenizer can learn from\n" for i in range(40))
Settings = dict[str, Any]


def of(class_path: str, **init_args: Any) -> Settings:
    return {"class_path": f"pd_lightning.{class_path}", "init_args": init_args}


@pytest.fixture(scope="session")
def places(
    tmp_path_factory: pytest.TempPathFactory,
    tiny: SimpleNamespace,
    blocks: Path,
    teacher_dir: Path,
    truncated_store: Path,
) -> dict[str, str]:
    """Folders for the settings below, by the names that stand for them in braces."""
    from pd_lightning.data import TextFiles
    from pd_lightning.data.tokenize import tokenize
    from pd_lightning.language_model import build_causal_lm

    folder = tmp_path_factory.mktemp("places")
    (folder / "text.txt").write_text(TEXT)
    for name, val_fraction in (("other", 0.3), ("no_val", 0.0)):
        source = TextFiles(paths=[str(folder / "text.txt")], split_bytes=100)
        tokenize(str(folder / name), source, vocab_size=300, block_size=16, val_fraction=val_fraction)
    for name, fields in (("wide", {"vocab_size": 310}), ("short", {"max_position_embeddings": 8})):
        model: Any = build_causal_lm({**tiny.config, "vocab_size": tiny.vocab_size, **fields})
        model.save_pretrained(folder / name)
    for name in ("unfinished", "newer", "bad_item", "bad_index"):
        shutil.copytree(truncated_store, folder / name)
    (folder / "unfinished" / "manifest.json").unlink()
    manifest = json.loads((folder / "newer" / "manifest.json").read_text())
    (folder / "newer" / "manifest.json").write_text(json.dumps({**manifest, "format_version": 2}))
    flip(folder / "bad_item" / "train" / "chunk-000000.bin", -40)
    flip(folder / "bad_index" / "train" / "index.json", -40)
    made = {path.name: str(path) for path in folder.iterdir()}
    return {**made, "blocks": str(blocks), "store": str(truncated_store), "teacher": str(teacher_dir)}


def flip(file: Path, position: int) -> None:
    content = bytearray(file.read_bytes())
    content[position] ^= 0x55
    file.write_bytes(content)


@pytest.fixture
def bases(places: dict[str, str], tiny: SimpleNamespace) -> dict[str, Settings]:
    """A sound YAML for each command; `offline` and `online` are `fit` with a teacher."""
    blocks = of("data.TokenBlocks", path=places["blocks"], batch_size=40, max_train_blocks=40, max_val_blocks=12)
    trainer = {
        "accelerator": "cpu",
        "max_steps": 1,
        "log_every_n_steps": 1,
        "default_root_dir": "run",
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    fit = {"model": {"student": of("students.HFStudent", config=tiny.config)}, "data": blocks, "trainer": trainer}
    record = {
        "model": {"teacher": of("teachers.FrozenTeacher", model=places["teacher"]), "output_dir": "store"},
        "data": blocks,
        "trainer": {"accelerator": "cpu", "enable_progress_bar": False},
    }
    tokenize = {
        "source": of("data.TextFiles", paths=["text/*.txt"], split_bytes=100),
        "output_dir": "blocks",
        "vocab_size": 300,
        "block_size": 16,
        "val_fraction": 0.3,
    }
    stored = {"model": {"teacher": of("teachers.OfflineTeacher")}, "data": {"init_args": {"path": places["store"]}}}
    return {
        "fit": fit,
        "offline": merge(fit, stored),
        "validate": fit,
        "plot-schedules": merge(fit, {"trainer": {"max_steps": 10}}),
        "online": merge(fit, {"model": {"teacher": record["model"]["teacher"]}}),
        "record": record,
        "tokenize": tokenize,
    }


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with a text in it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PD_LIGHTNING_TRACEBACK", raising=False)
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "a.txt").write_text(TEXT)
    return tmp_path


@pytest.fixture
def run(bases: dict[str, Settings], places: dict[str, str]) -> Callable[..., int]:
    """Run a base with a mistake laid over it, which is text or settings, and further arguments."""

    def run(base: str, mistake: Settings | str | None = None, *argv: str) -> int:
        Path("base.yaml").write_text(yaml.safe_dump(bases[base]))
        files = ["--config", "base.yaml"]
        if mistake is not None:
            text = mistake if isinstance(mistake, str) else yaml.safe_dump(mistake)
            for name, path in places.items():
                text = text.replace(f"<{name}>", path)
            Path("mistake.yaml").write_text(text)
            files += ["--config", "mistake.yaml"]
        return main([{"offline": "fit", "online": "fit"}.get(base, base), *files, *argv])

    return run


@pytest.fixture
def told(capsys: pytest.CaptureFixture) -> Callable[[], str]:
    """The message of the error: one line, the last on stderr, without a traceback."""

    def told() -> str:
        text = capsys.readouterr().err
        assert "Traceback" not in text
        _, mark, message = text.partition("pd-lightning: error: ")
        assert mark, text
        assert message.count("\n") == 1
        return message.removesuffix("\n")

    return told
