from __future__ import annotations

import gzip
import json
import sys
from pathlib import Path

import pytest
import zstandard

from pd_lightning.data import HuggingFace, JSONLines, Parquet, TextFiles

TEXTS = ["one\n", "zwei äö\r\nlines", "", "三"]
KEPT = [text for text in TEXTS if text]


def test_text_files_folders_and_globs(tmp_path):
    for name, text in {"b.txt": "B", "a.txt": "A\r\n", "sub/c.md": "C", ".hidden": "H", "x[1].txt": "X"}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(text.encode())
    assert list(TextFiles([str(tmp_path)])) == ["A\r\n", "B", "C", "X"]
    assert list(TextFiles([str(tmp_path / "**" / "*.md"), str(tmp_path / "b.txt")])) == ["C", "B"]
    assert list(TextFiles([str(tmp_path / "x[1].txt")])) == ["X"]
    assert TextFiles([str(tmp_path)]).size_hint() == 6


def test_a_long_file_is_cut_at_line_ends(tmp_path):
    text = "".join(f"line {number}\n" for number in range(100))
    (tmp_path / "long.txt").write_text(text)
    pieces = list(TextFiles([str(tmp_path)], split_bytes=50))
    assert "".join(pieces) == text
    assert all(piece.endswith("\n") and len(piece) <= 60 for piece in pieces)
    (tmp_path / "long.txt").write_text("x" * 1000)
    assert max(len(piece) for piece in TextFiles([str(tmp_path)], split_bytes=50)) <= 100


def write_lines(path: Path, records: list) -> None:
    data = "".join(json.dumps(record) + "\n" for record in records).encode()
    opener = {".gz": gzip.open, ".zst": zstandard.open}.get(path.suffix, open)
    with opener(path, "wb") as file:
        file.write(data)


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
def test_json_lines(tmp_path, suffix):
    path = tmp_path / f"a.jsonl{suffix}"
    write_lines(path, [{"text": text, "n": 1} for text in [*TEXTS, None]])
    source = JSONLines([str(path)])
    assert list(source) == list(source) == KEPT
    assert source.size_hint() == (None if suffix else path.stat().st_size)


def test_parquet(tmp_path):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    pq.write_table(pa.table({"body": [*TEXTS, None], "n": [0] * 5}), tmp_path / "a.parquet", row_group_size=2)
    source = Parquet([str(tmp_path)], column="body")
    assert list(source) == list(source) == KEPT
    assert source.size_hint() > 0
    with pytest.raises(ValueError, match=r"must have the column 'text', got body, n\. Set source\.column"):
        list(Parquet([str(tmp_path)]))


def test_hugging_face_folders(tmp_path):
    datasets = pytest.importorskip("datasets")
    (tmp_path / "files").mkdir()
    write_lines(tmp_path / "files" / "train.jsonl", [{"text": text} for text in TEXTS])
    assert list(HuggingFace(str(tmp_path / "files"))) == KEPT
    datasets.Dataset.from_dict({"body": TEXTS}).save_to_disk(str(tmp_path / "saved"))
    assert list(HuggingFace(str(tmp_path / "saved"), field="body")) == KEPT
    with pytest.raises(ValueError, match=r"record 0 must hold text in the field 'text', got the fields body"):
        list(HuggingFace(str(tmp_path / "saved")))
    with pytest.raises(ValueError, match=r"must name a data set on the hub or a local folder, got .*'nosuch'"):
        list(HuggingFace(str(tmp_path / "files"), split="nosuch"))


@pytest.mark.parametrize("source", [TextFiles, JSONLines, Parquet])
def test_paths_that_name_nothing(tmp_path, source):
    with pytest.raises(FileNotFoundError, match=rf"got '.*nothing\*'\. Mend source\.paths of {source.__name__}"):
        list(source([str(tmp_path / "nothing*")]))
    with pytest.raises(ValueError, match="at least one file"):
        list(source([]))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"body": "x"}', r"line 1 must hold text in the field 'text', got the fields body\. Set source\.field"),
        ('{"text": 3}', "line 1 must hold text in the field 'text', got int"),
        ("[1]", "line 1 must hold text in the field 'text', got list"),
        ("plain", r"line 1 must be one JSON object, .*TextFiles"),
    ],
)
def test_lines_that_are_no_documents(tmp_path, line, message):
    (tmp_path / "a.jsonl").write_text(line)
    with pytest.raises(ValueError, match=message):
        list(JSONLines([str(tmp_path / "a.jsonl")]))


def test_bytes_that_are_no_text(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"abc\xff")
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(b'{"text": "a"}\n' * 1000)[:-20])
    with pytest.raises(ValueError, match=r"a\.txt must be text in utf-8.*source\.encoding"):
        list(TextFiles([str(tmp_path / "a.txt")]))
    assert list(TextFiles([str(tmp_path / "a.txt")], encoding="latin-1")) == ["abcÿ"]
    with pytest.raises(ValueError, match=r"b\.jsonl\.gz must be text"):
        list(JSONLines([str(tmp_path / "b.jsonl.gz")]))


@pytest.mark.parametrize(("module", "source"), [("pyarrow", Parquet), ("datasets", HuggingFace)])
def test_a_missing_package_names_the_extra(monkeypatch, tmp_path, module, source):
    for name in [name for name in sys.modules if name.split(".")[0] == module]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)
    (tmp_path / "a.parquet").touch()
    argument = [str(tmp_path)] if source is Parquet else "name"
    with pytest.raises(ModuleNotFoundError, match=rf"needs the package '{module}'.*pip install 'pd-lightning\[data\]'"):
        list(source(argument))
