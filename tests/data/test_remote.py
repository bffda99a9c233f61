"""Reading from object storage: the same blocks, whole chunks alone, and no more of them than may be."""

from __future__ import annotations

import hashlib
import json
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
from pd_lightning.store.safety import verify_layout


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


def test_a_chunk_is_in_use_before_it_is_looked_at(address, tmp_path):
    """Another process makes room between the look at a chunk and its use."""
    size = max(path.stat().st_size for path in (tmp_path / "blocks" / "train").glob("chunk-*"))
    one, other = (RemoteFolder(address, tmp_path / "cache", 1.5 * size) for _ in range(2))
    one.fetch("train/chunk-000000.bin")
    path = local(tmp_path) / "train" / "chunk-000000.bin"
    os.utime(path, times=(time.time() - 120,) * 2)
    one.fetch("train/chunk-000000.bin")
    other.fetch("train/chunk-000001.bin")
    assert path.exists()


def test_a_chunk_that_another_process_removed_is_fetched_again(address, tmp_path):
    remote = RemoteFolder(address, tmp_path / "cache", 1e9)
    left = iter([False, True, False, True])

    def fetch(name: str) -> None:
        remote.fetch(name)
        if not next(left, False):
            (remote.folder / name).unlink()

    reader = BlockReader(remote.folder, "train", fetch)
    assert [int(reader[index]["block"][0]) for index in (1, 4)] == [1, 4]
    with pytest.raises(ValueError, match=r"item 1 of .*chunk-000002\.bin is damaged: .*No such file"):
        reader[7]


def test_few_removed_chunks_stay_open(address, tmp_path, monkeypatch):
    """Open, they take disk as much as those in the cache."""
    monkeypatch.setattr(module, "_IN_USE_SECONDS", -1.0)
    remote = RemoteFolder(address, tmp_path / "cache", 1.0)
    reader = BlockReader(remote.folder, "train", remote.fetch)
    assert [int(reader[index]["block"][0]) for index in range(20)] == list(range(20))
    maps = [line for line in Path("/proc/self/maps").read_text().splitlines() if str(remote.folder) in line]
    assert len(chunks(tmp_path)) == 1
    assert sum("(deleted)" in line for line in maps) <= 3


def test_downloads_of_killed_processes_are_removed(address, tmp_path):
    remote = RemoteFolder(address, tmp_path / "cache", 1e9)
    left, going_on = (remote.folder / "train" / f".tmp-chunk-000000.bin-{name}" for name in ("left", "going-on"))
    left.parent.mkdir(exist_ok=True)
    for path in (left, going_on):
        path.write_bytes(b"x")
    os.utime(left, times=(time.time() - 7200,) * 2)
    remote.fetch("train/chunk-000001.bin")
    assert (left.exists(), going_on.exists()) == (False, True)


@pytest.mark.parametrize(("at", "value"), [(0, 2), (4, 4_000_000_000), (4, 0), (8, 1 << 20)])
def test_a_forged_header_is_refused_before_litdata_reads_it(make_folder, tmp_path, monkeypatch, at, value):
    """Its checksums are the forger's too; litdata has other formats that a header leads to."""
    folder = make_folder(train=5)
    path = folder / "train" / "chunk-000000.bin"
    content = path.read_bytes()
    path.write_bytes(content[:at] + value.to_bytes(4, "little") + content[at + 4 :])
    checksums = json.loads((folder / "checksums.json").read_text())
    checksums["files"]["train/chunk-000000.bin"]["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    (folder / "checksums.json").write_text(json.dumps(checksums))
    remote = RemoteFolder(f"file://{folder}", tmp_path / "cache", 1e9)
    reader = BlockReader(remote.folder, "train", remote.fetch)
    with pytest.raises(ValueError, match=r"item 1 of .*chunk-000000\.bin is damaged: its chunk has a header that"):
        reader[1]
    assert not [line for line in Path("/proc/self/maps").read_text().splitlines() if str(remote.folder) in line]
    assert int(reader[3]["block"][0]) == 3


def test_a_folder_is_checked_once_for_its_splits(address, tmp_path, monkeypatch):
    checked = []
    monkeypatch.setattr(module, "verify_layout", lambda *args, **kw: checked.append(args) or verify_layout(*args, **kw))
    TokenBlocks(address, cache_dir=str(tmp_path / "cache")).setup("fit")
    assert len(checked) == 1


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


@pytest.mark.parametrize("name", ["../../stolen", "/stolen", "tokenizer/../../../stolen", "..\\stolen", ""])
def test_files_elsewhere_are_not_fetched(make_folder, tmp_path, name):
    folder = make_folder()
    checksums = json.loads((folder / "checksums.json").read_text())
    checksums["files"][name] = {"bytes": 2, "sha256": hashlib.sha256(b"{}").hexdigest()}
    (folder / "checksums.json").write_text(json.dumps(checksums))
    (tmp_path / "stolen").write_text("{}")
    before = set(tmp_path.rglob("*"))
    with pytest.raises(ValueError, match="must lie inside it, got"):
        RemoteFolder(f"file://{folder}", tmp_path / "cache", 1e9)
    made = [path for path in set(tmp_path.rglob("*")) - before if path.is_file()]
    assert [path.name for path in made] == ["checksums.json"]
