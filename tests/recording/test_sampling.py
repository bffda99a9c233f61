from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from pd_lightning.data import TokenBlocks
from pd_lightning.data.batch import BlockDataset, collate
from pd_lightning.module import DistillationModule
from pd_lightning.record import Recorder
from pd_lightning.sampling import Sampling
from pd_lightning.store.manifest import read_manifest
from pd_lightning.store.reader import BlockReader
from pd_lightning.store.verification import verify_folder
from pd_lightning.students import HFStudent
from pd_lightning.targets.heads import Head
from pd_lightning.teachers import FrozenTeacher, OfflineTeacher, Surroundings
from pd_lightning.trainer import PDTrainer

V, T = 50, 6


@pytest.fixture
def said() -> SimpleNamespace:
    """What a teacher says of 3 blocks."""
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(3 * T, V, generator=generator)
    labels = torch.randint(V, (3 * T,), generator=generator)
    places = [("train", 4), ("train", 5), ("val", 4)]
    return SimpleNamespace(logits=logits, labels=labels, places=places, head=Head(lambda hidden: hidden))


def dense(targets: Any) -> torch.Tensor:
    """Estimated probabilities of all ids."""
    return torch.zeros(len(targets), V).scatter_add(-1, targets.ids, targets.logprobs.exp())


@pytest.mark.parametrize("s", [1.0, 0.6])
def test_the_mean_of_many_draws_is_the_teacher(said: SimpleNamespace, s: float) -> None:
    runs = [Sampling(50, s, seed).select(said.logits, said.head, said.labels, said.places)[0] for seed in range(400)]
    mean = torch.stack([dense(targets) for targets in runs]).mean(0)
    probs = said.logits.softmax(-1)
    # The standard error of each estimate, from its variance over the runs.
    error = torch.stack([dense(targets) for targets in runs]).std(0) / 20
    assert ((mean - probs).abs() <= 5 * error + 2e-3).all()
    figures = runs[0].statistics
    torch.testing.assert_close(figures["label_logprob"], probs.log().gather(-1, said.labels[:, None])[:, 0])


def test_a_block_has_the_same_draws_in_any_batch(said: SimpleNamespace) -> None:
    sampling = Sampling(samples=20)
    together, counts = sampling.select(said.logits, said.head, said.labels, said.places)
    assert counts.tolist() == [(row > 0).sum() for row in dense(together)]
    for number, place in enumerate(said.places):
        rows = slice(number * T, (number + 1) * T)
        alone, _ = sampling.select(said.logits[rows], said.head, said.labels[rows], [place])
        assert torch.equal(dense(alone), dense(together)[rows])


def test_other_blocks_splits_and_seeds_have_other_draws() -> None:
    logits, head, labels = torch.zeros(T, V), Head(lambda hidden: hidden), torch.zeros(T, dtype=torch.long)
    drawn = [
        dense(Sampling(samples=20, seed=seed).select(logits, head, labels, [place])[0])
        for seed, place in ((0, ("train", 0)), (0, ("train", 1)), (0, ("val", 0)), (1, ("train", 0)))
    ]
    assert all(not torch.equal(drawn[0], other) for other in drawn[1:])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"samples": 0}, r"samples must be at least 1, got 0\. Set model\.sampling\.samples"),
        ({"s": 0.0}, r"s must be positive, got 0\.0\. Set model\.sampling\.s"),
        ({"seed": -1}, r"seed must be at least 0, got -1\. Set model\.sampling\.seed"),
    ],
)
def test_bad_settings(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Sampling(**settings)


def record(teacher_dir: Path, blocks: Path, store: Path, batch_size: int = 4, **settings: Any) -> Path:
    data = TokenBlocks(str(blocks), batch_size=batch_size, max_train_blocks=12, max_val_blocks=2)
    recorder = Recorder(FrozenTeacher(str(teacher_dir)), str(store), blocks_per_chunk=4, **settings)
    PDTrainer(accelerator="cpu", logger=False, enable_progress_bar=False).record(recorder, data)
    return store


def test_a_sampled_store_holds_what_was_drawn_and_trains_a_student(
    blocks: Path, teacher_dir: Path, tmp_path: Path, tiny: Any
) -> None:
    store = record(teacher_dir, blocks, tmp_path / "store", sampling=Sampling(samples=30, seed=3))
    manifest = read_manifest(store)
    assert manifest.selection == {"samples": 30, "s": 1.0, "seed": 3}
    assert manifest.sampled
    assert manifest.codec is not None
    assert manifest.codec["values"] == "counts"
    assert "log_tail" not in manifest.columns
    assert verify_folder(store) == []
    # The same draws, live.
    reader = BlockReader(store, "train")
    batch = collate(BlockDataset(reader)[[6, 2]])
    teacher = FrozenTeacher(str(teacher_dir))
    teacher.setup(Surroundings(torch.device("cpu")))
    live = teacher(batch)
    drawn, _ = Sampling(30, seed=3).select(
        live.hidden, live.head, batch["labels"].flatten(), [("train", 6), ("train", 2)]
    )
    stored = OfflineTeacher()(batch)
    assert stored is not None
    assert (stored.kind, stored.log_tail) == ("sampled", None)
    spread = [torch.zeros(32, 300).scatter_add(-1, t.ids, t.logprobs.exp()) for t in (stored, drawn)]
    torch.testing.assert_close(*spread)
    np.testing.assert_allclose(stored.statistics["entropy"], drawn.statistics["entropy"], rtol=2e-3)
    module = DistillationModule(HFStudent(config=tiny.config), OfflineTeacher())
    quiet = {"logger": False, "enable_progress_bar": False, "enable_checkpointing": False}
    trainer = PDTrainer(accelerator="cpu", max_steps=3, default_root_dir=str(tmp_path), **quiet)
    trainer.fit(module, datamodule=TokenBlocks(str(store), batch_size=4))
    assert torch.isfinite(trainer.callback_metrics["val/lm_loss"])


def test_recording_in_other_batches_draws_the_same(blocks: Path, teacher_dir: Path, tmp_path: Path) -> None:
    stores = [
        record(teacher_dir, blocks, tmp_path / str(size), batch_size=size, sampling=Sampling(20)) for size in (2, 4)
    ]
    for index in range(12):
        first, second = (BlockReader(store, "train")[index] for store in stores)
        assert np.array_equal(first["ids"], second["ids"])
        assert np.array_equal(first["draws"], second["draws"])


def test_another_proposal_is_stored_as_estimates(blocks: Path, teacher_dir: Path, tmp_path: Path) -> None:
    store = record(teacher_dir, blocks, tmp_path / "store", sampling=Sampling(30, s=0.5), values="exact")
    assert verify_folder(store) == []
    targets = OfflineTeacher()(collate(BlockDataset(BlockReader(store, "train"))[[0, 1]]))
    assert targets is not None
    assert targets.kind == "sampled"
    mass = targets.logprobs.exp().sum(-1)
    assert mass.mean() == pytest.approx(1, abs=0.1), "unbiased, but not 1 each time"
    assert mass.std() > 1e-3
