"""A store that moves to object storage chunk by chunk."""

from pathlib import Path
from typing import Any

import fsspec
import pytest

from pd_lightning.data import TokenBlocks
from pd_lightning.record import Recorder
from pd_lightning.recording.spool import Spool
from pd_lightning.selection import Selection
from pd_lightning.store.reader import BlockReader
from pd_lightning.store.verification import verify_folder
from pd_lightning.teachers import FrozenTeacher
from pd_lightning.trainer import PDTrainer


def record(blocks: Path, teacher: Path, folder: Path, upload_to: str | None = None, **settings: Any) -> None:
    settings = {"selection": Selection(p=0.9, k=20), "blocks_per_chunk": 8, **settings}
    recorder = Recorder(FrozenTeacher(str(teacher)), str(folder), upload_to=upload_to, **settings)
    data = TokenBlocks(str(blocks), batch_size=4, max_train_blocks=30, max_val_blocks=5)
    PDTrainer(accelerator="cpu", logger=False, enable_progress_bar=False).record(recorder, data)


def contents(files: Any, root: str) -> dict[str, bytes]:
    return {name.removeprefix(root).lstrip("/"): files.cat_file(name) for name in files.find(root)}


def local_contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def local(blocks: Path, teacher_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("local") / "store"
    record(blocks, teacher_dir, folder)
    return folder


@pytest.fixture(params=["memory", "file"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return f"memory://{tmp_path.name}/store" if request.param == "memory" else f"file://{tmp_path}/bucket/store"


def test_what_arrives_is_what_would_be_here(
    address: str, blocks: Path, teacher_dir: Path, local: Path, tmp_path: Path
) -> None:
    record(blocks, teacher_dir, tmp_path / "spool", address)
    files, root = fsspec.core.url_to_fs(address)
    assert contents(files, root) == local_contents(local)
    assert local_contents(tmp_path / "spool") == {}
    files.get(root, str(tmp_path / "back"), recursive=True)
    assert verify_folder(tmp_path / "back") == []
    assert len(BlockReader(tmp_path / "back", "train")) == 30


def killed_after_two_chunks(blocks: Path, teacher: Path, folder: Path, address: str) -> None:
    send = Spool.send

    def dies_at_the_third_chunk(spool: Spool, path: Path) -> None:
        if path.name == "chunk-000002.bin" and path.parent.name == "train":
            raise KeyError("killed")
        send(spool, path)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Spool, "send", dies_at_the_third_chunk)
        with pytest.raises(KeyError, match="killed"):
            record(blocks, teacher, folder, address)


def test_emptied_chunks_count_only_where_they_moved_to(
    address: str, blocks: Path, teacher_dir: Path, local: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = tmp_path / "spool"
    killed_after_two_chunks(blocks, teacher_dir, spool, address)
    before = local_contents(spool)
    other = f"memory://{tmp_path.name}/other"
    files, root = fsspec.core.url_to_fs(address)
    kept = files.cat_file(f"{root}/train/chunk-000001.json")
    with monkeypatch.context() as patch:
        patch.setattr(Recorder, "predict_step", lambda *_: pytest.fail("nothing is computed"))
        for upload_to in (None, other):
            with pytest.raises(
                ValueError, match=rf"got {upload_to}, which lacks 2 of .*, train/chunk-000000.bin first"
            ):
                record(blocks, teacher_dir, spool, upload_to)
        files.rm_file(f"{root}/train/chunk-000001.json")
        with pytest.raises(ValueError, match=r"lacks 1 of .*, train/chunk-000001.bin first. Set model.upload_to as it"):
            record(blocks, teacher_dir, spool, address)
    assert local_contents(spool) == before
    assert fsspec.core.url_to_fs(other)[0].find(f"/{tmp_path.name}/other") == []
    files.pipe_file(f"{root}/train/chunk-000001.json", kept)
    record(blocks, teacher_dir, spool, address)
    assert contents(files, root) == local_contents(local)


@pytest.mark.parametrize("finished", [False, True])
def test_what_was_recorded_here_moves_when_an_address_is_named(
    address: str, blocks: Path, teacher_dir: Path, local: Path, tmp_path: Path, finished: bool
) -> None:
    spool = tmp_path / "spool"
    with pytest.MonkeyPatch.context() as patch:
        if not finished:
            patch.setattr(Recorder, "finish", lambda recorder: None)
        record(blocks, teacher_dir, spool)
        assert (spool / "manifest.json").exists() == finished
        patch.undo()
        patch.setattr(Recorder, "predict_step", lambda *_: pytest.fail("nothing is computed again"))
        record(blocks, teacher_dir, spool, address)
    files, root = fsspec.core.url_to_fs(address)
    assert contents(files, root) == local_contents(local)
    assert local_contents(spool) == {}


def test_a_plan_that_was_left_behind_is_uploaded(
    address: str, blocks: Path, teacher_dir: Path, local: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed before anything was uploaded, then again after two chunks."""
    with monkeypatch.context() as patch:
        patch.setattr(Spool, "send", lambda spool, path: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            record(blocks, teacher_dir, tmp_path / "spool", address)
    killed_after_two_chunks(blocks, teacher_dir, tmp_path / "spool", address)
    record(blocks, teacher_dir, tmp_path / "spool", address)
    files, root = fsspec.core.url_to_fs(address)
    assert contents(files, root) == local_contents(local)


def test_a_start_on_another_machine_goes_on_with_what_is_there(
    address: str, blocks: Path, teacher_dir: Path, local: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    send, sent = Spool.send, []

    def dies_at_the_third_chunk(spool: Spool, path: Path) -> None:
        if path.name == "chunk-000002.bin" and path.parent.name == "train":
            raise KeyError("killed")
        sent.append(path.name)
        send(spool, path)

    with monkeypatch.context() as patch:
        patch.setattr(Spool, "send", dies_at_the_third_chunk)
        with pytest.raises(KeyError, match="killed"):
            record(blocks, teacher_dir, tmp_path / "spool", address)
    assert sent == ["recording.json", *(f"chunk-00000{i}.{end}" for i in (0, 1) for end in ("bin", "json"))]
    left = {path.name: path.stat().st_size > 0 for path in (tmp_path / "spool" / "train").glob("*.bin")}
    assert left == {"chunk-000000.bin": False, "chunk-000001.bin": False, "chunk-000002.bin": True}
    again: list[str] = []
    monkeypatch.setattr(Spool, "send", lambda spool, path: (again.append(path.name), send(spool, path)))
    record(blocks, teacher_dir, tmp_path / "elsewhere", address)
    assert again.count("chunk-000000.bin") == 1, "of the validation split alone"
    files, root = fsspec.core.url_to_fs(address)
    assert contents(files, root) == local_contents(local)


def test_a_chunk_that_was_left_behind_is_uploaded_and_not_computed_again(
    blocks: Path, teacher_dir: Path, local: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pd_lightning.recording.output as module

    address = f"memory://{tmp_path.name}/store"
    with monkeypatch.context() as patch:
        patch.setattr(Spool, "send_chunk", lambda spool, chunk: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            record(blocks, teacher_dir, tmp_path / "spool", address)
    write, written = module.write_chunk, []
    monkeypatch.setattr(module, "write_chunk", lambda *args: (written.append(args[:2]), write(*args)))
    record(blocks, teacher_dir, tmp_path / "spool", address)
    assert (tmp_path / "spool" / "train", 0) not in written
    assert len(written) == 4
    files, root = fsspec.core.url_to_fs(address)
    assert contents(files, root) == local_contents(local)
    record(blocks, teacher_dir, tmp_path / "spool", address)
    assert len(written) == 4, "a third start has nothing to do"
    assert contents(files, root) == local_contents(local)


def test_what_arrives_damaged_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = Spool(tmp_path, f"memory://{tmp_path.name}/store")
    (tmp_path / "chunk").write_bytes(b"abcd")
    put = spool._files.put_file
    monkeypatch.setattr(spool._files, "put_file", lambda here, there: spool._files.pipe_file(there, b"abcx"))
    with pytest.raises(OSError, match=r"must hold the 4 bytes that were sent, got 4 bytes with another checksum\. Run"):
        spool.send(tmp_path / "chunk")
    monkeypatch.setattr(spool._files, "put_file", put)
    spool.send(tmp_path / "chunk")


def test_addresses_of_something_else_are_refused(blocks: Path, teacher_dir: Path, tmp_path: Path) -> None:
    address = f"memory://{tmp_path.name}/thesis"
    files, root = fsspec.core.url_to_fs(address)
    files.pipe_file(f"{root}/thesis.txt", b"mine")
    with pytest.raises(ValueError, match=r"which holds other files\. Set another model\.upload_to"):
        record(blocks, teacher_dir, tmp_path / "a", address)
    assert contents(files, root) == {"thesis.txt": b"mine"}
    other = f"memory://{tmp_path.name}/store"
    record(blocks, teacher_dir, tmp_path / "b", other)
    with pytest.raises(ValueError, match=r"selection was .*'k': 20.*, is .*'k': 10"):
        record(blocks, teacher_dir, tmp_path / "c", other, selection=Selection(p=0.9, k=10))
    record(blocks, teacher_dir, tmp_path / "d", selection=Selection(p=0.9, k=10))
    with pytest.raises(ValueError, match=r"model\.upload_to must hold the recording of model\.output_dir"):
        record(blocks, teacher_dir, tmp_path / "d", other, selection=Selection(p=0.9, k=10))


def test_records_elsewhere_are_not_fetched(tmp_path: Path) -> None:
    """The name of an object may lead out of the folder, where its chunk would be emptied."""
    files = fsspec.filesystem("memory")
    root = f"/{tmp_path.name}/crafted"
    outside = tmp_path / "mine" / "chunk-000000.bin"
    outside.parent.mkdir()
    outside.write_bytes(b"mine")
    for name in ("recording.json", "train/../../mine/chunk-000000.bin", "train/../../mine/chunk-000000.json"):
        files.store[f"{root}/{name}"] = files.store.get(name) or _file(files, f"{root}/{name}")
    with pytest.raises(ValueError, match=r"must lie inside it, got 'train/\.\./\.\./mine/chunk-000000\.bin'"):
        Spool(tmp_path / "spool", f"memory:/{root}").fetch()
    assert local_contents(outside.parent) == {"chunk-000000.bin": b"mine"}


def _file(files: Any, path: str) -> Any:
    from fsspec.implementations.memory import MemoryFile

    return MemoryFile(files, path, b"{}")
