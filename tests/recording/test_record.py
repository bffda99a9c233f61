import errno
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import nn

from pd_lightning.data import TextFiles, TokenBlocks
from pd_lightning.data.mix import MixedIn
from pd_lightning.data.tokenize import tokenize
from pd_lightning.language_model import LanguageModel, build_causal_lm, load_causal_lm
from pd_lightning.module import DistillationModule
from pd_lightning.record import Recorder
from pd_lightning.selection import Selection
from pd_lightning.store.manifest import read_manifest
from pd_lightning.store.reader import BlockReader
from pd_lightning.store.verification import verify_folder
from pd_lightning.students import HFStudent
from pd_lightning.targets import SparseTargets
from pd_lightning.teachers import FrozenTeacher, NoTeacher, OfflineTeacher, Surroundings
from pd_lightning.trainer import PDTrainer


def record(teacher: Any, blocks: Path, store: Path, batch_size: int = 4, data: Any = None, **settings: Any) -> None:
    settings = {"selection": Selection(p=0.9, k=20), "blocks_per_chunk": 8, **settings}
    recorder = Recorder(teacher, str(store), **settings)
    data = data or TokenBlocks(str(blocks), batch_size=batch_size, max_train_blocks=30, max_val_blocks=5)
    trainer = PDTrainer(accelerator="cpu", logger=False, enable_progress_bar=False)
    trainer.record(recorder, data)


@pytest.fixture
def logits(exact_store: Path, teacher_dir: Path) -> torch.Tensor:
    """The teacher's own logits of the first stored block, float64 `[T, V]`."""
    model = LanguageModel(load_causal_lm(str(teacher_dir), "float64", "model")).eval()
    block = torch.from_numpy(BlockReader(exact_store, "train")[0]["block"])
    return model(block[None, :-1])[0].detach()


def test_every_id_and_figure_equals_the_teachers(exact_store: Path, logits: torch.Tensor) -> None:
    item = BlockReader(exact_store, "train")[0]
    log_p = logits.log_softmax(-1)
    T, V = log_p.shape
    assert np.array_equal(item["counts"], [V] * T)
    stored = torch.empty(T, V).scatter(
        -1, torch.from_numpy(item["ids"]).view(T, V), torch.from_numpy(item["logprobs"]).view(T, V)
    )
    torch.testing.assert_close(stored.double(), log_p, rtol=1e-5, atol=1e-5)
    log_z = logits.logsumexp(-1)
    labels = torch.from_numpy(item["block"][1:])
    expected = {
        "log_z": log_z,
        "mean": logits.mean(-1) - log_z,
        "std": logits.std(-1, correction=0),
        "entropy": -(log_p.exp() * log_p).sum(-1),
        "label_logprob": log_p.gather(-1, labels[:, None])[:, 0],
    }
    for name, values in expected.items():
        np.testing.assert_allclose(item[name], values, rtol=2e-5, atol=2e-5, err_msg=name)


def test_the_most_probable_ids_are_kept_with_true_probabilities(truncated_store: Path, logits: torch.Tensor) -> None:
    item = BlockReader(truncated_store, "train")[0]
    probs = logits.softmax(-1).numpy()
    ends = item["counts"].cumsum()
    for position, (start, end) in enumerate(zip(ends - item["counts"], ends, strict=True)):
        order = np.argsort(-probs[position])
        count = min(20, int(np.searchsorted(probs[position][order].cumsum(), 0.9)) + 1)
        assert item["ids"][start:end].tolist() == order[:count].tolist()
        kept = probs[position][order[:count]]
        np.testing.assert_allclose(np.exp(item["logprobs"][start:end]), kept, rtol=5e-3)
        np.testing.assert_allclose(np.exp(item["log_tail"][position]), 1 - kept.sum(), rtol=5e-3)


def test_the_manifest_says_what_is_in_it(truncated_store: Path, blocks: Path, teacher_dir: Path) -> None:
    manifest, plain = read_manifest(truncated_store), read_manifest(blocks)
    assert manifest.kind == "logits"
    assert manifest.tokenizer == plain.tokenizer
    assert {name: split.num_blocks for name, split in manifest.splits.items()} == {"train": 40, "val": 12}
    assert manifest.teacher is not None
    assert manifest.teacher["name"] == str(teacher_dir)
    assert manifest.selection == {"p": 0.9, "k": 20, "min_k": 1}
    assert 1 <= manifest.statistics["kept_ids_per_token"] <= 20
    assert manifest.statistics["kept_mass_per_token"] <= 1
    assert verify_folder(truncated_store) == []


@pytest.fixture(scope="module")
def short_documents(blocks: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Blocks of documents of a few tokens, with each document_attention."""
    folder = tmp_path_factory.mktemp("short")
    (folder / "text").write_text("\n".join(f"{n} is {n * n}" for n in range(400)))
    source = TextFiles([str(folder / "text")], split_bytes=6)
    for attention in ("full", "isolated"):
        given = {"tokenizer": str(blocks / "tokenizer"), "block_size": 16, "document_attention": attention}
        tokenize(str(folder / attention), source, **given)
    return {attention: folder / attention for attention in ("full", "isolated")}


def test_isolated_documents_are_recorded_as_they_are_alone(
    short_documents: dict[str, Path], teacher_dir: Path, tmp_path: Path
) -> None:
    everything = {"values": "exact", "selection": Selection(p=1.0, k=300)}
    batches = {}
    for attention, blocks in short_documents.items():
        record(FrozenTeacher(str(teacher_dir)), blocks, tmp_path / attention, **everything)
        assert read_manifest(tmp_path / attention).document_attention == attention
        data = TokenBlocks(str(tmp_path / attention), batch_size=4, shuffle=False)
        data.setup("fit")
        batches[attention] = next(iter(data.train_dataloader()))
    full, isolated = batches["full"], batches["isolated"]
    assert torch.equal(full["document_ids"], isolated["document_ids"])
    documents = isolated["document_ids"][:, :-1]
    assert documents.max() >= 2
    assert "position_ids" not in full
    assert torch.equal(full["input_ids"], isolated["input_ids"])
    offline = {attention: dense(OfflineTeacher()(batch)).view(4, 16, -1) for attention, batch in batches.items()}
    same = (offline["full"] - offline["isolated"]).abs().amax(-1) < 1e-4
    assert torch.equal(same, documents == 0), "the first document of a block has nothing before it"
    frozen = FrozenTeacher(str(teacher_dir))
    frozen.setup(Surroundings(torch.device("cpu")))
    for attention, batch in batches.items():
        live = frozen(batch).rows(slice(None)).logprobs.view(4, 16, -1)
        torch.testing.assert_close(offline[attention], live, rtol=1e-5, atol=1e-5)


def dense(targets: SparseTargets) -> torch.Tensor:
    """Log-probabilities by id, where every id was kept."""
    return torch.empty_like(targets.logprobs).scatter(-1, targets.ids, targets.logprobs)


def test_a_student_trains_on_what_was_recorded_of_isolated_documents(
    short_documents: dict[str, Path], teacher_dir: Path, tmp_path: Path, tiny: Any
) -> None:
    everything = {"values": "exact", "selection": Selection(p=1.0, k=300)}
    record(FrozenTeacher(str(teacher_dir)), short_documents["isolated"], tmp_path / "store", **everything)
    losses = []
    for teacher, path in (
        (OfflineTeacher(), tmp_path / "store"),
        (FrozenTeacher(str(teacher_dir)), short_documents["isolated"]),
    ):
        module = DistillationModule(HFStudent(config=tiny.config), teacher)
        quiet = {"logger": False, "enable_progress_bar": False, "enable_checkpointing": False}
        trainer = PDTrainer(accelerator="cpu", max_steps=2, default_root_dir=str(tmp_path), **quiet)
        trainer.fit(module, datamodule=TokenBlocks(str(path), batch_size=4, max_train_blocks=8, max_val_blocks=4))
        losses.append(trainer.callback_metrics["val/lm_loss"])
    torch.testing.assert_close(*losses, rtol=1e-5, atol=0)


def test_a_teacher_with_a_padded_vocabulary_is_recorded_with_it(blocks: Path, tiny: Any, tmp_path: Path) -> None:
    model = build_causal_lm({**tiny.config, "vocab_size": 320})
    record(FrozenTeacher(model), blocks, tmp_path / "store", selection=Selection(p=1.0, k=320))
    manifest = read_manifest(tmp_path / "store")
    assert (manifest.vocab_size, manifest.tokenizer_vocab_size) == (320, 300)
    assert BlockReader(tmp_path / "store", "train")[0]["ids"].max() == 319
    assert verify_folder(tmp_path / "store") == []
    small = build_causal_lm({**tiny.config, "vocab_size": 299})
    with pytest.raises(ValueError, match=r"must hold every id of the data, got 299 for 300 ids"):
        record(FrozenTeacher(small), blocks, tmp_path / "other")


class Plain(nn.Module):
    """A model that does not tell the width of its logits."""

    def __init__(self, width: int) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.embedding, self.head = nn.Embedding(300, 4), nn.Linear(4, width)

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        return self.head(3 * self.embedding(input_ids))


@pytest.mark.parametrize(("width", "values"), [(320, "half"), (150_000, "exact"), (150_000, "compact")])
def test_logits_of_any_width_are_recorded(blocks: Path, tmp_path: Path, width: int, values: Any) -> None:
    """Ids above 131,071 need more than 17 bits; where a module does not tell its width, its logits do."""
    model = Plain(width)
    data = TokenBlocks(str(blocks), batch_size=1, max_train_blocks=2)
    everywhere = {"selection": Selection(p=1.0, k=20), "splits": ("train",), "values": values}
    record(FrozenTeacher(model), blocks, tmp_path / "store", data=data, **everywhere)
    manifest = read_manifest(tmp_path / "store")
    assert manifest.vocab_size == width
    assert verify_folder(tmp_path / "store") == []
    item = BlockReader(tmp_path / "store", "train")[1]
    logprobs, ids = model(torch.from_numpy(item["block"][:-1])).detach().log_softmax(-1).topk(20)
    assert item["ids"].max() >= width * 0.95
    assert np.array_equal(np.sort(item["ids"].reshape(-1, 20)), ids.sort(-1).values)
    stored = np.sort(item["logprobs"].reshape(-1, 20))[:, ::-1]
    np.testing.assert_allclose(stored, logprobs, atol=manifest.statistics["max_logprob_error"] + 1e-5)


class Masked(Plain):
    """One whose ids above those of the tokenizer are impossible."""

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        logits = super().forward(input_ids)
        return logits.masked_fill(torch.arange(logits.shape[-1]) >= 300, -torch.inf)


@pytest.mark.parametrize("values", ["exact", "compact"])
def test_figures_are_those_of_the_possible_ids(blocks: Path, tmp_path: Path, values: Any) -> None:
    model = Masked(320)
    record(FrozenTeacher(model), blocks, tmp_path / "store", selection=Selection(p=1.0, k=320), values=values)
    item = BlockReader(tmp_path / "store", "train")[9]
    logits = model(torch.from_numpy(item["block"][:-1])).detach().double()[:, :300]
    assert item["counts"].tolist() == [300] * 16
    assert item["ids"].max() == 299
    expected = {
        "mean": logits.mean(-1) - logits.logsumexp(-1),
        "std": logits.std(-1, correction=0),
        "entropy": torch.distributions.Categorical(logits=logits).entropy(),
    }
    tolerance = 2e-5 if values == "exact" else 2e-3
    for name, figures in expected.items():
        np.testing.assert_allclose(item[name], figures, rtol=tolerance, err_msg=name)


def test_a_module_with_too_few_logits_is_refused(blocks: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"must hold every id of the data, got 299 for 300 ids\. Set model\.teacher"):
        record(FrozenTeacher(Plain(299)), blocks, tmp_path / "store")
    assert not (tmp_path / "store").exists()


def test_the_store_holds_the_blocks_own_tokens(truncated_store: Path, blocks: Path) -> None:
    for split in ("train", "val"):
        stored, plain = BlockReader(truncated_store, split), BlockReader(blocks, split)
        assert all(np.array_equal(stored[i]["block"], plain[i]["block"]) for i in range(len(stored)))


def test_a_second_start_writes_what_is_missing_and_no_more(
    blocks: Path, teacher_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pd_lightning.recording.output as module

    record(FrozenTeacher(str(teacher_dir)), blocks, tmp_path / "whole")
    write, written = module.write_chunk, []

    def dies_at_the_third(folder: Path, index: int, *rest: Any) -> None:
        if len(written) == 2:
            raise KeyError("killed")
        written.append((folder.name, index))
        write(folder, index, *rest)

    monkeypatch.setattr(module, "write_chunk", dies_at_the_third)
    with pytest.raises(KeyError, match="killed"):
        record(FrozenTeacher(str(teacher_dir)), blocks, tmp_path / "twice")
    first, written = written, []
    monkeypatch.setattr(module, "write_chunk", lambda *args: (written.append((args[0].name, args[1])), write(*args)))
    record(FrozenTeacher(str(teacher_dir)), blocks, tmp_path / "twice")
    assert sorted(first + written) == [("train", 0), ("train", 1), ("train", 2), ("train", 3), ("val", 0)]
    for name in ("train/chunk-000001.bin", "train/chunk-000003.bin", "val/chunk-000000.bin", "train/index.json"):
        assert (tmp_path / "twice" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    record(FrozenTeacher(str(teacher_dir)), blocks, tmp_path / "twice")
    assert len(written) == 3, "a third start has nothing to do"


def test_killed_before_it_is_finished_it_is_finished_and_no_more(
    blocks: Path, teacher_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pd_lightning.store.chunks as module

    record(FrozenTeacher(str(teacher_dir)), blocks, tmp_path / "whole")
    write = module.write_durably
    for name in ("index.json", "checksums.json", "manifest.json"):

        def dies(path: Path, content: bytes, name: str = name) -> None:
            if path.name == name:
                raise KeyError("killed")
            write(path, content)

        with monkeypatch.context() as patch:
            patch.setattr(module, "write_durably", dies)
            with pytest.raises(KeyError, match="killed"):
                record(FrozenTeacher(str(teacher_dir)), blocks, tmp_path / "store")
        monkeypatch.setattr(Recorder, "predict_step", lambda *_: pytest.fail("all is computed"))
    record(FrozenTeacher(str(teacher_dir)), blocks, tmp_path / "store")
    assert same_files(tmp_path / "store", tmp_path / "whole")


def sharded(data_parallel_size: int, tensor_parallel_size: int) -> dict[str, Any]:
    sizes = {"data_parallel_size": data_parallel_size, "tensor_parallel_size": tensor_parallel_size}
    return {"class_path": "lightning.pytorch.strategies.ModelParallelStrategy", "init_args": sizes}


SHARDED = {"class_path": "pd_lightning.strategies.FSDP2Strategy"}


def start(folder: Path, store: Path, settings: dict[str, Any], **trainer: Any) -> subprocess.Popen:
    """Run the command in a process of its own."""
    quiet = {"accelerator": "cpu", "enable_progress_bar": False, "logger": False}
    settings = {**settings, "trainer": {**quiet, **trainer}}
    settings["model"] = {**settings["model"], "output_dir": str(store)}
    config = folder / f"{store.name}.yaml"
    config.write_text(yaml.safe_dump(settings))
    command = [sys.executable, "-m", "pd_lightning", "record", "--config", str(config)]
    return subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, start_new_session=True)


@pytest.fixture
def settings(blocks: Path, teacher_dir: Path) -> dict[str, Any]:
    """Three chunks, the last of each split being short."""
    return {
        "model": {
            "teacher": {"class_path": "pd_lightning.teachers.FrozenTeacher", "init_args": {"model": str(teacher_dir)}},
            "selection": {"p": 0.9, "k": 20},
            "blocks_per_chunk": 8,
        },
        "data": {
            "class_path": "pd_lightning.data.TokenBlocks",
            "init_args": {"path": str(blocks), "batch_size": 4, "max_train_blocks": 14, "max_val_blocks": 5},
        },
    }


def same_files(one: Path, other: Path) -> bool:
    names = {path.relative_to(folder) for folder in (one, other) for path in folder.rglob("*") if path.is_file()}
    different = [name for name in names if (one / name).read_bytes() != (other / name).read_bytes()]
    return different == []


WEIGHED = """
import os, pd_lightning.teachers as teachers
from torch.distributed.tensor import DTensor

class FrozenTeacher(teachers.FrozenTeacher):
    def __call__(self, batch):
        weights = [weight for name, weight in self.model.named_parameters() if ".layers." in name]
        here = sum((weight.to_local() if isinstance(weight, DTensor) else weight).numel() for weight in weights)
        with open("weighed", "a") as file:
            file.write(f"{here / sum(weight.numel() for weight in weights)}\\n")
        return super().__call__(batch)
"""


def test_two_ranks_record_what_one_does(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of three chunks in two splits one rank has two: with a sharded teacher the other computes along."""
    (tmp_path / "weighed_teacher.py").write_text(WEIGHED)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.chdir(tmp_path)
    settings["model"]["teacher"]["class_path"] = "weighed_teacher.FrozenTeacher"
    assert start(tmp_path, tmp_path / "one", settings).wait(300) == 0
    strategies = {"copies": "ddp", "shards": SHARDED, "tensors": sharded(1, 2)}
    for name, strategy in strategies.items():
        (tmp_path / "weighed").unlink()
        assert start(tmp_path, tmp_path / name, settings, strategy=strategy, devices=2).wait(300) == 0
        assert same_files(tmp_path / name, tmp_path / "one")
        assert verify_folder(tmp_path / name) == []
        shares = set(map(float, (tmp_path / "weighed").read_text().split()))
        assert shares == {1.0 if strategy == "ddp" else 0.5}


PROJECT = """
import lightning.pytorch as pl, torch
from torch.utils.data import DataLoader, IterableDataset
from pd_lightning.store.reader import BlockReader

class Stream(IterableDataset):
    def __init__(self, folder, first):
        self.folder, self.first = folder, first
    def __iter__(self):
        reader = BlockReader(self.folder, "train")
        return ({"input_ids": torch.from_numpy(reader[self.first + i]["block"])} for i in range(22))

class Project(pl.LightningDataModule):
    def __init__(self, folder: str, by_rank: bool = False):
        super().__init__()
        self.folder, self.tokenizer_dir, self.by_rank = folder, folder + "/tokenizer", by_rank
    def train_dataloader(self):
        return DataLoader(Stream(self.folder, self.trainer.global_rank if self.by_rank else 0), batch_size=4)
"""


@pytest.mark.slow
def test_two_ranks_record_a_stream_whose_length_nobody_knows(
    settings: dict[str, Any], blocks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "project.py").write_text(PROJECT)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    settings["data"] = {"class_path": "project.Project", "init_args": {"folder": str(blocks)}}
    assert start(tmp_path, tmp_path / "one", settings).wait(300) == 0
    assert start(tmp_path, tmp_path / "two", settings, strategy=SHARDED, devices=2).wait(300) == 0
    assert same_files(tmp_path / "two", tmp_path / "one")
    settings["data"]["init_args"]["by_rank"] = True
    assert start(tmp_path, tmp_path / "three", settings, strategy=SHARDED, devices=2).wait(300) == 1
    assert not (tmp_path / "three").exists()


def written_beyond(process: subprocess.Popen, store: Path, chunks: int) -> float:
    """Wait until there are more chunks, or the process has ended; gives the time."""
    while process.poll() is None and len(list(store.glob("*/*.bin"))) <= chunks:
        time.sleep(0.005)
    return time.monotonic()


@pytest.mark.slow
@pytest.mark.parametrize("uploads", [False, True])
def test_killed_at_any_time_it_goes_on(settings: dict[str, Any], tmp_path: Path, uploads: bool) -> None:
    """Twenty kills, most amid writing: every block is there once, as if there had been none."""
    settings["model"]["blocks_per_chunk"] = settings["data"]["init_args"]["batch_size"] = 1
    settings["data"]["init_args"] |= {"max_train_blocks": 400, "max_val_blocks": 20}
    began = time.monotonic()
    whole = start(tmp_path, tmp_path / "whole", settings)
    first = written_beyond(whole, tmp_path / "whole", 0) - began
    assert whole.wait(300) == 0
    # By this machine's speed, so that the data last for all kills.
    each = (time.monotonic() - began - first) / 40
    if uploads:
        settings["model"]["upload_to"] = f"file://{tmp_path / 'bucket'}"
    final = tmp_path / ("bucket" if uploads else "killed")
    store, chance, kills = tmp_path / "killed", random.Random(0), 0
    for number in range(40):
        process, before = start(tmp_path, store, settings), len(list(store.glob("*/*.bin")))
        if number % 4:
            written_beyond(process, store, before)
            time.sleep(chance.uniform(0, each))
        else:
            time.sleep(chance.uniform(0, first))
        if process.poll() is not None:
            break
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        kills += 1
        if kills == 20:
            break
    assert kills == 20, "the data must last for 20 kills"
    assert not (final / "manifest.json").exists()
    assert start(tmp_path, store, settings).wait(300) == 0
    assert same_files(final, tmp_path / "whole")
    assert verify_folder(final) == []


def test_logits_that_are_no_numbers_are_not_written(blocks: Path, teacher_dir: Path, tmp_path: Path) -> None:
    model = load_causal_lm(str(teacher_dir), "float32", "model")
    token = int(BlockReader(blocks, "train")[9]["block"][3])
    before = [block for block in range(9) if token in BlockReader(blocks, "train")[block]["block"][:-1]]
    with torch.no_grad():
        model.get_input_embeddings().weight[token] = torch.nan
    with pytest.raises(ValueError, match=r"targets must be numbers, got \d+ NaN in .*run it in bfloat16 or float32"):
        record(FrozenTeacher(model), blocks, tmp_path / "store")
    assert len(list(tmp_path.glob("store/train/*.bin"))) == min([*before, 9]) // 8
    assert not (tmp_path / "store" / "manifest.json").exists()


def test_a_full_disk_leaves_what_is_written(
    blocks: Path, teacher_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pd_lightning.store.chunks as module

    publish, published = module.publish, []

    def full_after_two(written: Path, final: Path) -> None:
        if len(published) == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        published.append(final)
        publish(written, final)

    with monkeypatch.context() as patch:
        patch.setattr(module, "publish", full_after_two)
        with pytest.raises(OSError, match=r"disk full while writing chunk 2 of .*2 chunks \(.* are written and stay"):
            record(FrozenTeacher(str(teacher_dir)), blocks, tmp_path / "store")
    assert sorted(tmp_path.glob("store/*/*.bin")) == published
    record(FrozenTeacher(str(teacher_dir)), blocks, tmp_path / "store")
    record(FrozenTeacher(str(teacher_dir)), blocks, tmp_path / "whole")
    assert same_files(tmp_path / "store", tmp_path / "whole")


def test_limits_that_would_cut_a_chunk_are_refused(blocks: Path, teacher_dir: Path, tmp_path: Path) -> None:
    for limit in ({"limit_predict_batches": 1}, {"fast_dev_run": True}):
        recorder = Recorder(FrozenTeacher(str(teacher_dir)), str(tmp_path / "store"))
        with pytest.raises(ValueError, match="record must see every block of a chunk"):
            PDTrainer(accelerator="cpu", logger=False, **limit).record(recorder, TokenBlocks(str(blocks)))
    assert not (tmp_path / "store").exists()


def test_what_a_kill_left_of_the_plan_is_nobodys(blocks: Path, teacher_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / ".tmp-recording.json-ab").write_text("{")
    record(FrozenTeacher(str(teacher_dir)), blocks, tmp_path / "store")
    record(FrozenTeacher(str(teacher_dir)), blocks, tmp_path / "whole")
    assert same_files(tmp_path / "store", tmp_path / "whole")


def test_a_folder_of_other_files_is_left_alone(blocks: Path, teacher_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"which holds other files\. Set another model\.output_dir"):
        record(FrozenTeacher(str(teacher_dir)), blocks, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize("name", ["val_path", "mix", "min_teacher_step"])
def test_settings_of_the_data_that_recording_does_not_read_are_refused(
    blocks: Path, teacher_dir: Path, tmp_path: Path, name: str
) -> None:
    unread = {"val_path": str(tmp_path), "mix": {"other": MixedIn(str(blocks))}, "min_teacher_step": 5}
    data = TokenBlocks(str(blocks), **{name: unread[name]})
    with pytest.raises(
        ValueError, match=rf"blocks of one folder, data\.path, got data\.{name}\. Leave out data\.{name};"
    ):
        record(FrozenTeacher(str(teacher_dir)), blocks, tmp_path / "store", data=data)


def test_blocks_in_object_storage_are_recorded(blocks: Path, teacher_dir: Path, tmp_path: Path) -> None:
    limits = {"batch_size": 4, "max_train_blocks": 30, "max_val_blocks": 5, "cache_dir": str(tmp_path / "cache")}
    for name, path in (("near", str(blocks)), ("far", f"file://{blocks}")):
        record(FrozenTeacher(str(teacher_dir)), blocks, tmp_path / name, data=TokenBlocks(path, **limits))
    assert same_files(tmp_path / "far", tmp_path / "near")


def test_other_settings_are_refused(blocks: Path, teacher_dir: Path, tmp_path: Path) -> None:
    record(FrozenTeacher(str(teacher_dir)), blocks, tmp_path / "store")
    with pytest.raises(ValueError, match=r"selection was .*'k': 20.*, is .*'k': 10.*Set another model.output_dir"):
        record(FrozenTeacher(str(teacher_dir)), blocks, tmp_path / "store", selection=Selection(p=0.9, k=10))
    with pytest.raises(ValueError, match=r"must be a new folder or one of `pd-lightning record`.*holds blocks"):
        record(FrozenTeacher(str(teacher_dir)), blocks, blocks)


def test_what_cannot_be_recorded_is_refused(
    blocks: Path, truncated_store: Path, teacher_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match="must have a teacher that computes its logits, got NoTeacher"):
        record(NoTeacher(), blocks, tmp_path / "a")
    with pytest.raises(ValueError, match="must have token blocks to run the teacher over, got a logit store"):
        record(FrozenTeacher(str(teacher_dir)), truncated_store, tmp_path / "b")
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 10, "total": 100})())
    with pytest.raises(ValueError, match="must have room for the store"):
        record(FrozenTeacher(str(teacher_dir)), blocks, tmp_path / "c")


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"p": 0}, r"p must be in \(0, 1\], got 0. Set model.selection.p"), ({"k": 0}, "got k 0 and min_k 1")],
)
def test_bad_selections(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Selection(**settings)
