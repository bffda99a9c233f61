from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file

from pd_lightning.guards.saved_batch import load_batch, save_batch


def test_a_batch_comes_back_as_it_was(tmp_path: Path) -> None:
    whole = torch.arange(12, dtype=torch.int64).view(3, 4)
    batch = {
        "input_ids": whole[:, :-1],
        "labels": whole[:, 1:],  # shares memory, and isn't contiguous
        "nested": [torch.tensor([float("nan"), float("inf")]), (torch.ones(2, dtype=torch.bfloat16), "text", None)],
        "scalar": torch.tensor(True),
        "numbers": {"count": 3, "share": 0.5, 7: torch.zeros(0)},
    }
    save_batch(batch, tmp_path / "folder" / "x.safetensors")
    loaded = load_batch(tmp_path / "folder" / "x.safetensors")
    assert list(loaded) == list(batch)
    for name in ("input_ids", "labels", "scalar"):
        assert loaded[name].dtype == batch[name].dtype
        assert torch.equal(loaded[name], batch[name])
    (first, (second, *rest)) = loaded["nested"]
    assert first[0].isnan()
    assert first[1].isinf()
    assert second.dtype == torch.bfloat16
    assert rest == ["text", None]
    assert loaded["numbers"]["count"] == 3
    assert loaded["numbers"]["share"] == 0.5
    assert loaded["numbers"][7].shape == (0,)
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["x.safetensors"]


def test_a_lone_tensor_is_a_batch_too(tmp_path: Path) -> None:
    save_batch(torch.ones(2), tmp_path / "x")
    assert torch.equal(load_batch(tmp_path / "x"), torch.ones(2))


def test_other_objects_are_left_out(tmp_path: Path) -> None:
    save_batch({"a": torch.ones(1), "b": SimpleNamespace(x=1)}, tmp_path / "x")
    loaded = load_batch(tmp_path / "x")
    assert loaded["b"] is None
    assert torch.equal(loaded["a"], torch.ones(1))


def test_another_file_is_refused(tmp_path: Path) -> None:
    save_file({"a": torch.ones(1)}, tmp_path / "x")
    with pytest.raises(ValueError, match=r"must be given a file of save_batch, got .*Name another file"):
        load_batch(tmp_path / "x")
