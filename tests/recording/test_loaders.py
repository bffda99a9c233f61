"""Recording the data of an existing project: any LightningDataModule."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset, TensorDataset, WeightedRandomSampler

from pd_lightning.data import TokenBlocks
from pd_lightning.data.batch import BlockDataset, collate
from pd_lightning.record import Recorder
from pd_lightning.selection import Selection
from pd_lightning.store.manifest import read_manifest
from pd_lightning.store.reader import BlockReader
from pd_lightning.store.verification import verify_folder
from pd_lightning.teachers import FrozenTeacher
from pd_lightning.trainer import PDTrainer

Batch = dict[str, torch.Tensor]


def without_labels(samples: list[Any]) -> Batch:
    return {"input_ids": torch.stack([tokens for (tokens,) in samples])}


def with_labels(samples: list[Any]) -> Batch:
    """A prompt of four tokens that is not trained on, and a last token that nothing follows."""
    input_ids = without_labels(samples)["input_ids"]
    labels = torch.cat([input_ids[:, 1:], torch.full((len(samples), 1), -100)], dim=1)
    labels[:, :4] = -100
    return {"input_ids": input_ids, "labels": labels}


class Project(pl.LightningDataModule):
    """Somebody's data, of 22 and 5 blocks."""

    def __init__(self, blocks: Path, collate_fn: Callable[[list[Any]], Batch] = without_labels, **loader: Any) -> None:
        super().__init__()
        self.tokenizer_dir = str(blocks / "tokenizer")
        self.reader = BlockReader(blocks, "train")
        self.loader = {"batch_size": 4, "collate_fn": collate_fn, **loader}
        self.read: list[int] = []

    def setup(self, stage: str) -> None:
        self.tokens = torch.from_numpy(np.stack([self.reader[i]["block"] for i in range(27)]))

    def train_dataloader(self) -> Any:
        return DataLoader(Reported(self.tokens[:22], self.read), **self.loader)

    def val_dataloader(self) -> Any:
        return DataLoader(TensorDataset(self.tokens[22:]), **{**self.loader, "shuffle": False, "sampler": None})


class Reported(TensorDataset):
    def __init__(self, tokens: torch.Tensor, read: list[int]) -> None:
        super().__init__(tokens)
        self.read = read

    def __getitem__(self, index: int) -> Any:
        self.read.append(index)
        return super().__getitem__(index)


class Stream(IterableDataset):
    def __init__(self, tokens: torch.Tensor) -> None:
        self.tokens = tokens

    def __iter__(self) -> Iterator[Any]:
        return ((block,) for block in self.tokens)


class StreamingProject(Project):
    def train_dataloader(self) -> Any:
        return DataLoader(Stream(self.tokens[:22]), **self.loader)


class TrainOnly(pl.LightningDataModule):
    def __init__(self, project: Project) -> None:
        super().__init__()
        self.project = project
        project.setup("fit")

    def train_dataloader(self) -> Any:
        return self.project.train_dataloader()


def record(data: pl.LightningDataModule, store: Path, teacher: Path, **settings: Any) -> None:
    settings = {"selection": Selection(p=0.9, k=20), "values": "exact", "blocks_per_chunk": 8, **settings}
    recorder = Recorder(FrozenTeacher(str(teacher)), str(store), **settings)
    PDTrainer(accelerator="cpu", logger=False, enable_progress_bar=False).record(recorder, data)


def items(store: Path, split: str = "train") -> list[dict[str, np.ndarray]]:
    reader = BlockReader(store, split)
    return [reader[index] for index in range(len(reader))]


def same(one: list[dict[str, np.ndarray]], other: list[dict[str, np.ndarray]]) -> bool:
    assert [item.keys() for item in one] == [item.keys() for item in other]
    return all(np.array_equal(a[name], b[name]) for a, b in zip(one, other, strict=True) for name in a)


@pytest.fixture(scope="module")
def expected(blocks: Path, teacher_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What TokenBlocks give of the same blocks."""
    store = tmp_path_factory.mktemp("expected") / "store"
    record(TokenBlocks(str(blocks), batch_size=4, max_train_blocks=22), store, teacher_dir, splits=("train",))
    return store


@pytest.mark.parametrize("kind", [Project, StreamingProject])
def test_a_projects_data_are_recorded_as_token_blocks_are(
    kind: type[Project], blocks: Path, teacher_dir: Path, expected: Path, tmp_path: Path
) -> None:
    record(kind(blocks), tmp_path / "store", teacher_dir)
    assert same(items(tmp_path / "store"), items(expected))
    manifest, plain = read_manifest(tmp_path / "store"), read_manifest(expected)
    assert {name: split.num_blocks for name, split in manifest.splits.items()} == {"train": 22, "val": 5}
    assert (manifest.tokenizer, manifest.block_size) == (plain.tokenizer, plain.block_size)
    assert verify_folder(tmp_path / "store") == []


def test_shuffled_loaders_are_read_in_order(blocks: Path, teacher_dir: Path, expected: Path, tmp_path: Path) -> None:
    record(Project(blocks, shuffle=True, num_workers=1), tmp_path / "store", teacher_dir)
    assert same(items(tmp_path / "store"), items(expected))


def test_positions_without_label_stay_so(blocks: Path, teacher_dir: Path, expected: Path, tmp_path: Path) -> None:
    record(Project(blocks, with_labels), tmp_path / "store", teacher_dir)
    reader = BlockReader(tmp_path / "store", "train")
    assert reader.manifest.block_size == 17
    assert reader.manifest.columns[-1] == "labelled"
    batch = collate(BlockDataset(reader)[range(4)])
    recorded = with_labels([(torch.from_numpy(item["block"]),) for item in items(expected)[:4]])
    assert torch.equal(batch["input_ids"], recorded["input_ids"])
    assert torch.equal(batch["labels"], recorded["labels"])
    assert "teacher_labelled" not in batch
    plain = collate(BlockDataset(BlockReader(expected, "train"))[range(4)])
    torch.testing.assert_close(batch["teacher_log_z"][:, :16], plain["teacher_log_z"], rtol=1e-5, atol=1e-5)


def test_padding_is_not_trained_on(blocks: Path, teacher_dir: Path, expected: Path, tmp_path: Path) -> None:
    """Of 17 tokens the first 12 are text: the last that is trained on is the one at 11, after position 10."""
    record(Project(blocks, padded_right), tmp_path / "store", teacher_dir)
    reader, plain = BlockReader(tmp_path / "store", "train"), BlockReader(expected, "train")
    assert reader.manifest.columns[-1] == "labelled"
    batch, whole = (collate(BlockDataset(each)[range(4)]) for each in (reader, plain))
    assert torch.equal(batch["labels"][:, :11], whole["labels"][:, :11])
    assert (batch["labels"][:, 11:] == -100).all()
    assert torch.equal(batch["teacher_log_z"], whole["teacher_log_z"])


def test_a_second_start_reads_what_is_missing(
    blocks: Path, teacher_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pd_lightning.recording.output as module

    write = module.write_chunk

    def dies_at_the_second(folder: Path, index: int, *rest: Any) -> None:
        if index == 1:
            raise KeyError("killed")
        write(folder, index, *rest)

    for kind in (Project, StreamingProject):
        whole, twice = tmp_path / f"whole-{kind.__name__}", tmp_path / f"twice-{kind.__name__}"
        record(kind(blocks), whole, teacher_dir)
        with monkeypatch.context() as patch:
            patch.setattr(module, "write_chunk", dies_at_the_second)
            with pytest.raises(KeyError, match="killed"):
                record(kind(blocks), twice, teacher_dir)
        assert sorted(path.name for path in twice.glob("train/*.bin")) == ["chunk-000000.bin"]
        data = kind(blocks)
        record(data, twice, teacher_dir)
        if kind is Project:
            assert data.read == [0, 1, 2, 3, *range(8, 22)], "the first batch is compared with that of the first start"
        assert same(items(twice), items(whole))
        assert same(items(twice, "val"), items(whole, "val"))
        data = kind(blocks)
        record(data, twice, teacher_dir)
        assert data.read in ([], [0, 1, 2, 3])


def test_data_without_validation_and_with_a_tokenizer_named(blocks: Path, teacher_dir: Path, tmp_path: Path) -> None:
    data = TrainOnly(Project(blocks))
    with pytest.raises(ValueError, match=r"got none from TrainOnly\. Set model\.tokenizer"):
        record(data, tmp_path / "store", teacher_dir)
    record(data, tmp_path / "store", teacher_dir, tokenizer=str(teacher_dir))
    assert list(read_manifest(tmp_path / "store").splits) == ["train"]
    with pytest.raises(ValueError, match=r"must name loaders of TrainOnly, got test\. Set model\.splits to some of tr"):
        record(data, tmp_path / "other", teacher_dir, tokenizer=str(teacher_dir), splits=("test",))
    with pytest.raises(ValueError, match=r"model\.tokenizer must be left out with TokenBlocks"):
        record(TokenBlocks(str(blocks)), tmp_path / "other", teacher_dir, tokenizer=str(teacher_dir))


def unshifted(samples: list[Any]) -> Batch:
    input_ids = without_labels(samples)["input_ids"]
    return {"input_ids": input_ids, "labels": input_ids.clone()}


def mislabelled(samples: list[Any]) -> Batch:
    input_ids = without_labels(samples)["input_ids"]
    return {"input_ids": input_ids, "labels": input_ids.roll(1, 1)}


def padded_left(samples: list[Any]) -> Batch:
    batch = without_labels(samples)
    return {**batch, "attention_mask": (torch.arange(17) > 2).expand_as(batch["input_ids"]).long()}


def documents_apart(samples: list[Any]) -> Batch:
    batch = without_labels(samples)
    return {**batch, "position_ids": (torch.arange(17) % 8).expand_as(batch["input_ids"])}


def padded_right(samples: list[Any]) -> Batch:
    batch = without_labels(samples)
    return {**batch, "attention_mask": (torch.arange(17) < 12).expand_as(batch["input_ids"]).long()}


def masked_apart(samples: list[Any]) -> Batch:
    return {**without_labels(samples), "attention_mask": torch.ones(len(samples), 1, 17, 17)}


def flattened(samples: list[Any]) -> Batch:
    return {**without_labels(samples), "cu_seqlens": torch.tensor([0, 8, 17])}


def of_segments(samples: list[Any]) -> Batch:
    batch = without_labels(samples)
    return {**batch, "segment_ids": (torch.arange(17) // 8).expand_as(batch["input_ids"])}


def large_ids(samples: list[Any]) -> Batch:
    return {"input_ids": without_labels(samples)["input_ids"] + 1000}


def token_ids(samples: list[Any]) -> Any:
    return without_labels(samples)["input_ids"]


def pairs(samples: list[Any]) -> Any:
    input_ids = without_labels(samples)["input_ids"]
    return input_ids[:, :-1], input_ids[:, 1:]


def under_other_names(samples: list[Any]) -> Any:
    return {"tokens": without_labels(samples)["input_ids"], "weights": torch.ones(len(samples))}


def floats(samples: list[Any]) -> Any:
    return without_labels(samples)["input_ids"].float()


def ever_longer(samples: list[Any], lengths: Any = iter(range(4, 17))) -> Batch:  # noqa: B008
    return {"input_ids": without_labels(samples)["input_ids"][:, : next(lengths)]}


def without_order(samples: list[Any], generator: Any = torch.Generator().manual_seed(0)) -> Batch:  # noqa: B008
    batch = without_labels(samples)["input_ids"]
    return {"input_ids": batch[:, torch.randperm(17, generator=generator)]}


@pytest.mark.parametrize(
    ("collate_fn", "batch_map"),
    [
        (token_ids, None),
        (pairs, None),
        (unshifted, None),
        (under_other_names, lambda batch: batch["tokens"]),
        (under_other_names, lambda batch: (batch["tokens"][:, :-1], batch["tokens"][:, 1:])),
    ],
)
@pytest.mark.parametrize("kind", [Project, StreamingProject])
def test_batches_in_layouts_of_their_own(
    kind: type[Project], collate_fn: Any, batch_map: Any, blocks: Path, teacher_dir: Path, tmp_path: Path
) -> None:
    record(Project(blocks), tmp_path / "plain", teacher_dir)
    record(kind(blocks, collate_fn), tmp_path / "other", teacher_dir, batch_map=batch_map)
    plain, other = (BlockReader(tmp_path / name, "train") for name in ("plain", "other"))
    assert len(plain) == len(other) == 22
    for index in range(22):
        assert all(np.array_equal(value, other[index][name]) for name, value in plain[index].items())


def test_token_blocks_have_a_layout_of_their_own(blocks: Path, teacher_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"model\.batch_map must be left out with TokenBlocks"):
        record(TokenBlocks(str(blocks)), tmp_path / "store", teacher_dir, batch_map=lambda batch: batch)


@pytest.mark.parametrize(
    ("collate_fn", "message"),
    [
        (padded_left, r"Padding must be on the right.*Set padding_side to right"),
        (documents_apart, r"must be attended to as a whole, got position_ids.*--document_attention isolated"),
        (masked_apart, r"must be attended to as a whole, got an attention_mask \[4, 1, 17, 17\]\. Run"),
        (flattened, r"must be attended to as a whole, got cu_seqlens\. Run .*--document_attention isolated"),
        (of_segments, r"must be attended to as a whole, got segment_ids\. Run"),
        (large_ids, r"input_ids must lie in \[0, 300\), got \[1\d\d\d, 1\d\d\d\]\. Set model\.tokenizer"),
        (floats, r"must have token ids `input_ids` of shape \[B, T\], got Tensor\. Set batch_map to a function"),
        (under_other_names, r"must have token ids `input_ids` of shape \[B, T\], got a mapping of tokens, weights"),
        (mislabelled, r"labels must be the next tokens.*or those of the same positions, got others\. Correct them"),
        (ever_longer, r"train_dataloader must give blocks of one length.*Cut or pad"),
        (without_order, r"train_dataloader must give the same batches in the same order.*Turn its shuffling off"),
    ],
)
def test_batches_that_would_be_recorded_wrongly_are_refused(
    collate_fn: Any, message: str, blocks: Path, teacher_dir: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        record(Project(blocks, collate_fn), tmp_path / "store", teacher_dir)
    assert not list(tmp_path.glob("*/*/*.bin"))


def test_loaders_of_no_use_are_refused(blocks: Path, teacher_dir: Path, tmp_path: Path) -> None:
    sampler = WeightedRandomSampler([1.0] * 22, 22)
    with pytest.raises(ValueError, match="must give the same batches in the same order each time"):
        record(Project(blocks, sampler=sampler), tmp_path / "a", teacher_dir, splits=("train",))
    uneven = [range(4), range(4, 7), range(7, 10)]
    project = Project(blocks, batch_sampler=uneven, batch_size=1)
    project.loader.pop("sampler", None)
    with pytest.raises(ValueError, match=r"Batches of train_dataloader must be of one size.*got 3 blocks after 4"):
        record(project, tmp_path / "b", teacher_dir, splits=("train",))
    project = Project(blocks)
    project.train_dataloader = lambda: [1, 2]  # type: ignore[method-assign]
    with pytest.raises(ValueError, match="must give one loader, got a list of them"):
        record(project, tmp_path / "c", teacher_dir)
    project.train_dataloader = lambda: iter(())  # type: ignore[method-assign]
    with pytest.raises(ValueError, match=r"must give a batch at least, got none\. Give Project more data"):
        record(project, tmp_path / "d", teacher_dir)


def test_other_data_in_a_started_folder_are_refused(blocks: Path, teacher_dir: Path, tmp_path: Path) -> None:
    record(Project(blocks), tmp_path / "store", teacher_dir)
    other = Project(blocks)
    other.loader["collate_fn"] = lambda samples: {"input_ids": without_labels(samples)["input_ids"].flip(1)}
    with pytest.raises(ValueError, match=r"blocks was sha256:\w+, is sha256:\w+.*Set another model\.output_dir"):
        record(other, tmp_path / "store", teacher_dir)
