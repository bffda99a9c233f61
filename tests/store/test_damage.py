"""Damage anywhere in a store is found by `verify_folder`, and never read without a clear error."""

import numpy as np
import pytest

from pd_lightning.store.reader import BlockReader
from pd_lightning.store.verification import verify_folder

FLIPS, CUTS = 240, 60


def damages(folder):
    """Single-bit flips and truncations spread over all files by their size: path, contents, damaged contents."""
    rng = np.random.default_rng(0)
    files = {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
    sizes = np.array([len(content) for content in files.values()])
    each = list(range(len(files)))
    for number in range(FLIPS + CUTS):
        # Every file a few times, then where most of the bytes are.
        which = each[number % len(each)] if number % 2 else rng.choice(len(files), p=sizes / sizes.sum())
        path, content = list(files.items())[which]
        place = int(rng.integers(len(content)))
        damaged = bytearray(content)
        damaged[place] ^= 1 << int(rng.integers(8))
        yield path, content, bytes(damaged) if number < FLIPS else content[:place]


def blocks_of(folder):
    return [item for split in ("train", "val") for item in BlockReader(folder, split)]


@pytest.mark.parametrize("values", ["half", "compact", "counts"])
def test_all_damage_is_found_and_none_is_read(data_folder, values):
    folder = data_folder("logits", values)
    truth = blocks_of(folder)
    refused = 0
    for path, content, damaged in damages(folder):
        path.write_bytes(damaged)
        assert any(str(path) in problem or "checksums.json" in path.name for problem in verify_folder(folder)), path
        try:
            found = blocks_of(folder)
        except (ValueError, FileNotFoundError) as error:
            refused += 1
            message = str(error)
            assert str(folder) in message
        else:
            for item, expected in zip(found, truth, strict=True):
                assert item.keys() == expected.keys()
                assert all(np.array_equal(array, expected[name]) for name, array in item.items()), path
        path.write_bytes(content)
    # A flip within the digest of a chunk, that only --verify compares, harms nobody who reads.
    assert refused > 0.8 * (FLIPS + CUTS)
    assert verify_folder(folder) == []
