import errno
import json
import os
from pathlib import Path

import numpy as np
import pytest

from pd_lightning.store import chunks
from pd_lightning.store.chunks import (
    chunk_statistics,
    discard_unfinished,
    done_chunks,
    finish,
    num_chunks,
    write_chunk,
)
from pd_lightning.store.safety import verify_files, verify_layout


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def unfinished(tmp_path, samples):
    samples.tokenizer(tmp_path)
    return tmp_path


@pytest.fixture
def dies_at(killed):
    """Run `action` in a child that is killed at its `call`-th fsync, between any two steps. False if it got by."""

    def watch(strike):
        fsync = os.fsync

        def deadly(descriptor):
            strike()
            fsync(descriptor)

        os.fsync = deadly

    return lambda call, action: killed(call, action, watch)


@pytest.mark.parametrize(("blocks", "per_chunk", "expected"), [(0, 3, 0), (1, 3, 1), (3, 3, 1), (7, 3, 3)])
def test_number_of_chunks(blocks, per_chunk, expected):
    assert num_chunks(blocks, per_chunk) == expected


def test_a_written_chunk_leaves_nothing_temporary(tmp_path, samples):
    write_chunk(tmp_path, 2, samples.items("blocks", 2), statistics={"mass": 0.5})
    assert names(tmp_path) == ["chunk-000002.bin", "chunk-000002.json"]
    assert done_chunks(tmp_path) == {2}
    assert list(chunk_statistics(tmp_path)) == [{"mass": 0.5}]


def test_a_written_chunk_is_not_written_again(tmp_path, samples):
    write_chunk(tmp_path, 0, samples.items("blocks", 0))
    before = (tmp_path / "chunk-000000.bin").stat()
    write_chunk(tmp_path, 0, samples.items("blocks", 1))
    assert (tmp_path / "chunk-000000.bin").stat() == before


def test_statistics_come_in_the_order_of_chunks(tmp_path, samples):
    for chunk in (2, 0, 1):
        write_chunk(tmp_path, chunk, samples.items("blocks", chunk), statistics={"chunk": chunk})
    assert list(chunk_statistics(tmp_path)) == [{"chunk": 0}, {"chunk": 1}, {"chunk": 2}]


def test_the_rank_of_the_process_does_not_matter(tmp_path, monkeypatch, samples):
    write_chunk(tmp_path / "plain", 0, samples.items("logits", 0))
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("GLOBAL_RANK", "3")
    write_chunk(tmp_path / "ranked", 0, samples.items("logits", 0))
    assert names(tmp_path / "ranked") == names(tmp_path / "plain")
    for name in names(tmp_path / "plain"):
        assert (tmp_path / "ranked" / name).read_bytes() == (tmp_path / "plain" / name).read_bytes()


def test_killed_between_any_two_steps_a_chunk_is_whole_or_absent(dies_at, tmp_path, samples):
    split = tmp_path / "train"
    write_chunk(tmp_path / "reference", 0, samples.items("blocks", 0))  # also imports litdata before the forks
    whole = (tmp_path / "reference" / "chunk-000000.bin").read_bytes()
    outcomes, call = [], 1
    while dies_at(call, lambda: write_chunk(split, 0, samples.items("blocks", 0))):
        outcomes.append(0 in done_chunks(split))
        if outcomes[-1]:
            assert (split / "chunk-000000.bin").read_bytes() == whole
            assert len(list(chunk_statistics(split))) == 1
            (split / "chunk-000000.bin").unlink()
        call += 1
    # The record is synced and its folder, then the chunk; only at the last sync is it in place.
    assert outcomes == [False, False, False, True]
    assert any(name.startswith(".tmp-") for name in names(split))
    discard_unfinished(tmp_path)
    assert names(split) == ["chunk-000000.bin", "chunk-000000.json"]


def test_killed_between_any_two_steps_a_folder_can_be_finished(dies_at, unfinished, samples):
    samples.chunks(unfinished, "blocks")
    manifest, call = samples.manifest("blocks", unfinished), 1
    while dies_at(call, lambda: finish(unfinished, manifest)):
        if (unfinished / "manifest.json").exists():
            assert verify_layout(unfinished) == manifest
            (unfinished / "manifest.json").unlink()
        call += 1
    assert call > 8
    discard_unfinished(unfinished)
    assert verify_files(unfinished) == []
    assert names(unfinished) == ["checksums.json", "manifest.json", "tokenizer", "train", "val"]
    assert names(unfinished / "train") == [*(f"chunk-00000{chunk}.bin" for chunk in range(3)), "index.json"]


def test_finishing_twice_changes_nothing(data_folder, samples):
    folder = data_folder("logits")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    finish(folder, samples.manifest("logits", folder))
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_records_that_a_killed_finish_left_are_removed(data_folder, samples):
    folder = data_folder()
    (folder / "train" / "chunk-000001.json").write_text("{}")
    finish(folder, samples.manifest("blocks", folder))
    assert not list(folder.rglob("chunk-*.json"))


def test_a_folder_with_a_missing_chunk_is_not_finished(unfinished, samples):
    for chunk in (0, 2):
        write_chunk(unfinished / "train", chunk, samples.items("blocks", chunk))
    with pytest.raises(AssertionError, match="lacks chunks"):
        finish(unfinished, samples.manifest("blocks", unfinished))
    assert not (unfinished / "manifest.json").exists()


def test_a_folder_with_a_chunk_of_the_wrong_size_is_not_finished(unfinished, samples):
    for chunk in range(3):
        write_chunk(unfinished / "train", chunk, samples.items("blocks", min(chunk, 1)))
    with pytest.raises(AssertionError, match="uneven chunks"):
        finish(unfinished, samples.manifest("blocks", unfinished))


def test_checksums_cover_every_file_but_themselves(data_folder):
    folder = data_folder()
    listed = set(json.loads((folder / "checksums.json").read_text())["files"])
    there = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert listed == there - {"checksums.json"}


def test_a_full_disk_says_how_to_go_on(tmp_path, monkeypatch, samples):
    write_chunk(tmp_path, 0, samples.items("blocks", 0))
    size = (tmp_path / "chunk-000000.bin").stat().st_size

    def full(temporary, items):
        (temporary / "part.bin").write_bytes(b"some")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(chunks, "_serialise", full)
    with pytest.raises(OSError, match=f"disk full while writing chunk 1 of {tmp_path}") as raised:
        write_chunk(tmp_path, 1, samples.items("blocks", 1))
    assert raised.value.errno == errno.ENOSPC
    expected = f"1 chunks ({size} bytes) are written and stay. Free some space and run the same command again"
    assert expected in str(raised.value)
    assert names(tmp_path) == ["chunk-000000.bin", "chunk-000000.json"]


def test_a_disk_that_fills_at_any_write_leaves_a_folder_to_go_on_with(unfinished, monkeypatch, samples):
    def write_everything():
        samples.chunks(unfinished, "blocks")
        finish(unfinished, samples.manifest("blocks", unfinished))

    def fill_at(call):
        """Let the `call`-th write of a small file fail."""
        left, write = [call], Path.write_bytes

        def failing(path, content):
            left[0] -= 1
            if left[0] == 0:
                raise OSError(errno.ENOSPC, "No space left on device")
            return write(path, content)

        return failing

    for call in range(1, 5):
        with monkeypatch.context() as patch:
            patch.setattr(Path, "write_bytes", fill_at(call))
            with pytest.raises(OSError, match=r"disk full while writing .* run the same command again"):
                write_everything()
        assert not list(unfinished.rglob(".tmp-*"))
    write_everything()
    assert verify_files(unfinished) == []


def test_other_errors_are_not_called_a_full_disk(tmp_path, monkeypatch, samples):
    def refused(temporary, items):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(chunks, "_serialise", refused)
    with pytest.raises(PermissionError, match="Permission denied"):
        write_chunk(tmp_path, 1, samples.items("blocks", 1))


def test_a_chunk_beyond_litdatas_offsets_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(chunks, "MAX_CHUNK_BYTES", 1000)
    with pytest.raises(ValueError, match=r"must stay below 1000 bytes, got 1008 in 1 blocks\. Lower blocks_per_chunk"):
        write_chunk(tmp_path, 0, [{"tokens": np.zeros(500, dtype=np.uint16)}])


def test_processes_can_write_chunks_of_one_split_side_by_side(unfinished, samples):
    import litdata  # noqa: F401 (before the forks, which would each take seconds to import it)

    children = []
    # Both write chunk 1: whoever comes second replaces it with the same bytes, or finds it done.
    for share in ([0, 1], [1, 2]):
        if (child := os.fork()) == 0:
            try:
                for chunk in share:
                    write_chunk(unfinished / "train", chunk, samples.items("blocks", chunk))
                os._exit(0)
            finally:
                os._exit(1)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0]
    finish(unfinished, samples.manifest("blocks", unfinished))
    assert verify_files(unfinished) == []


def test_equal_folders_have_equal_bytes(tmp_path, samples):
    first, second = (samples.write(tmp_path / name, "logits") for name in ("first", "second"))
    for path in first.rglob("*"):
        if path.is_file():
            assert path.read_bytes() == (second / path.relative_to(first)).read_bytes()


def test_more_than_a_million_chunks_are_told_apart(tmp_path):
    (tmp_path / "chunk-000001.bin").touch()
    (tmp_path / chunks.chunk_name(1_234_567)).touch()
    assert done_chunks(tmp_path) == {1, 1_234_567}
