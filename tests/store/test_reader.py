import pickle

import numpy as np
import pytest
from torch.utils.data import DataLoader, Dataset

from pd_lightning.store.chunks import finish, write_chunk
from pd_lightning.store.reader import BlockReader
from pd_lightning.store.verification import verify_folder


class FirstToken(Dataset):
    """What the data room does: a reader inside a map-style data set."""

    def __init__(self, reader):
        self.reader = reader

    def __len__(self):
        return len(self.reader)

    def __getitem__(self, index):
        return int(self.reader[index]["block"][0])


@pytest.mark.parametrize("kind", ["blocks", "logits"])
def test_blocks_come_back_in_any_order(data_folder, kind, samples):
    reader = BlockReader(data_folder(kind), "train")
    assert len(reader) == samples.blocks
    for index in [6, 0, 5, 1, 4, 2, 3, 3, 0]:
        item, expected = reader[index], samples.targets(index)
        expected |= expected.pop("columns")
        assert item.keys() == ({"block"} if kind == "blocks" else expected.keys())
        for name, array in item.items():
            np.testing.assert_array_equal(array, expected[name])


def test_a_reader_iterates_and_ends(data_folder, samples):
    blocks = [int(item["block"][0]) for item in BlockReader(data_folder(), "train")]
    assert blocks == list(range(samples.blocks))


@pytest.mark.parametrize("index", [-1, 7])
def test_there_is_nothing_outside(data_folder, index, samples):
    with pytest.raises(IndexError, match=f"block {index} of {samples.blocks}"):
        BlockReader(data_folder(), "train")[index]


def test_an_empty_split_has_no_blocks(data_folder):
    reader = BlockReader(data_folder(), "val")
    assert len(reader) == 0
    with pytest.raises(IndexError):
        reader[0]


def test_an_unknown_split_is_named(data_folder):
    with pytest.raises(ValueError, match=r"must be one of \['train', 'val'\], got 'test'"):
        BlockReader(data_folder(), "test")


def test_data_workers_read_the_same(data_folder, samples):
    reader = BlockReader(data_folder(), "train")
    assert int(reader[4]["block"][0]) == 4  # open here first: what is open must not be shared
    loader = DataLoader(FirstToken(reader), batch_size=2, num_workers=2, multiprocessing_context="fork")
    assert [int(token) for batch in loader for token in batch] == list(range(samples.blocks))


def test_an_open_reader_can_be_pickled(data_folder):
    reader = BlockReader(data_folder(), "train")
    assert int(reader[1]["block"][0]) == 1
    assert int(pickle.loads(pickle.dumps(reader))[6]["block"][0]) == 6


def test_indices_are_global_whatever_the_rank(data_folder, monkeypatch, samples):
    folder = data_folder()
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("GLOBAL_RANK", "3")
    reader = BlockReader(folder, "train")
    assert [int(item["block"][0]) for item in reader] == list(range(samples.blocks))


def test_a_folder_that_can_only_be_read_stays_as_it_is(data_folder, samples):
    folder = data_folder()
    before = sorted(folder.rglob("*"))
    assert len(list(BlockReader(folder, "train"))) == samples.blocks
    assert sorted(folder.rglob("*")) == before


def test_what_is_read_can_be_changed(data_folder, samples):
    reader = BlockReader(data_folder("logits"), "train")
    for array in reader[0].values():
        array[...] = 0
    assert int(reader[1]["block"][0]) == 1
    np.testing.assert_array_equal(reader[0]["counts"], samples.targets(0)["counts"])


@pytest.mark.parametrize("kind", ["blocks", "logits"])
def test_a_damaged_block_is_named_and_the_others_still_read(data_folder, kind, samples):
    folder = data_folder(kind)
    path = folder / "train" / "chunk-000001.bin"
    content = bytearray(path.read_bytes())
    start = int.from_bytes(content[8:12], "little")  # where item 1 of the chunk starts: its sizes come first
    content[start + 8] ^= 1  # its first token, then another id of the vocabulary
    path.write_bytes(content)
    reader = BlockReader(folder, "train")
    with pytest.raises(ValueError, match=r"item 1 of .*chunk-000001.bin is damaged: .*inspect .* --verify true"):
        reader[4]
    assert int(reader[3]["block"][0]) == 3
    assert reader[5]["block"].size == samples.block_size + 1


@pytest.mark.parametrize("kind", ["blocks", "logits"])
def test_no_damage_of_an_item_crashes_or_gives_other_data(data_folder, kind):
    folder = data_folder(kind)
    path = folder / "train" / "chunk-000002.bin"
    content = path.read_bytes()
    truth = BlockReader(folder, "train")[6]
    for offset in range(12, len(content)):
        damaged = bytearray(content)
        damaged[offset] ^= 0x81
        path.write_bytes(damaged)
        try:
            item = BlockReader(folder, "train")[6]
        except ValueError as error:
            message = str(error)
            assert "item 0 of" in message
        else:
            assert all(np.array_equal(array, truth[name]) for name, array in item.items())


def test_token_blocks_from_before_they_had_a_checksum_are_read(tmp_path, samples):
    samples.tokenizer(tmp_path)
    for chunk in range(3):
        items = samples.items("blocks", chunk)
        write_chunk(tmp_path / "train", chunk, [{"tokens": item["tokens"]} for item in items])
    finish(tmp_path, samples.manifest("blocks", tmp_path))
    assert [int(item["block"][0]) for item in BlockReader(tmp_path, "train")] == list(range(samples.blocks))
    assert verify_folder(tmp_path) == []
