"""A small corpus, tokenized; a small teacher; and what the teacher says of the corpus: made once for all tests."""

import importlib.util
import os
import shutil
import sys
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import lightning.pytorch  # noqa: F401 - now: its loggers keep the stderr of their import, and a test's own is closed
import pytest
import yaml

TINY = {
    "model_type": "llama",
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 32,
}
BLOCK_SIZE = 16
VOCAB_SIZE = 300
BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture(scope="session")
def killed() -> Callable[..., bool]:
    """Runs something in a forked process that dies at one of the events that `watch` reports; False if it got by."""

    def run(call: int, action: Callable[[], Any], watch: Callable[[Callable[[], None]], None]) -> bool:
        child = os.fork()
        if child == 0:
            left = [call]

            def strike() -> None:
                left[0] -= 1
                if left[0] == 0:
                    os._exit(9)

            try:
                watch(strike)
                action()
                os._exit(0)
            finally:
                os._exit(1)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert code in (0, 9)
        return code == 9

    return run


@pytest.fixture(scope="session")
def tiny() -> SimpleNamespace:
    """Sizes of the small models and data."""
    return SimpleNamespace(config=TINY, block_size=BLOCK_SIZE, vocab_size=VOCAB_SIZE)


@pytest.fixture(scope="session")
def blocks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Token blocks of a few modules of the standard library."""
    from pd_lightning.data import TextFiles
    from pd_lightning.data.tokenize import tokenize

    folder = tmp_path_factory.mktemp("data") / "blocks"
    library = Path(sysconfig.get_paths()["stdlib"])
    source = TextFiles(paths=[str(library / name / "*.py") for name in ("json", "html", "wsgiref")], split_bytes=4000)
    tokenize(str(folder), source, vocab_size=VOCAB_SIZE, block_size=BLOCK_SIZE, val_fraction=0.2)
    return folder


@pytest.fixture(scope="session")
def teacher_dir(tmp_path_factory: pytest.TempPathFactory, blocks: Path) -> Path:
    """A Hugging Face folder with a small untrained model and the tokenizer of the blocks."""
    import torch
    from transformers import AutoTokenizer

    from pd_lightning.language_model import build_causal_lm

    folder = tmp_path_factory.mktemp("teacher")
    torch.manual_seed(7)
    model: Any = build_causal_lm({**TINY, "vocab_size": VOCAB_SIZE, "initializer_range": 0.3})
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(blocks / "tokenizer").save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def exact_store(tmp_path_factory: pytest.TempPathFactory, blocks: Path, teacher_dir: Path) -> Path:
    """All ids of the first blocks, in float32."""
    return record(tmp_path_factory.mktemp("exact") / "store", blocks, teacher_dir, "exact", p=1.0, k=VOCAB_SIZE)


@pytest.fixture(scope="session")
def truncated_store(tmp_path_factory: pytest.TempPathFactory, blocks: Path, teacher_dir: Path) -> Path:
    """The ids of the first blocks up to 0.9 of the probability, 20 at most, in float16."""
    return record(tmp_path_factory.mktemp("truncated") / "store", blocks, teacher_dir, "half", p=0.9, k=20)


def record(folder: Path, blocks: Path, teacher_dir: Path, values: Any, **selection: Any) -> Path:
    from pd_lightning.data import TokenBlocks
    from pd_lightning.record import Recorder
    from pd_lightning.selection import Selection
    from pd_lightning.teachers import FrozenTeacher
    from pd_lightning.trainer import PDTrainer

    recorder = Recorder(FrozenTeacher(str(teacher_dir)), str(folder), Selection(**selection), values)
    data = TokenBlocks(str(blocks), batch_size=8, max_train_blocks=40, max_val_blocks=12)
    trainer = PDTrainer(accelerator="cpu", logger=False, enable_progress_bar=False, barebones=False)
    trainer.record(recorder, data)
    return folder


# What makes the demo small enough for a test; all else is what README says.
SMALLER = {
    "tokenize": {"source": {"class_path": "pd_lightning.data.TextFiles", "init_args": {"paths": ["text"]}}},
    "teacher": {"trainer": {"max_steps": 3, "val_check_interval": 3}, "data": {"init_args": {"max_val_blocks": 4}}},
    "student": {
        "trainer": {"max_steps": 3, "val_check_interval": 3},
        "data": {"init_args": {"max_train_blocks": 64, "max_val_blocks": 4}},
    },
    "record": {"data": {"init_args": {"max_train_blocks": 64, "max_val_blocks": 4}}},
}


def merge(base: dict, overlay: dict) -> dict:
    merged = dict(base)
    for key, value in overlay.items():
        merged[key] = merge(base[key], value) if isinstance(value, dict) and isinstance(base.get(key), dict) else value
    return merged


@pytest.fixture
def small_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory has the demo's configurations, small enough for a test."""
    shutil.copytree(Path(__file__).parents[1] / "configs", tmp_path / "configs")
    for name, overlay in SMALLER.items():
        path = tmp_path / "configs" / "demo" / f"{name}.yaml"
        settings = yaml.safe_load(path.read_text())
        if name == "tokenize":
            settings.pop("source")
        path.write_text(yaml.safe_dump(merge(settings, overlay)))
    (tmp_path / "text").mkdir()
    for number, module in enumerate(
        ["argparse", "ast", "datetime", "decimal", "inspect", "os", "subprocess", "typing"]
    ):
        library = Path(sysconfig.get_paths()["stdlib"])
        shutil.copy(library / f"{module}.py", tmp_path / "text" / f"{number}.py")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def benchmark() -> Iterator[Callable[[str], ModuleType]]:
    """Loads a benchmark by name: they are scripts, in no package, and import one another from their folder."""

    def load(name: str) -> ModuleType:
        spec = importlib.util.spec_from_file_location(f"benchmark_{name}", BENCHMARKS / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module  # dataclasses look their module up
        spec.loader.exec_module(module)
        return module

    sys.path.append(str(BENCHMARKS))
    yield load
    sys.path.remove(str(BENCHMARKS))
