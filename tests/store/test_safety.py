import hashlib
import json
import os
import shutil

import pytest

from pd_lightning.store.reader import BlockReader
from pd_lightning.store.safety import verify_files, verify_layout
from pd_lightning.store.verification import verify_folder


def reseal(folder, name):
    """Give a changed file the checksums that go with it, as whoever forges a folder would."""
    path = folder / "checksums.json"
    body = json.loads(path.read_text())
    content = (folder / name).read_bytes()
    body["files"][name] |= {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    if name.endswith(".bin"):
        header = content[: 4 * (2 + int.from_bytes(content[:4], "little"))]
        body["files"][name]["header_sha256"] = hashlib.sha256(header).hexdigest()
    path.write_text(json.dumps(body))


def forge_index(folder, change):
    path = folder / "train" / "index.json"
    index = json.loads(path.read_text())
    change(index)
    path.write_text(json.dumps(index))
    reseal(folder, "train/index.json")


@pytest.fixture
def no_litdata(monkeypatch):
    """Whatever litdata would do with a folder, it must not get to see it."""

    def opened(self):
        raise AssertionError("litdata has opened the folder")

    monkeypatch.setattr(BlockReader, "_open", opened)


def test_a_folder_as_written_passes(data_folder):
    for kind in ("blocks", "logits"):
        assert verify_layout(data_folder(kind)).kind == kind


@pytest.mark.parametrize("kind", ["blocks", "logits"])
def test_a_flipped_bit_in_any_file_is_found(data_folder, kind):
    folder = data_folder(kind)
    assert verify_files(folder) == []
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    assert len(files) == 8
    for path in files:
        content = path.read_bytes()
        for bit in range(0, len(content) * 8, max(1, len(content) * 8 // 40)):
            damaged = bytearray(content)
            damaged[bit // 8] ^= 1 << bit % 8
            path.write_bytes(damaged)
            problems = verify_files(folder)
            assert problems, f"bit {bit} of {path}"
            if path.name != "checksums.json":
                assert str(path) in problems[0]
        path.write_bytes(content)


def test_cheap_checks_find_what_they_read(data_folder):
    folder = data_folder()
    for name in ("manifest.json", "train/index.json", "val/index.json", "tokenizer/tokenizer.json"):
        path = folder / name
        content = path.read_bytes()
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 0x20]) + b"" if len(content) < 5 else content + b"\n")
        with pytest.raises(ValueError, match="damaged"):
            verify_layout(folder)
        path.write_bytes(content)
    verify_layout(folder)


def test_a_damaged_header_is_found_without_reading_the_chunk(data_folder):
    path = data_folder() / "train" / "chunk-000001.bin"
    content = bytearray(path.read_bytes())
    content[9] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"chunk-000001\.bin has a header that does not match its checksum"):
        verify_layout(path.parents[1])


def test_a_short_and_a_missing_chunk_are_found(data_folder):
    path = data_folder() / "train" / "chunk-000002.bin"
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    with pytest.raises(ValueError, match=rf"chunk-000002.bin has {len(content) - 1} bytes instead of {len(content)}"):
        verify_layout(path.parents[1])
    path.unlink()
    with pytest.raises(ValueError, match=r"chunk-000002.bin is missing.*inspect .* --verify true"):
        verify_layout(path.parents[1])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda i: i["config"].update(data_format=["pickle"]), "has the data format 'pickle', but only arrays of num"),
        (lambda i: i["config"].update(data_format=["no_header_numpy:14"]), "'no_header_numpy:14'"),
        (lambda i: i["config"].update(data_format=["graph:pickle"]), "'graph:pickle'"),
        (lambda i: i["config"].update(data_format=[]), "data spec"),
        (lambda i: i["config"].update(item_loader="ParquetLoader"), "the item loader 'ParquetLoader'"),
        (lambda i: i["config"].update(compression="zstd"), r"sets \['compression'\]"),
        (lambda i: i["config"].update(encryption={"algorithm": "fernet"}), r"sets \['encryption'\]"),
        (lambda i: i["config"].update(format="mds"), r"sets \['format'\]"),
        (lambda i: i["chunks"][0].update(filename="../../train/chunk-000000.bin"), "must list 3 chunks"),
        (lambda i: i["chunks"][0].update(filename="/etc/passwd"), "must list 3 chunks"),
        (lambda i: i["chunks"][0].update(chunk_size=2), "must list 3 chunks"),
        (lambda i: i["chunks"].pop(), "must list 3 chunks"),
        (lambda i: i.pop("chunks"), "is malformed"),
        (lambda i: i["config"].pop("data_format"), "is malformed"),
        (lambda i: i.update(shards=[]), "has unknown fields"),
    ],
)
def test_a_forged_index_is_refused_before_litdata_opens_it(data_folder, no_litdata, change, message):
    folder = data_folder()
    forge_index(folder, change)
    with pytest.raises(ValueError, match=message):
        BlockReader(folder, "train")[0]


def test_a_data_spec_that_imports_a_module_is_refused(data_folder, no_litdata):
    """litdata imports the module that a defaultdict's spec names: here, one that would delete files."""
    folder = data_folder()
    factory = {
        "default_factory_module": "antigravity",
        "default_factory_name": "x",
        "dict_context": ["tokens"],
    }
    leaf = {"type": None, "context": None, "children_spec": []}
    spec = {"type": "collections.defaultdict", "context": json.dumps(factory), "children_spec": [leaf]}
    forge_index(folder, lambda index: index["config"].update(data_spec=json.dumps([1, spec])))
    with pytest.raises(ValueError, match=r"a data spec that is not a plain dict of \['tokens', 'payload'\]"):
        BlockReader(folder, "train")[0]


@pytest.mark.parametrize(("at", "value"), [(0, 2), (0, 1 << 31), (4, 16), (8, 1 << 20), (16, 0)])
def test_a_forged_header_is_refused(data_folder, no_litdata, at, value):
    folder = data_folder()
    path = folder / "train" / "chunk-000000.bin"
    content = path.read_bytes()
    path.write_bytes(content[:at] + value.to_bytes(4, "little") + content[at + 4 :])
    reseal(folder, "train/chunk-000000.bin")
    with pytest.raises(ValueError, match=r"chunk-000000\.bin has a header that does not describe 3 blocks"):
        BlockReader(folder, "train")[0]


def test_bytes_after_the_last_block_are_refused(data_folder, no_litdata):
    """litdata reads an Arrow table from there."""
    folder = data_folder()
    path = folder / "train" / "chunk-000000.bin"
    path.write_bytes(path.read_bytes() + b"ARROW1")
    forge_index(folder, lambda index: index["chunks"][0].update(chunk_bytes=path.stat().st_size))
    reseal(folder, "train/chunk-000000.bin")
    with pytest.raises(ValueError, match="has a header that does not describe"):
        BlockReader(folder, "train")[0]


@pytest.mark.parametrize(
    "name",
    ["../elsewhere.json", "train/../../x", "/etc/hostname", "a\0b", "..\\x", "C:\\x", "C:x", "\\\\host\\x", "", "."],
)
def test_checksums_that_name_files_elsewhere_are_refused(data_folder, name):
    folder = data_folder()
    path = folder / "checksums.json"
    body = json.loads(path.read_text())
    body["files"][name] = {"bytes": 1, "sha256": "0"}
    path.write_text(json.dumps(body))
    with pytest.raises(ValueError, match="must lie inside it"):
        verify_layout(folder)
    assert "must lie inside it" in verify_files(folder)[0]


def test_a_link_that_leads_out_of_the_folder_is_refused(data_folder, tmp_path):
    folder = data_folder()
    shutil.move(folder / "train" / "chunk-000000.bin", tmp_path / "elsewhere.bin")
    (folder / "train" / "chunk-000000.bin").symlink_to(tmp_path / "elsewhere.bin")
    with pytest.raises(ValueError, match=r"must lie inside it, got 'train/chunk-000000\.bin'"):
        verify_layout(folder)


def test_checksums_that_leave_out_a_chunk_are_refused(data_folder):
    folder = data_folder()
    path = folder / "checksums.json"
    body = json.loads(path.read_text())
    del body["files"]["train/chunk-000001.bin"]
    path.write_text(json.dumps(body))
    with pytest.raises(ValueError, match=r"checksums\.json does not cover train/chunk-000001\.bin"):
        verify_layout(folder)


def test_a_folder_without_checksums_is_refused(data_folder):
    folder = data_folder()
    (folder / "checksums.json").unlink()
    with pytest.raises(ValueError, match=r"checksums\.json must list the digest of every file"):
        verify_layout(folder)
    assert "checksums.json" in verify_files(folder)[0]


def test_a_newer_format_version_is_refused(data_folder):
    path = data_folder() / "manifest.json"
    path.write_text(path.read_text().replace('"format_version": 1', '"format_version": 2'))
    with pytest.raises(ValueError, match=r"must be at most 1, got 2\. It was written by a newer pd-lightning"):
        verify_layout(path.parent)


def test_an_unfinished_folder_is_refused(data_folder):
    path = data_folder() / "manifest.json"
    path.unlink()
    for check in (verify_layout, verify_files):
        with pytest.raises(FileNotFoundError, match="must be finished"):
            check(path.parent)


@pytest.mark.parametrize("name", ["manifest.json", "checksums.json", "train/index.json"])
def test_json_that_is_nested_too_deeply_is_named(data_folder, name):
    folder = data_folder()
    (folder / name).write_text("[" * 200_000 + "]" * 200_000)
    if name != "checksums.json":
        reseal(folder, name)
    with pytest.raises(ValueError, match=rf"{name} must be valid JSON, got: maximum recursion depth"):
        verify_layout(folder)
    assert name in verify_folder(folder)[0]


def test_more_chunks_than_there_are_files_are_refused_at_once(data_folder):
    folder = data_folder()
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["splits"]["val"] |= {"num_blocks": 10**11, "num_tokens": 8 * 10**11, "blocks_per_chunk": 1}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    reseal(folder, "manifest.json")
    with pytest.raises(ValueError, match=r"checksums\.json does not cover the 100000000003 chunks of manifest\.json"):
        verify_layout(folder)


def test_another_tokenizer_than_the_manifests_is_refused(data_folder):
    folder = data_folder()
    (folder / "tokenizer" / "tokenizer.json").write_text('{"other": 1}')
    reseal(folder, "tokenizer/tokenizer.json")
    with pytest.raises(ValueError, match=r"tokenizer\.json has the digest sha256:ba15.* instead of the manifest's"):
        verify_layout(folder)
    checksums = json.loads((folder / "checksums.json").read_text())
    del checksums["files"]["tokenizer/tokenizer.json"]
    (folder / "checksums.json").write_text(json.dumps(checksums))
    with pytest.raises(ValueError, match=r"checksums\.json does not cover tokenizer/tokenizer\.json"):
        verify_layout(folder)


def test_files_that_the_checksums_do_not_know_are_found(data_folder):
    folder = data_folder()
    (folder / "tokenizer" / "more.py").write_text("")
    for name in ("README.md", "train/.tmp-of-a-killed-process"):
        (folder / name).write_text("")
    assert verify_files(folder) == [f"{folder}/tokenizer/more.py is not in checksums.json"]


def test_processes_share_the_chunks_and_each_looks_at_what_it_reads(data_folder, no_litdata):
    folder = data_folder()
    path = folder / "train" / "chunk-000001.bin"
    content = path.read_bytes()
    path.write_bytes(content[:4] + (1 << 20).to_bytes(4, "little") + content[8:])
    found = []
    for part in range(4):
        try:
            manifest = verify_layout(folder, share=(part, 4))
        except ValueError as error:
            found.append((part, "chunk-000001.bin has a header that" in str(error)))
    assert found == [(1, True)]
    reader = BlockReader(folder, "train", manifest=manifest)
    reader._process = os.getpid()  # opened, as far as litdata is concerned
    with pytest.raises(ValueError, match=r"chunk-000001\.bin is damaged: its chunk has a header that"):
        reader[3]
