"""A step that is not logged waits for no device: it asks for no value of a tensor, nor for a shape that needs one."""

import sys
from pathlib import Path
from types import FrameType
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from pd_lightning.data import TokenBlocks
from pd_lightning.module import DistillationModule
from pd_lightning.students import HFStudent
from pd_lightning.teachers import FrozenTeacher, NoTeacher, OfflineTeacher, Teacher
from pd_lightning.transforms import Temperature, TopPK
from pd_lightning.weightings import MaskFirstTokens, TeacherEntropy

aten = torch.ops.aten
VALUES = (aten._local_scalar_dense, aten.is_nonzero, aten.item, aten.equal)
SHAPES = (aten.nonzero, aten.masked_select, aten._unique2, aten.unique_dim, aten.bincount, aten.repeat_interleave)
INDEXING = (aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_)


class Waits(TorchDispatchMode):
    """Keeps the lines that would make a GPU's host wait, as `file:function`."""

    def __init__(self) -> None:
        super().__init__()
        self.found: set[str] = set()
        self.calls = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls += 1
        packet = func.overloadpacket
        by_mask = packet in INDEXING and any(i is not None and i.dtype == torch.bool for i in args[1])
        if packet in VALUES or packet in SHAPES or by_mask:
            self.found.add(_caller(sys._getframe(1)))
        return func(*args, **(kwargs or {}))


def _caller(frame: FrameType | None) -> str:
    """The innermost function outside torch."""
    here = Path(torch.__file__).parent
    while frame is not None and here in Path(frame.f_code.co_filename).parents:
        frame = frame.f_back
    return "" if frame is None else f"{Path(frame.f_code.co_filename).name}:{frame.f_code.co_name}"


class Watched(DistillationModule):
    """Watches the second step of three, which is not logged: forward, backward, and what comes before the optimizer."""

    waits: Waits

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        with self._watch():
            return super().training_step(batch, batch_idx)

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        with self._watch():
            super().backward(loss, *args, **kwargs)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        with self._watch():
            super().on_before_optimizer_step(optimizer)

    def _watch(self) -> Waits:
        return self.waits if self.global_step == 1 else Waits()


class Bigram(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table, self.head = nn.Embedding(300, 16), nn.Linear(16, 300)

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.head(self.table(input_ids))


def waits(student: Any, teacher: Teacher, store: Path, **settings: Any) -> set[str]:
    module = Watched(student, teacher, **settings)
    module.waits = Waits()
    pl.Trainer(
        accelerator="cpu",
        max_steps=3,
        log_every_n_steps=50,
        limit_val_batches=0,
        accumulate_grad_batches=2,
        gradient_clip_val=1.0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    ).fit(module, TokenBlocks(str(store), batch_size=4))
    assert module.waits.calls > 100
    return module.waits.found


TEACHERS = [
    pytest.param(lambda folder: OfflineTeacher(), id="offline"),
    pytest.param(lambda folder: FrozenTeacher(str(folder)), id="frozen"),
    pytest.param(lambda folder: FrozenTeacher(Bigram()), id="frozen module"),
    pytest.param(lambda folder: NoTeacher(), id="none"),
]
# transformers looks whether positions begin anew, and makes no mask where they do not: once a forward, uncompiled.
OF_TRANSFORMERS = {"masking_utils.py:find_packed_sequence_indices"}


@pytest.mark.filterwarnings("ignore:.*have no effect with NoTeacher")
@pytest.mark.parametrize("make", TEACHERS)
@pytest.mark.parametrize("hugging_face", [False, True])
def test_a_step_that_is_not_logged_waits_for_nothing(
    tiny: Any, truncated_store: Path, teacher_dir: Path, make: Any, hugging_face: bool
) -> None:
    student = HFStudent(config=tiny.config) if hugging_face else Bigram()
    teacher = make(teacher_dir)
    transforms = {"cut": TopPK(0.8, 10), "warm": Temperature(2.0)}
    weighting = {"first": MaskFirstTokens(1), "surest": TeacherEntropy(0.2)}
    found = waits(student, teacher, truncated_store, transforms=transforms, weighting=weighting)
    is_transformers = hugging_face or getattr(teacher, "name", "") == str(teacher_dir)
    assert found == (OF_TRANSFORMERS if is_transformers else set())


def test_a_mixture_of_experts_waits_for_nothing_more(tiny: Any, blocks: Path) -> None:
    experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "output_router_logits": True}
    student = HFStudent(config={**tiny.config, "model_type": "qwen3_moe", **experts})
    assert waits(student, NoTeacher(), blocks) == OF_TRANSFORMERS


def test_a_wait_is_found(truncated_store: Path) -> None:
    class Waiting(OfflineTeacher):
        def __call__(self, batch: Any) -> Any:
            targets = super().__call__(batch)
            assert targets is not None
            if targets.logprobs.max() > 0 or len(targets.ids[targets.ids > 0]) == 0:
                raise AssertionError
            return targets

    assert waits(Bigram(), Waiting(), truncated_store) == {"test_device_syncs.py:__call__"}
