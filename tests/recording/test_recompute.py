"""The live teacher against its store."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from pd_lightning.data import TokenBlocks
from pd_lightning.language_model import load_causal_lm
from pd_lightning.record import Recorder
from pd_lightning.recording.recompute import recompute
from pd_lightning.sampling import Sampling
from pd_lightning.selection import Selection
from pd_lightning.store.reader import BlockReader
from pd_lightning.teachers import FrozenTeacher
from pd_lightning.trainer import PDTrainer


class Mistaken(nn.Module):
    """The teacher, but for one position of one block."""

    def __init__(self, model: nn.Module, block: torch.Tensor, position: int) -> None:
        super().__init__()
        self.model, self.block, self.position = model, block, position

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        logits = self.model(input_ids).logits.clone()
        logits[(input_ids == self.block).all(dim=1), self.position, :5] += 3.0
        return logits


def record(model: Any, blocks: Path, store: Path, **settings: Any) -> None:
    data = TokenBlocks(str(blocks), batch_size=4, max_train_blocks=8, max_val_blocks=4)
    recorder = Recorder(FrozenTeacher(model), str(store), **settings)
    PDTrainer(accelerator="cpu", logger=False, enable_progress_bar=False).record(recorder, data)


@pytest.mark.parametrize(
    ("values", "mean_kl", "logprob"), [("exact", 1e-6, 1e-4), ("half", 1e-5, 1e-2), ("compact", 1.01e-4, 0.3)]
)
def test_a_sound_store_differs_by_its_rounding(
    values: Any, mean_kl: float, logprob: float, blocks: Path, teacher_dir: Path, tmp_path: Path
) -> None:
    record(str(teacher_dir), blocks, tmp_path / "store", values=values, selection=Selection(p=0.9, k=50))
    found = recompute(tmp_path / "store", 100)
    assert (found["blocks"], found["tokens"], found["same_weights"]) == (12, 192, True)
    assert found["teacher"] == str(teacher_dir)
    assert found["mean_kl"] < mean_kl
    worst = {name: entry["difference"] for name, entry in found["worst"].items()}
    columns = {"log_z", "mean", "std", "entropy", "label_logprob"}
    assert worst.keys() == {"logprobs", "tail", "kl", *columns}
    assert worst["logprobs"] < logprob
    assert max(worst["kl"], worst["tail"]) < 2e-3
    assert max(worst[name] for name in columns) < (1e-4 if values == "exact" else 1e-2)


def test_the_worst_place_is_named(blocks: Path, teacher_dir: Path, tmp_path: Path) -> None:
    block = torch.from_numpy(BlockReader(blocks, "val")[2]["block"][:-1])
    model = Mistaken(load_causal_lm(str(teacher_dir), "float32", "model"), block, 11)
    record(model, blocks, tmp_path / "store", selection=Selection(p=1.0, k=300), values="exact")
    found = recompute(tmp_path / "store", 100, str(teacher_dir))
    assert not found["same_weights"]
    for name in ("kl", "logprobs", "mean"):
        entry = found["worst"][name]
        assert (entry["split"], entry["block"], entry["position"]) == ("val", 2, 11)
    assert found["worst"]["mean"]["difference"] > 0.01


def test_other_weights_differ_everywhere(truncated_store: Path, teacher_dir: Path, tmp_path: Path) -> None:
    shutil.copytree(teacher_dir, tmp_path / "other")
    weights = load_file(tmp_path / "other" / "model.safetensors")
    save_file({name: value * 0.9 for name, value in weights.items()}, tmp_path / "other" / "model.safetensors")
    found, other = (recompute(truncated_store, 5, name, seed=3) for name in (None, str(tmp_path / "other")))
    assert (found["blocks"], other["blocks"]) == (5, 5)
    assert not other["same_weights"]
    assert found["mean_kl"] < 1e-4 < 0.01 < other["mean_kl"]


def test_of_drawn_ids_the_columns_are_compared(blocks: Path, teacher_dir: Path, tmp_path: Path) -> None:
    record(str(teacher_dir), blocks, tmp_path / "store", sampling=Sampling(20))
    found = recompute(tmp_path / "store", 4)
    assert found["mean_kl"] is None
    assert found["worst"].keys() == {"log_z", "mean", "std", "entropy", "label_logprob"}
    assert max(entry["difference"] for entry in found["worst"].values()) < 1e-2


def test_what_cannot_be_recomputed_is_refused(blocks: Path, truncated_store: Path, tiny: Any, tmp_path: Path) -> None:
    from pd_lightning.language_model import build_causal_lm

    with pytest.raises(ValueError, match=r"must be a store of a frozen teacher's logits, got .* with token blocks"):
        recompute(blocks, 1)
    wide: Any = build_causal_lm({**tiny.config, "vocab_size": 320})
    wide.save_pretrained(tmp_path / "wide")
    with pytest.warns(UserWarning, match="not checked"), pytest.raises(ValueError, match="got 320 ids for 300"):
        recompute(truncated_store, 1, str(tmp_path / "wide"))
