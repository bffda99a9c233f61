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
    nothing_kept = {"counts": np.array([2, 0]), "ids": np.array([4, 5]), "logprobs": item()["logprobs"][:2]}
    assert item_problem(item(**nothing_kept), 10) is None
    assert item_problem({"block": np.zeros(3, dtype=np.int64)}, 10) is None


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"ids": np.array([4, 4, 5])}, "an id is kept twice at one position"),
        ({"logprobs": np.zeros(3, dtype=np.float32)}, "the kept probabilities of a position sum to 2.0000"),
        ({"logprobs": np.full(3, np.nan, dtype=np.float32)}, "logprobs has values that are not numbers"),
        (
            {"log_tail": np.log(np.array([0.5, 1e-9], dtype=np.float32))},
            "the kept probabilities and the tail of a position sum to 1.2500",
        ),
        (
            {"log_tail": np.full(2, -np.inf, dtype=np.float32)},
            "the kept probabilities and the tail of a position sum to 0.7500",
        ),
        ({"log_tail": np.ones(2, dtype=np.float32)}, "the log_tail of a position is 1.0000, above 0"),
        ({"label_logprob": np.ones(2, dtype=np.float32)}, "the label_logprob of a position is 1.0000, above 0"),
        ({"entropy": np.full(2, np.nan, dtype=np.float32)}, "entropy has values that are not numbers"),
    ],
)
def test_a_broken_promise_is_named(changes, problem):
    assert item_problem(item(**changes), 10) == problem


def test_draws_sum_to_their_number_where_there_are_any():
    drawn = {
        name: array for name, array in item(draws=np.array([2, 3, 5])).items() if name not in ("logprobs", "log_tail")
    }
    assert item_problem(drawn, 10, samples=5) is None
    assert (
        item_problem({**drawn, "counts": np.array([2, 0]), "ids": drawn["ids"][:2], "draws": np.array([2, 3])}, 10, 5)
        is None
    )
    assert item_problem(drawn, 10, samples=6) == "the draws of a position sum to 5, not 6"
    assert item_problem({**drawn, "draws": np.array([5, 0, 5])}, 10, 5) == "an id is kept that was never drawn"
    # With a proposal other than the teacher, estimates may sum to more than 1.
    assert item_problem(item(logprobs=np.zeros(3, dtype=np.float32)), 10, samples=5) is None


@pytest.mark.parametrize(
    ("kind", "values"),
    [("blocks", "exact"), *(("logits", values) for values in ("exact", "half", "compact", "counts"))],
)
def test_a_folder_as_written_has_no_problems(data_folder, kind, values):
    assert verify_folder(data_folder(kind, values)) == []


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
    assert "train/index.json is not in checksums.json" in problem
