"""What a finished run says of itself."""

import json
import time
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.fabric.utilities.throughput import measure_flops
from lightning.pytorch.callbacks import ModelCheckpoint

from pd_lightning.callbacks import RunSummary
from pd_lightning.data import TokenBlocks
from pd_lightning.language_model import build_causal_lm
from pd_lightning.module import DistillationModule
from pd_lightning.teachers import FrozenTeacher, NoTeacher

BATCH, T = 4, 16


def trainer(folder: Path, **settings: Any) -> pl.Trainer:
    return pl.Trainer(
        default_root_dir=folder,
        accelerator="cpu",
        logger=False,
        callbacks=[RunSummary()],
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        limit_val_batches=2,
        num_sanity_val_steps=2,
        val_check_interval=2,
        check_val_every_n_epoch=None,
        **settings,
    )


def model(tiny: Any) -> Any:
    return build_causal_lm({**tiny.config, "vocab_size": tiny.vocab_size, "attn_implementation": "eager"})


def summary(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "summary.json").read_text())
    return found


def test_sizes_flops_tokens_and_the_last_validation(tmp_path: Path, blocks: Path, teacher_dir: Path, tiny: Any) -> None:
    student = model(tiny)
    module = DistillationModule(student, FrozenTeacher(str(teacher_dir)))
    run = trainer(tmp_path, max_steps=5, enable_checkpointing=False)
    run.fit(module, TokenBlocks(str(blocks), batch_size=BATCH))
    found = summary(tmp_path)
    assert (found["steps"], found["tokens"], found["validated_step"]) == (5, 5 * BATCH * T, 4)
    assert found["metrics"]["val/lm_loss"] == pytest.approx(float(run.callback_metrics["val/lm_loss"]))
    assert {name.partition("/")[0] for name in found["metrics"]} == {"val"}
    total = sum(weight.numel() for weight in student.parameters())
    inner = total - sum(weight.numel() for weight in student.model.embed_tokens.parameters())
    inner -= 0 if student.config.tie_word_embeddings else student.lm_head.weight.numel()
    for who, passes in (("student", 3), ("teacher", 1)):
        assert (found[who]["params"], found[who]["params_non_embedding"]) == (total, inner)
        assert found[who]["flops_per_token"] == pytest.approx(passes * forward_flops(student))


def forward_flops(student: Any) -> float:
    ids = torch.zeros(1, T, dtype=torch.long)
    return measure_flops(student, lambda: student(ids)) / T


def test_a_run_that_turns_out_to_be_finished_keeps_its_figures(tmp_path: Path, blocks: Path, tiny: Any) -> None:
    """Killed between its last checkpoint and the summary, say."""
    module = DistillationModule(model(tiny), NoTeacher())
    run = trainer(tmp_path, max_steps=4)
    run.fit(module, TokenBlocks(str(blocks), batch_size=BATCH))
    checkpoint = tmp_path / "last.ckpt"
    run.save_checkpoint(checkpoint)
    whole = summary(tmp_path)
    assert whole["teacher"] is None
    (tmp_path / "summary.json").unlink()
    again = DistillationModule(model(tiny), NoTeacher())
    trainer(tmp_path, max_steps=4).fit(
        again, TokenBlocks(str(blocks), batch_size=BATCH), ckpt_path=checkpoint, weights_only=True
    )
    assert summary(tmp_path) == {**whole, "train_seconds": summary(tmp_path)["train_seconds"]}


def test_a_run_that_goes_on_amid_an_epoch_counts_the_seconds_of_its_own_clock(
    tmp_path: Path, blocks: Path, tiny: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clock of another start, or of another machine, stands anywhere."""
    run = trainer(tmp_path, max_steps=3)
    run.callbacks.append(ModelCheckpoint(tmp_path, "amid", every_n_train_steps=3))
    run.fit(DistillationModule(model(tiny), NoTeacher()), TokenBlocks(str(blocks), batch_size=BATCH))
    before, clock = summary(tmp_path)["train_seconds"], time.perf_counter
    monkeypatch.setattr("pd_lightning.module.speed.time.perf_counter", lambda: clock() + 1e6)
    again = DistillationModule(model(tiny), NoTeacher())
    trainer(tmp_path, max_steps=5).fit(
        again, TokenBlocks(str(blocks), batch_size=BATCH), ckpt_path=tmp_path / "amid.ckpt", weights_only=True
    )
    assert before < summary(tmp_path)["train_seconds"] < 1e6
