"""Speed and memory: counts, units, and what the time is of. No test asserts a time that was measured."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.fabric.utilities.throughput import measure_flops
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch import Tensor, nn
from torch.nn import functional as F

from pd_lightning.callbacks import Throughput, throughput
from pd_lightning.data import TokenBlocks
from pd_lightning.flops import flops_per_token
from pd_lightning.language_model import build_causal_lm
from pd_lightning.module import DistillationModule
from pd_lightning.schedules import Constant, Piecewise
from pd_lightning.schedules.piecewise import Part
from pd_lightning.students import HFStudent
from pd_lightning.teachers import FrozenTeacher, Surroundings, Teacher

BATCH, T = 4, 16


class Plain(pl.LightningModule):
    """Other people's module, of the simplest kind: 2 matrices of 300 · 8 weights, one of which is looked up."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Embedding(300, 8), nn.Linear(8, 300)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        ids = batch["input_ids"] if isinstance(batch, dict) else batch[0]
        return F.cross_entropy(self.head(self.body(ids)).flatten(0, 1), ids.flatten())

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        pass

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.5)


class Seen(pl.Callback):
    """Keeps what was logged, after each step; moves the clock by a second a batch, and 100 a validation batch."""

    def __init__(self, clock: list[float] | None = None) -> None:
        self.rows: list[dict[str, float]] = []
        self.clock = [0.0] if clock is None else clock

    def on_train_batch_start(self, *_: Any) -> None:
        self.clock[0] += 1.0

    def on_validation_batch_start(self, *_: Any) -> None:
        self.clock[0] += 100.0

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        metrics = trainer.callback_metrics
        self.rows.append({k.split("/")[1]: float(v) for k, v in metrics.items() if k.startswith("throughput/")})


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that the test moves."""
    now = [0.0]
    monkeypatch.setattr(throughput, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    return now


def fit(module: pl.LightningModule, data: Any, *callbacks: pl.Callback, steps: int = 4, **kwargs: Any) -> None:
    settings = {"log_every_n_steps": 2, "limit_val_batches": 0, **kwargs}
    pl.Trainer(
        accelerator="cpu",
        max_steps=steps,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        num_sanity_val_steps=0,
        callbacks=list(callbacks),
        **settings,
    ).fit(module, data)


def of(folder: Path) -> TokenBlocks:
    return TokenBlocks(str(folder), batch_size=BATCH, max_val_blocks=12)


def test_rates_by_a_clock(blocks: Path, clock: list[float]) -> None:
    """A second a batch: 4 blocks of 16 tokens, and 6 · 2,400 operations on each. Validation does not count."""
    seen = Seen(clock)
    validating = {"val_check_interval": 3, "check_val_every_n_epoch": None, "limit_val_batches": 1.0}
    fit(Plain(), of(blocks), Throughput(peak_tflops=1e-6), seen, steps=6, **validating)
    assert clock[0] == 6 + 2 * 3 * 100
    assert not seen.rows[0], "steps that are not logged"
    for row in seen.rows[1::2]:
        assert row["samples_per_second"] == pytest.approx(BATCH)
        assert row["tokens_per_second"] == pytest.approx(BATCH * T)
        assert row["tflops_per_device"] == pytest.approx(6 * 2400 * BATCH * T / 1e12)
        assert row["mfu"] == pytest.approx(6 * 2400 * BATCH * T / 1e6)
        assert 0.05 < row["peak_memory_gib"] < 1000
        assert "teacher_mfu" not in row


def test_micro_batches_are_counted(blocks: Path, clock: list[float]) -> None:
    seen = Seen(clock)
    fit(Plain(), of(blocks), Throughput(), seen, accumulate_grad_batches=3)
    logged = [row for row in seen.rows if row]
    assert logged[0]["tokens_per_second"] == pytest.approx(BATCH * T)
    assert "mfu" not in logged[0], "nobody knows what this CPU can do"


def test_the_teacher_is_counted_by_itself_where_it_is_asked(
    tiny: Any, blocks: Path, teacher_dir: Path, clock: list[float]
) -> None:
    """Asked for two steps of four, then its weight is 0."""
    teacher = FrozenTeacher(str(teacher_dir))
    weight = Piecewise({"taught": Part(Constant(0.5), 2), "alone": Part(Constant(0.0))})
    module = DistillationModule(HFStudent(config=tiny.config), teacher, kd_weight=weight)
    seen = Seen(clock)
    fit(module, of(blocks), Throughput(peak_tflops=1.0), seen)
    rows = [seen.rows[1], seen.rows[3]]
    of_student, of_teacher = flops_per_token(module, T), flops_per_token(teacher.model, T)
    assert of_student == 3 * of_teacher, "the same architecture"
    for row in rows:
        assert row["tflops_per_device"] == pytest.approx(of_student * BATCH * T / 1e12)
    assert rows[0]["teacher_tflops_per_device"] == pytest.approx(of_teacher * BATCH * T / 1e12)
    assert rows[0]["teacher_mfu"] == pytest.approx(rows[0]["teacher_tflops_per_device"])
    assert rows[1]["teacher_tflops_per_device"] == 0.0


def test_all_teachers_of_an_ensemble_are_counted(
    tiny: Any, blocks: Path, teacher_dir: Path, clock: list[float]
) -> None:
    class Both(Teacher):
        def __init__(self) -> None:
            self.teachers = {name: FrozenTeacher(str(teacher_dir)) for name in ("one", "other")}

        def setup(self, surroundings: Surroundings) -> None:
            for teacher in self.teachers.values():
                teacher.setup(surroundings)

        def __call__(self, batch: Any) -> Any:
            self.forward_seconds += 1.0
            first, _ = (teacher(batch) for teacher in self.teachers.values())
            return first

    seen, both = Seen(clock), Both()
    fit(DistillationModule(HFStudent(config=tiny.config), both), of(blocks), Throughput(), seen, steps=2)
    of_one = flops_per_token(both.teachers["one"].model, T)
    assert seen.rows[1]["teacher_tflops_per_device"] == pytest.approx(2 * of_one * BATCH * T / 1e12)


def test_given_operations_go_before_the_formula(blocks: Path, clock: list[float]) -> None:
    seen = Seen(clock)
    fit(Plain(), of(blocks), Throughput(flops_per_token=1e9), seen, steps=2)
    assert seen.rows[1]["tflops_per_device"] == pytest.approx(1e9 * BATCH * T / 1e12)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("head_dim", [None, 24])
def test_the_formula_counts_what_pytorch_counts(tiny: Any, tied: bool, head_dim: int | None) -> None:
    shape = {**tiny.config, "vocab_size": 300, "attn_implementation": "eager", "tie_word_embeddings": tied}
    model = build_causal_lm({**shape, **({"head_dim": head_dim} if head_dim else {})})
    ids = torch.zeros(2, T, dtype=torch.long)
    counted = measure_flops(model, lambda: model(ids).logits)
    assert counted == 2 * T * flops_per_token(model.requires_grad_(False), T)
    trained = flops_per_token(model.requires_grad_(True), T)
    assert trained == 3 * flops_per_token(model.requires_grad_(False), T)


def test_chosen_experts_count(tiny: Any) -> None:
    shape = {**tiny.config, "vocab_size": 300, "model_type": "qwen3_moe", "moe_intermediate_size": 16}
    few, many = (
        flops_per_token(build_causal_lm({**shape, "num_experts": n, "num_experts_per_tok": 2}), T) for n in (4, 8)
    )
    assert many - few == 3 * 2 * 2 * 4 * 32, "the router's rows alone: 4 more in each of 2 layers"


def test_experts_that_all_tokens_share_count_whole(tiny: Any) -> None:
    shape = {
        **{**tiny.config, "vocab_size": 300, "model_type": "deepseek_v3", "num_key_value_heads": 2},
        **{"moe_intermediate_size": 16, "n_routed_experts": 8, "num_experts_per_tok": 2, "first_k_dense_replace": 0},
        **{"n_group": 1, "topk_group": 1, "q_lora_rank": 16, "kv_lora_rank": 16},
        **{"qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8},
    }
    one, three = (flops_per_token(build_causal_lm({**shape, "n_shared_experts": n}), T) for n in (1, 3))
    assert three - one == 3 * 2 * 2 * 2 * (3 * 32 * 16), "2 more in each of 2 layers, of 3 matrices each"


def test_other_batches_are_counted_in_samples(clock: list[float]) -> None:
    class Points(Plain):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return self.head(batch[0]).square().mean()

    seen = Seen(clock)
    rows = torch.utils.data.TensorDataset(torch.randn(12, 8), torch.zeros(12))
    fit(Points(), torch.utils.data.DataLoader(rows, batch_size=3), Throughput(), seen, steps=2)
    assert seen.rows[1]["samples_per_second"] == pytest.approx(3.0)
    assert "tokens_per_second" not in seen.rows[1]


def test_batches_that_cannot_be_counted(clock: list[float]) -> None:
    rows = [{"text": torch.zeros(T, dtype=torch.long)} for _ in range(8)]
    data = torch.utils.data.DataLoader(rows, batch_size=4)

    class Texts(Plain):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return super().training_step({"input_ids": batch["text"]}, batch_idx)

    with pytest.raises(ValueError, match=r"must have a tensor to count, .* got a mapping of text\. Set batch_map"):
        fit(Texts(), data, Throughput())
    seen = Seen(clock)
    fit(Texts(), data, Throughput(batch_map=lambda batch: {"input_ids": batch["text"]}), seen, steps=2)
    assert seen.rows[1]["tokens_per_second"] == pytest.approx(BATCH * T)


@pytest.mark.parametrize("name", ["peak_tflops", "flops_per_token"])
def test_settings_out_of_range(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} of Throughput must be above 0, got 0. Correct it, or leave it out"):
        Throughput(**{name: 0})


def test_validate_alone_is_left_alone(blocks: Path) -> None:
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, callbacks=[Throughput()])
    trainer.validate(Plain(), of(blocks), verbose=False)


def test_ranks_that_work_at_one_batch_count_it_once(
    blocks: Path, clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four ranks, two of them at each batch."""
    monkeypatch.setattr(pl.Trainer, "world_size", 4)
    monkeypatch.setattr(SingleDeviceStrategy, "all_gather", lambda self, tensor: tensor.expand(4, -1))
    seen = Seen(clock)
    for replicas in (2, 4):
        monkeypatch.setattr(pl.Trainer, "distributed_sampler_kwargs", {"num_replicas": replicas, "rank": 0})
        fit(Plain(), of(blocks), Throughput(), seen, steps=2, use_distributed_sampler=False)
        row = seen.rows[-1]
        assert row["samples_per_second"] == pytest.approx(replicas * BATCH)
        assert row["tokens_per_second"] == pytest.approx(replicas * BATCH * T)
        assert row["tflops_per_device"] == pytest.approx(replicas / 4 * 6 * 2400 * BATCH * T / 1e12)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("strategy", "devices", "replicas"), [("auto", 1, 1), ("ddp", 2, 2), ("tensor_parallel", 2, 1)]
)
def test_all_ranks_count(tmp_path: Path, blocks: Path, strategy: str, devices: int, replicas: int) -> None:
    """Two ranks log twice the tokens of one, by a clock of one second a step on each, unless they share a batch."""
    script = Path(__file__).with_name("throughput_on_ranks.py")
    command = [sys.executable, str(script), str(blocks), str(devices), strategy]
    done = subprocess.run(
        command, check=True, timeout=300, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    values = dict(line.split()[1:] for line in done.stdout.splitlines() if line.startswith("logged "))
    assert float(values["tokens_per_second"]) == pytest.approx(replicas * BATCH * T)
    assert float(values["samples_per_second"]) == pytest.approx(replicas * BATCH)
    assert float(values["tflops_per_device"]) == pytest.approx(replicas / devices * 6 * 2400 * BATCH * T / 1e12)
