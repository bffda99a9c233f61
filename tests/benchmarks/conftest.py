import importlib.util
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


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


@pytest.fixture
def same_threads() -> Iterator[None]:
    """Gives PyTorch back the threads that a benchmark set otherwise."""
    import torch

    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
