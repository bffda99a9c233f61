"""Reading from object storage: the same blocks, whole chunks alone, and no more of them than may be."""

from __future__ import annotations

import os
import time
from pathlib import Path

import fsspec
import numpy as np
import pytest

from pd_lightning.data import MixedIn, TokenBlocks
from pd_lightning.data import remote as module
from pd_lightning.data.remote import RemoteFolder
from pd_lightning.store.reader import BlockReader


def seen(loader) -> list[int]:
    return [int(number) for batch in loader for number in batch["input_ids"][:, 0]]


@pytest.fixture(params=["memory", "file"])
def address(request, make_folder, tmp_path):
    """A store of 20 blocks in 7 chunks, and of a few for validation, somewhere else."""
    folder = make_folder(kind="logits", train=20, val=4)
    if request.param == "file":
        yield f"file://{folder}"
        return
    memory = fsspec.filesystem("memory")
    memory.put(str(folder), "/bucket/store", recursive=True)
    yield "memory://bucket/store"
    memory.rm("/bucket", recursive=True)


def local(tmp_path) -> Path:
    (folder,) = (tmp_path / "cache").iterdir()
    return folder


def chunks(tmp_path) -> set[str]:
    return {path.name for path in local(tmp_path).glob("train/chunk-*")}


@pytest.mark.parametrize("workers", [0, 2])
def test_it_gives_what_the_folder_gives(address, tmp_path, workers):
    settings = {"batch_size": 4, "seed": 3, "num_workers": workers}
    here, there = (
        TokenBlocks(path, **settings, cache_dir=str(tmp_path / "cache")) for path in (str(tmp_path / "blocks"), address)
    )
    for data in (here, there):
        data.setup("fit")
    assert chunks(tmp_path) == set(), "nothing is fetched before it is read"
    assert there.tokenizer_dir.is_dir()
    assert seen(there.train_dataloader()) == seen(here.train_dataloader())
    assert seen(there.val_dataloader()) == [0, 1, 2, 3]
    assert len(chunks(tmp_path)) == 7


def test_chunks_are_fetched_when_they_are_read(address, tmp_path):
    remote = RemoteFolder(address, tmp_path / "cache", 1e9)
    reader = BlockReader(remote.folder, "train", remote.fetch)
    whole = BlockReader(tmp_path / "blocks", "train")
    for index in (7, 8, 0):
        assert all(np.array_equal(values, reader[index][name]) for name, values in whole[index].items())
    assert chunks(tmp_path) == {"chunk-000000.bin", "chunk-000002.bin"}


def test_the_cache_is_bounded(address, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_IN_USE_SECONDS", -1.0)
    size = max(path.stat().st_size for path in (tmp_path / "blocks" / "train").glob("chunk-*"))
    remote = RemoteFolder(address, tmp_path / "cache", 2.5 * size)
    reader = BlockReader(remote.folder, "train", remote.fetch)
    whole = BlockReader(tmp_path / "blocks", "train")
    for index in np.random.default_rng(0).permutation(np.repeat(np.arange(20), 3)):
        assert np.array_equal(reader[index]["block"], whole[index]["block"])
        assert len(chunks(tmp_path)) <= 3


def test_what_was_not_used_for_longest_goes_first(address, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_IN_USE_SECONDS", -1.0)
    size = max(path.stat().st_size for path in (tmp_path / "blocks" / "train").glob("chunk-*"))
    remote = RemoteFolder(address, tmp_path / "cache", 2.5 * size)
    for number, age in ((0, 30), (1, 20)):
        remote.fetch(f"train/chunk-{number:06d}.bin")
        os.utime(local(tmp_path) / "train" / f"chunk-{number:06d}.bin", times=(time.time() - age,) * 2)
    remote.fetch("train/chunk-000000.bin")
    remote.fetch("train/chunk-000002.bin")
    assert chunks(tmp_path) == {"chunk-000000.bin", "chunk-000002.bin"}


def test_chunks_in_use_stay(address, tmp_path):
    remote = RemoteFolder(address, tmp_path / "cache", 1.0)
    reader = BlockReader(remote.folder, "train", remote.fetch)
    assert [reader[index]["block"][0] for index in range(20)] == list(range(20))
    assert len(chunks(tmp_path)) == 7


def test_a_damaged_chunk_is_never_read(address, tmp_path):
    files, root = fsspec.core.url_to_fs(address)
    content = bytearray(files.cat_file(f"{root}/train/chunk-000001.bin"))
    content[-1] ^= 1
    files.pipe_file(f"{root}/train/chunk-000001.bin", bytes(content))
    data = TokenBlocks(address, cache_dir=str(tmp_path / "cache"), shuffle=False)
    data.setup("fit")
    with pytest.raises(ValueError, match=r"train/chunk-000001.bin must match its checksum, got \d+ bytes with another"):
        seen(data.train_dataloader())
    assert chunks(tmp_path) == {"chunk-000000.bin"}
    assert not list(local(tmp_path).glob("**/.tmp-*"))


def test_another_recording_at_the_address_has_a_cache_of_its_own(make_folder, tmp_path):
    memory = fsspec.filesystem("memory")
    for name, start in (("one", 0), ("other", 100)):
        memory.put(str(make_folder(name, start=start, train=3, val=1)), "/changing", recursive=True)
        data = TokenBlocks("memory://changing", cache_dir=str(tmp_path / "cache"), shuffle=False)
        data.setup("fit")
        assert seen(data.train_dataloader()) == [start, start + 1, start + 2]
        memory.rm("/changing", recursive=True)
    assert len(list((tmp_path / "cache").iterdir())) == 2


def test_folders_here_and_there_can_be_mixed(address, make_folder, tmp_path):
    plain = make_folder("plain", start=500, train=5, val=2)
    cache = str(tmp_path / "cache")
    data = TokenBlocks(address, mix={"plain": MixedIn(str(plain))}, val_path=str(plain), cache_dir=cache)
    data.setup("fit")
    assert sorted(seen(data.train_dataloader())) == [*range(20), *range(500, 505)]
    assert seen(data.val_dataloader()) == [500, 501]


def test_nothing_at_the_address(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"must be finished, got memory://nowhere without checksums\.json"):
        TokenBlocks("memory://nowhere", cache_dir=str(tmp_path / "cache")).setup("fit")
