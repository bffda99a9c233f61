"""Token ids that others have made, each format written here by hand: the blocks are those of the same ids."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from pd_lightning.data import Document, HuggingFaceTokens, LitData, MegatronIndexed, NanoGPT, TextFiles, TokenSource
from pd_lightning.data.token_sources import cut
from pd_lightning.data.tokenize import tokenize
from pd_lightning.store.manifest import read_manifest
from pd_lightning.store.reader import BlockReader

EOS, T = 0, 16
_RNG = np.random.default_rng(0)
DOCUMENTS = [_RNG.integers(1, 300, int(size)).tolist() for size in _RNG.integers(1, 60, 80)]
WITHOUT = [token for document in DOCUMENTS for token in document]
STREAM = [token for document in DOCUMENTS for token in [*document, EOS]]


@pytest.fixture(scope="module")
def tokenizer(blocks: Path) -> str:
    """One of 300 ids, whose end-of-text is 0."""
    return str(blocks / "tokenizer")


def packed(folder: Path, source: TokenSource, tokenizer: str, **settings) -> list[list[int]]:
    settings = {"val_fraction": 0.0, "block_size": T, **settings}
    tokenize(str(folder), source, tokenizer=tokenizer, **settings)
    reader = BlockReader(folder, "train")
    return [reader[number]["block"].tolist() for number in range(len(reader))]


def windows(stream: list[int]) -> list[list[int]]:
    return [stream[start : start + T + 1] for start in range(0, len(stream) - T, T)]


def flat(path: Path, stream: list[int], dtype: str, header: tuple[int, int] | None = None) -> str:
    start = b"" if header is None else np.array([*header, len(stream), *[0] * 253], "<i4").tobytes()
    path.write_bytes(start + np.array(stream, dtype).tobytes())
    return str(path)


def megatron(prefix: Path, documents: list[list[list[int]]], code: int, dtype: str) -> None:
    """Megatron-LM's MMapIndexedDataset: each document is a list of sequences."""
    sequences = [np.array(sequence, dtype) for document in documents for sequence in document]
    pointers = np.cumsum([0, *(sequence.nbytes for sequence in sequences)])[:-1]
    bounds = np.cumsum([0, *map(len, documents)])
    Path(f"{prefix}.bin").write_bytes(b"".join(sequence.tobytes() for sequence in sequences))
    head = b"MMIDIDX\x00\x00" + struct.pack("<QBQQ", 1, code, len(sequences), len(bounds))
    sizes = np.array([len(sequence) for sequence in sequences], "<i4")
    Path(f"{prefix}.idx").write_bytes(head + sizes.tobytes() + pointers.astype("<i8").tobytes() + bounds.tobytes())


def megatron_old(prefix: Path, documents: list[list[int]], code: int, dtype: str) -> None:
    """Megatron-LM's IndexedDataset, of one sequence a document."""
    sizes = [len(document) for document in documents]
    Path(f"{prefix}.bin").write_bytes(b"".join(np.array(document, dtype).tobytes() for document in documents))
    count = len(documents)
    head = b"TNTIDX\x00\x00" + struct.pack("<QQQ", 1, code, np.dtype(dtype).itemsize)
    head += struct.pack("<QQQ", count, count, count + 1)
    arrays = [np.arange(count + 1), np.cumsum([0, *sizes]), sizes, np.arange(count + 1)]
    Path(f"{prefix}.idx").write_bytes(head + b"".join(np.array(array, "<i8").tobytes() for array in arrays))


def write_litdata(folder: Path, items: list, flat: bool) -> None:
    """By the writer that `litdata.optimize` has in each of its processes."""
    from litdata import TokensLoader
    from litdata.streaming.writer import BinaryWriter

    writer = BinaryWriter(str(folder), chunk_bytes=3000, item_loader=TokensLoader() if flat else None)
    for number, item in enumerate(items):
        writer.add_item(number, item)
    writer.done()
    writer.merge()


@pytest.fixture(scope="module")
def litdata(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders of litdata, with items of several kinds."""
    folder = tmp_path_factory.mktemp("litdata")
    for name, dtype in (("flat", torch.int32), ("narrow", torch.uint16)):
        write_litdata(folder / name, [torch.tensor([*document, EOS], dtype=dtype) for document in DOCUMENTS], flat=True)
    arrays = [np.array(document, dtype=np.int32) for document in DOCUMENTS]
    fields = [{"name": f"{n}", "input_ids": array, "other": {1, n}} for n, array in enumerate(arrays)]
    kinds = {
        "fields": fields,
        "table": [{"n": n, "input_ids": array} for n, array in enumerate(arrays)],
        "arrays": [torch.tensor(document) for document in DOCUMENTS],
        "nested": [{"input_ids": document, "name": "x"} for document in DOCUMENTS],
        "windows": [WITHOUT[n : n + 8] for n in range(0, 640, 8)],
    }
    for name, items in kinds.items():
        write_litdata(folder / name, items, flat=False)
    return folder


@pytest.mark.parametrize("split_tokens", [7, 100, 1_000_000])
@pytest.mark.parametrize(
    ("dtype", "header"), [("<u2", None), ("<u4", None), ("<u2", (20240520, 1)), ("<u4", (20240801, 7))]
)
def test_nano_gpt(tmp_path: Path, tokenizer: str, dtype: str, header: tuple | None, split_tokens: int) -> None:
    """Two files, a document that goes from one into the other, whatever the pieces."""
    raw = tmp_path / "raw"
    raw.mkdir()
    paths = [flat(raw / f"{n}.bin", STREAM[a:b], dtype, header) for n, a, b in ((0, 0, 1000), (1, 1000, None))]
    (raw / "meta.pkl").write_bytes(b"not looked at")
    plain = {} if header else {"dtype": {"<u2": "uint16", "<u4": "uint32"}[dtype]}
    for named in (paths, [str(raw)]):
        source = NanoGPT(named, split_tokens=split_tokens, **plain)
        assert source.num_tokens() == len(STREAM)
        folder = tmp_path / f"blocks {len(named)}"
        assert packed(folder, source, tokenizer) == windows(STREAM)
        extra = read_manifest(folder).splits["train"].extra
        assert (extra["documents"], extra["tokens"]) == (80, len(STREAM))


def test_streams_with_other_ends(tmp_path: Path, tokenizer: str) -> None:
    """End-of-text before each document, as modded-nanogpt has it: moved behind, but for the last, which goes on."""
    before = [token for document in DOCUMENTS for token in [EOS, *document]]
    source = NanoGPT([flat(tmp_path / "a.bin", before, "<u2")])
    assert packed(tmp_path / "a", source, tokenizer) == windows(before[1:])
    source = NanoGPT([flat(tmp_path / "b.bin", WITHOUT, "<u2")], split_tokens=50)
    assert packed(tmp_path / "b", source, tokenizer) == windows(WITHOUT)
    assert read_manifest(tmp_path / "b").splits["train"].extra["documents"] == 1


def test_a_stream_is_cut_where_documents_end() -> None:
    parts = [np.array(part) for part in ([1, 2, 0, 3], [4, 5], [0], [6, 0, 0, 7], [])]
    pieces = [(ids.tolist(), ends) for ids, ends in cut(parts, 0, 1000)]
    assert pieces == [([1, 2], True), ([3, 4, 5], True), ([6], True), ([], True), ([7], False)]
    pieces = [(ids.tolist(), ends) for ids, ends in cut(parts, 0, 3)]
    assert pieces == [([1, 2], True), ([3, 4, 5], False), ([], True), ([6], True), ([], True), ([7], False)]
    assert [(ids.tolist(), ends) for ids, ends in cut(parts, None, 1000)] == [
        ([1, 2, 0, 3, 4, 5, 0, 6, 0, 0, 7], False)
    ]


@pytest.mark.parametrize(("code", "dtype"), [(8, "<u2"), (4, "<i4"), (5, "<i8"), (3, "<i2"), (9, "<u4")])
def test_megatron(tmp_path: Path, tokenizer: str, code: int, dtype: str) -> None:
    """Documents of one sequence and of two; some end with an end-of-text already, as with --append-eod."""
    documents = [[document] for document in DOCUMENTS[:30]]
    documents += [[document[:3], [*document[3:], EOS]] for document in DOCUMENTS[30:]]
    megatron(tmp_path / "data_text_document", documents, code, dtype)
    for number, name in enumerate(("data_text_document", "data_text_document.idx", "")):
        source = MegatronIndexed([str(tmp_path / name)])
        assert source.num_tokens() == sum(len(sequence) for document in documents for sequence in document)
        assert packed(tmp_path / f"blocks {number}", source, tokenizer) == windows(STREAM)


@pytest.mark.parametrize(("code", "dtype"), [(8, "<u2"), (4, "<i4")])
def test_megatron_of_old(tmp_path: Path, tokenizer: str, code: int, dtype: str) -> None:
    megatron_old(tmp_path / "old", DOCUMENTS, code, dtype)
    assert packed(tmp_path / "blocks", MegatronIndexed([str(tmp_path / "old")]), tokenizer) == windows(STREAM)


def test_litdata(tmp_path: Path, tokenizer: str, litdata: Path) -> None:
    for name in ("flat", "narrow", "fields", "table", "arrays", "nested"):
        index = json.loads((litdata / name / "index.json").read_text())
        assert len(index["chunks"]) > 1
        source = LitData(str(litdata / name))
        assert source.num_tokens() == (len(STREAM) if name in ("flat", "narrow") else None)
        assert packed(tmp_path / name, source, tokenizer) == windows(STREAM), name
    assert "pickle" in json.loads((litdata / "fields" / "index.json").read_text())["config"]["data_format"]
    assert packed(tmp_path / "windows", LitData(str(litdata / "windows"), packed=True), tokenizer) == windows(
        WITHOUT[:640]
    )


def test_hugging_face(tmp_path: Path, tokenizer: str) -> None:
    datasets, pq = pytest.importorskip("datasets"), pytest.importorskip("pyarrow.parquet")
    import pyarrow as pa

    datasets.Dataset.from_dict({"input_ids": DOCUMENTS, "n": [0] * 80}).save_to_disk(str(tmp_path / "saved"))
    (tmp_path / "files").mkdir()
    pq.write_table(
        pa.table({"tokens": [STREAM[n : n + 50] for n in range(0, len(STREAM), 50)]}), tmp_path / "files/a.parquet"
    )
    saved = HuggingFaceTokens(str(tmp_path / "saved"))
    assert packed(tmp_path / "a", saved, tokenizer) == windows(STREAM)
    rows = HuggingFaceTokens(str(tmp_path / "files"), field="tokens", packed=True)
    assert packed(tmp_path / "b", rows, tokenizer) == windows(STREAM)
    with pytest.raises(
        ValueError, match=r"record 0 must hold a list of token ids in the field 'ids', got the fields in"
    ):
        packed(tmp_path / "c", HuggingFaceTokens(str(tmp_path / "saved"), field="ids"), tokenizer)
    with pytest.raises(ValueError, match=r"in the field 'n', got something else\. Set source\.field"):
        packed(tmp_path / "d", HuggingFaceTokens(str(tmp_path / "saved"), field="n"), tokenizer)


class Whole(TokenSource):
    def documents(self, eos_token_id):
        return map(Document, map(np.array, DOCUMENTS))


def test_ids_of_a_text_are_the_blocks_of_the_text(tmp_path: Path, tokenizer: str, blocks: Path) -> None:
    """The same blocks, bytes and documents as `tokenize` makes of the text itself; the split is by ids."""
    from pd_lightning.data import bpe

    for number in range(40):
        (tmp_path / f"{number:02}.txt").write_text(f"Text {number} é 世界, " * (number + 1))
    texts = TextFiles([str(tmp_path / "*.txt")])
    encoder = bpe.load(Path(tokenizer))

    class Same(TokenSource):
        def documents(self, eos_token_id):
            return (Document(np.array(encoder.encode([text])[0])) for text in texts)

    assert packed(tmp_path / "ids", Same(), tokenizer) == packed(tmp_path / "text", texts, tokenizer)
    found, expected = (read_manifest(tmp_path / name).splits["train"] for name in ("ids", "text"))
    assert found.extra == expected.extra
    ids = packed(tmp_path / "split", Same(), tokenizer, val_fraction=0.3)
    extra = [read_manifest(tmp_path / "split").splits[name].extra for name in ("train", "val")]
    assert sum(split["documents"] for split in extra) == 40
    assert extra[1]["documents"] > 3
    assert sum(split["bytes"] for split in extra) == expected.extra["bytes"]
    assert packed(tmp_path / "again", Same(), tokenizer, val_fraction=0.3) == ids


def test_pieces_are_dealt_where_there_is_a_validation_split(tmp_path: Path, tokenizer: str) -> None:
    source = NanoGPT([flat(tmp_path / "a.bin", WITHOUT, "<u2")], split_tokens=100)
    packed(tmp_path / "blocks", source, tokenizer, val_fraction=0.3)
    extra = [read_manifest(tmp_path / "blocks").splits[name].extra for name in ("train", "val")]
    assert sum(split["documents"] for split in extra) == -(-len(WITHOUT) // 100)
    assert sum(split["tokens"] for split in extra) == len(WITHOUT) + -(-len(WITHOUT) // 100)


def test_ids_that_are_not_the_tokenizers(tmp_path: Path, tokenizer: str) -> None:
    for token, dtype in ((300, "<u2"), (70000, "<u4")):
        path = flat(tmp_path / f"{token}.bin", [5] * 40 + [token] + STREAM, dtype)
        source = NanoGPT([path], dtype="uint16" if dtype == "<u2" else "uint32")
        with pytest.raises(ValueError, match=rf"from 0 to 299, got {token} in NanoGPT\(.*\. Set tokenizer to the one"):
            packed(tmp_path / f"blocks {token}", source, tokenizer)
    megatron(tmp_path / "negative", [[[5, -1, 3]]], 4, "<i4")
    with pytest.raises(ValueError, match="from 0 to 299, got -1 in MegatronIndexed"):
        packed(tmp_path / "c", MegatronIndexed([str(tmp_path / "negative")]), tokenizer)
    with pytest.raises(
        ValueError, match=r"tokenizer must be given where the source holds token ids, got none for Whol"
    ):
        tokenize(str(tmp_path / "d"), Whole())


def test_files_that_are_none(tmp_path: Path, tokenizer: str) -> None:
    def fails(source: TokenSource, error: type, message: str) -> None:
        with pytest.raises(error, match=message):
            packed(tmp_path / "blocks", source, tokenizer)

    flat(tmp_path / "short.bin", STREAM, "<u2", (20240520, 1))
    (tmp_path / "short.bin").write_bytes((tmp_path / "short.bin").read_bytes()[:-2])
    fails(
        NanoGPT([str(tmp_path / "short.bin")]), ValueError, rf"must hold the {len(STREAM)} ids that its header tells of"
    )
    (tmp_path / "odd.bin").write_bytes(b"abc")
    fails(NanoGPT([str(tmp_path / "odd.bin")]), ValueError, r"must hold uint16 numbers, got 3 bytes.*Set source\.dtype")
    (tmp_path / "a.txt").touch()
    fails(NanoGPT([str(tmp_path / "a.txt")]), FileNotFoundError, r"must name a \.bin file")
    with pytest.raises(ValueError, match=r"split_tokens must be at least 1, got 0\. Raise source\.split_tokens"):
        NanoGPT([], split_tokens=0)

    fails(MegatronIndexed([str(tmp_path / "a.txt")]), FileNotFoundError, r"must name an \.idx file")
    (tmp_path / "empty.idx").touch()
    fails(MegatronIndexed([str(tmp_path / "empty")]), ValueError, "must be an index of Megatron-LM of version 1, got")
    (tmp_path / "b.idx").write_bytes(b"something else")
    fails(
        MegatronIndexed([str(tmp_path / "b")]), ValueError, r"of version 1, got another kind of file\. Mend source\.pa"
    )
    megatron(tmp_path / "c", [[[1, 2]]], 6, "<f8")
    fails(MegatronIndexed([str(tmp_path / "c")]), ValueError, "got ids of type 6")
    megatron(tmp_path / "d", [[[1, 2, 3]]], 8, "<u2")
    whole = (tmp_path / "d.idx").read_bytes()
    (tmp_path / "d.idx").write_bytes(whole[:-3])
    fails(MegatronIndexed([str(tmp_path / "d")]), ValueError, "less of it than it tells of")
    (tmp_path / "d.idx").write_bytes(whole[:9] + struct.pack("<Q", 2) + whole[17:])
    fails(MegatronIndexed([str(tmp_path / "d")]), ValueError, "got version 2")
    (tmp_path / "d.idx").write_bytes(whole)
    (tmp_path / "d.bin").write_bytes(b"\0\0")
    fails(MegatronIndexed([str(tmp_path / "d")]), ValueError, r"must point into d\.bin, got places outside its 1 ids")
    (tmp_path / "d.bin").unlink()
    fails(MegatronIndexed([str(tmp_path / "d")]), FileNotFoundError, r"data beside it, got no d\.bin")


def test_litdata_folders_that_are_none(tmp_path: Path, tokenizer: str, litdata: Path) -> None:
    def fails(name: str, error: type, message: str, **settings) -> None:
        with pytest.raises(error, match=message):
            packed(tmp_path / "blocks", LitData(str(tmp_path / name), **settings), tokenizer)

    def changed(name: str, old: str, new: str) -> str:
        folder = tmp_path / f"changed {len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        for path in (litdata / name).iterdir():
            (folder / path.name).write_bytes(path.read_bytes())
        text = (folder / "index.json").read_text()
        assert old in text
        (folder / "index.json").write_text(text.replace(old, new))
        return folder.name

    fails("none", FileNotFoundError, "must be a folder of litdata, got .* without index.json")
    fails(changed("fields", "input_ids", "ids"), ValueError, r"must have the field 'input_ids', got name, ids, other")
    fails(changed("fields", "x", "x"), ValueError, r"got the data format pickle\. Set source\.field", field="other")
    fails(changed("fields", "x", "x"), ValueError, r"got the data format str\. Set source\.field", field="name")
    fails(changed("arrays", "no_header_tensor:18", "no_header_tensor:2"), ValueError, "must hold integers as ids, got")
    fails(changed("arrays", '"chunks"', '"lumps"'), ValueError, "must be an index of litdata, got one without 'chunks'")
    fails(changed("arrays", "chunk-0-1.bin", "../chunk.bin"), ValueError, "must lie inside it, got '../chunk.bin'")
    fails(changed("arrays", "chunk-0-1.bin", "chunk.bin"), FileNotFoundError, "as index.json tells of it, got none")
    torn = changed("arrays", "x", "x")
    path = tmp_path / torn / "chunk-0-0.bin"
    path.write_bytes(path.read_bytes()[:-20])
    fails(torn, ValueError, "got a header that does not describe its items: it is damaged")
    compressed = changed("arrays", '"compression": null', '"compression": "zstd"')
    fails(compressed, ValueError, r"must tell of plain chunks, got compression 'zstd'\. Write the folder again without")


def test_a_source_of_ids_is_set_in_yaml(tmp_path: Path, tokenizer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from pd_lightning.cli import main

    monkeypatch.chdir(tmp_path)
    flat(tmp_path / "train.bin", STREAM, "<u2")
    (tmp_path / "c.yaml").write_text(
        f"output_dir: blocks\ntokenizer: {tokenizer}\nblock_size: {T}\nval_fraction: 0.0\n"
        "source: {class_path: pd_lightning.data.NanoGPT, init_args: {paths: [train.bin]}}\n"
    )
    assert main(["tokenize", "--config", "c.yaml"]) == 0
    assert read_manifest(tmp_path / "blocks").splits["train"].num_blocks == len(windows(STREAM))
    assert main(["tokenize", "--config", "c.yaml"]) == 0, "finished: nothing to do"
    flat(tmp_path / "train.bin", STREAM[:-5], "<u2")
    assert main(["tokenize", "--config", "c.yaml"]) == 1, "another corpus under the same name"
