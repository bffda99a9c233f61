import json

import numpy as np
import pytest

from pd_lightning.store.chunks import finish, write_chunk
from pd_lightning.store.codec import encode_targets
from pd_lightning.store.verification import item_problem, verify_folder


def item(**changes):
    base = {
        "block": np.zeros(3, dtype=np.int64),
        "counts": np.array([2, 1]),
        "ids": np.array([4, 5, 4]),
        "logprobs": np.log(np.array([0.5, 0.25, 1.0], dtype=np.float32)),
        "log_tail": np.array([np.log(0.25), -np.inf], dtype=np.float32),
    }
    return {**base, **changes}


def test_a_sound_item_has_no_problem():
    assert item_problem(item(), 10) is None
    assert item_problem({"block": np.zeros(3, dtype=np.int64)}, 10) is None


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"ids": np.array([4, 4, 5])}, "an id is kept twice at one position"),
        ({"logprobs": np.zeros(3, dtype=np.float32)}, "the kept probabilities of a position sum to 2.0000"),
        ({"logprobs": np.full(3, np.nan, dtype=np.float32)}, "logprobs has values that are not numbers"),
        ({"log_tail": np.ones(2, dtype=np.float32)}, "the tail of a position has a log-probability of 1.0000"),
        ({"entropy": np.full(2, np.nan, dtype=np.float32)}, "entropy has values that are not numbers"),
    ],
)
def test_a_broken_promise_is_named(changes, problem):
    assert item_problem(item(**changes), 10) == problem


@pytest.mark.parametrize("kind", ["blocks", "logits"])
def test_a_folder_as_written_has_no_problems(data_folder, kind):
    assert verify_folder(data_folder(kind)) == []


def test_a_damaged_chunk_is_named_with_its_items(data_folder):
    folder = data_folder("logits")
    path = folder / "train" / "chunk-000001.bin"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert verify_folder(folder) == [
        f"{path} does not match its checksum",
        f"{path} has 1 damaged items, first item 2: its checksum does not match",
    ]


def test_what_checksums_can_not_see_is_found(tmp_path, samples):
    samples.tokenizer(tmp_path)
    targets = samples.targets(0)
    targets["logprobs"] = np.zeros_like(targets["logprobs"])
    items = [encode_targets(**targets, values="exact", vocab_size=samples.vocab_size), *samples.items("logits", 0)[1:]]
    write_chunk(tmp_path / "train", 0, items)
    for chunk in (1, 2):
        write_chunk(tmp_path / "train", chunk, samples.items("logits", chunk))
    finish(tmp_path, samples.manifest("logits", tmp_path))
    (problem,) = verify_folder(tmp_path)
    assert "chunk-000000.bin has 1 damaged items, first item 0: the kept probabilities" in problem


def test_a_folder_that_is_not_safe_is_not_opened(data_folder):
    folder = data_folder()
    path = folder / "checksums.json"
    body = json.loads(path.read_text())
    del body["files"]["train/index.json"]
    path.write_text(json.dumps(body))
    (problem,) = verify_folder(folder)
    assert "does not cover train/index.json" in problem
