"""A fit on a damaged store ends with the error that says so, or has never read what is damaged."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pd_lightning.data import TokenBlocks
from pd_lightning.module import DistillationModule
from pd_lightning.students import HFStudent
from pd_lightning.teachers import OfflineTeacher
from pd_lightning.trainer import PDTrainer


def fit(store: Path, root: Path, tiny: Any) -> dict[str, torch.Tensor]:
    """The student after two steps over the store's first blocks."""
    torch.manual_seed(0)
    module = DistillationModule(HFStudent(config=tiny.config), OfflineTeacher())
    quiet = {
        "logger": False,
        "enable_progress_bar": False,
        "enable_checkpointing": False,
        "enable_model_summary": False,
    }
    trainer = PDTrainer(accelerator="cpu", max_steps=2, default_root_dir=str(root), **quiet)
    trainer.fit(module, datamodule=TokenBlocks(str(store), batch_size=4, shuffle=False))
    return module.state_dict()


def test_a_fit_finds_the_damage_or_does_not_read_it(truncated_store: Path, tmp_path: Path, tiny: Any) -> None:
    expected = fit(truncated_store, tmp_path, tiny)
    store = tmp_path / "store"
    shutil.copytree(truncated_store, store)
    rng, outcomes = np.random.default_rng(1), []
    for path in sorted(path for path in store.rglob("*") if path.is_file()):
        content = path.read_bytes()
        # Far from the header of a chunk, which alone is checked before anything is read.
        place = int(rng.integers(len(content) // 4, len(content)))
        damaged = bytearray(content)
        damaged[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        try:
            found = fit(store, tmp_path, tiny)
        except ValueError as error:
            message = str(error)
            outcomes.append("refused")
            assert str(store) in message
        else:
            outcomes.append("not read")
            assert all(torch.equal(tensor, expected[name]) for name, tensor in found.items()), path
        path.write_bytes(content)
    assert {"refused", "not read"} == set(outcomes)


def test_the_error_names_the_chunk_and_the_remedy(truncated_store: Path, tmp_path: Path, tiny: Any) -> None:
    store = tmp_path / "store"
    shutil.copytree(truncated_store, store)
    path = store / "train" / "chunk-000000.bin"
    content = bytearray(path.read_bytes())
    start = int.from_bytes(content[4:8], "little")
    content[start + 20] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"item 0 of .*chunk-000000\.bin is damaged: .*inspect .* --verify true"):
        fit(store, tmp_path, tiny)
