"""Teachers in fewer bits."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from pd_lightning.data import TokenBlocks
from pd_lightning.record import Recorder
from pd_lightning.recording.recompute import recompute
from pd_lightning.selection import Selection
from pd_lightning.store.manifest import read_manifest
from pd_lightning.teachers import FrozenTeacher, Surroundings
from pd_lightning.teachers import quantization as module
from pd_lightning.trainer import PDTrainer

CPU = torch.device("cpu")
BATCH = {"input_ids": torch.arange(24).view(2, 12)}


def loaded(folder: Path, **settings: Any) -> FrozenTeacher:
    teacher = FrozenTeacher(str(folder), **settings)
    teacher.setup(Surroundings(CPU))
    return teacher


def linear_layers(teacher: FrozenTeacher) -> dict[str, nn.Linear]:
    named = teacher.model.model.named_modules()
    return {name: part for name, part in named if isinstance(part, nn.Linear) and name != "lm_head"}


def test_int8_computes_with_the_weights_in_steps_of_a_row(teacher_dir: Path) -> None:
    """A 127.5th of the largest weight of a row each; logits are those of a plain model with such weights."""
    pytest.importorskip("torchao")
    teacher, plain = loaded(teacher_dir, quantization="int8"), loaded(teacher_dir)
    before = plain(BATCH).rows(slice(None)).logprobs
    layers = linear_layers(teacher)
    assert len(layers) == 14
    for name, layer in linear_layers(plain).items():
        step = layer.weight.abs().amax(dim=1, keepdim=True) / 127.5
        in_steps: Any = layers[name].weight
        assert in_steps.qdata.dtype == torch.int8
        weight = in_steps.qdata * step
        assert float(((weight - layer.weight) / step).abs().max()) < 0.501
        layer.weight.data = weight
    expected, found = (t(BATCH).rows(slice(None)).logprobs for t in (plain, teacher))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert float((found - before).abs().max()) > 1e-2
    assert teacher.model.head.linear is not None, "the head is a plain matrix, and takes the fast path"
    assert type(teacher.model.model.lm_head.weight) is nn.Parameter
    assert not any(parameter.requires_grad for parameter in teacher.model.parameters())


def test_a_quantized_teacher_is_described_as_another(teacher_dir: Path) -> None:
    pytest.importorskip("torchao")
    plain, one, other = (loaded(teacher_dir, quantization=bits).describe() for bits in (None, "int8", "int8"))
    assert one == other
    assert one["quantization"] == "int8"
    assert one["weights_digest"] != plain["weights_digest"]
    assert "quantization" not in plain


def test_a_store_of_it_is_computed_again_in_as_few_bits(teacher_dir: Path, blocks: Path, tmp_path: Path) -> None:
    pytest.importorskip("torchao")
    recorder = Recorder(FrozenTeacher(str(teacher_dir), quantization="int8"), str(tmp_path), Selection(p=0.9, k=20))
    data = TokenBlocks(str(blocks), batch_size=4, max_train_blocks=4, max_val_blocks=4)
    trainer = PDTrainer(accelerator="cpu", logger=False, enable_progress_bar=False, barebones=False)
    trainer.record(recorder, data)
    assert read_manifest(tmp_path).teacher["quantization"] == "int8"
    again = recompute(tmp_path, 4)
    assert again["same_weights"]
    assert again["mean_kl"] < 1e-4


def test_what_is_missing_is_said(teacher_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torchao")
    with pytest.raises(ValueError, match="must be whole on its device, got quantization int8 with a strategy that sh"):
        module.quantize(nn.Linear(2, 2), "int8", sharded=True)
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match=r"must be one that torchao has for this machine, got int4: .*to int8, or"):
            loaded(teacher_dir, quantization="int4")
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"must have the package torchao, got int8 without it\. Install it with: pip"):
        FrozenTeacher(str(teacher_dir), quantization="int8")
