"""`pd-lightning plan --config`: a fit for 32 GPUs, checked and planned on this machine."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pd_lightning.cli import main
from pd_lightning.store.manifest import read_manifest


def test_a_run_for_32_gpus_is_planned_here(
    run_yaml: Callable[..., Path], planned: Callable[..., Any], tiny: Any, blocks: Path
) -> None:
    plan = planned("--config", run_yaml(), "--gpu=a100", "--price=2")
    assert plan["hardware"]["gpus"] == 32
    assert plan["tokens"] == 3 * 32 * tiny.block_size
