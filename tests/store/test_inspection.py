import json

import numpy as np
import pytest

from pd_lightning.inspection import inspect
from pd_lightning.store.chunks import finish, write_chunk
from pd_lightning.store.codec import encode_targets


def printed(capsys, *args, **kwargs):
    code = inspect(*args, **kwargs)
    return code, capsys.readouterr().out


def test_json_has_the_figures_of_a_store(data_folder, capsys, samples):
    folder = data_folder("logits")
    code, out = printed(capsys, str(folder), json=True)
    train = json.loads(out)["splits"]["train"]
    size = sum(path.stat().st_size for path in (folder / "train").glob("*.bin"))
    assert code == 0
    assert (train["blocks"], train["chunks"], train["bytes"]) == (samples.blocks, 3, size)
    assert train["bytes_per_token"] == pytest.approx(size / (samples.blocks * samples.block_size))
    # The same figures from what went in.
    targets = [samples.targets(block) for block in range(samples.blocks)]
    counts = np.concatenate([target["counts"] for target in targets])
    kept = sum(np.exp(target["logprobs"].astype(np.float64)).sum() for target in targets)
    entropy = np.concatenate([target["columns"]["entropy"] for target in targets])
    assert train["sampled_blocks"] == samples.blocks
    assert train["kept_ids"] == {"mean": counts.mean(), "min": counts.min(), "max": counts.max()}
    assert train["kept_mass"] == pytest.approx(kept / counts.size, rel=1e-5)
    assert train["columns"]["entropy"]["mean"] == pytest.approx(entropy.mean(), rel=1e-6)
    shares = {"0": 0, "1": 0, "2-3": 0, "4-7": 0}
    for count in counts:
        shares["0" if count == 0 else "1" if count == 1 else "2-3" if count < 4 else "4-7"] += 1 / counts.size
    assert train["kept_ids_histogram"] == pytest.approx(shares)


def test_json_takes_the_bytes_of_a_token_apart(data_folder, capsys, samples):
    folder = data_folder("logits", "compact")
    train = json.loads(printed(capsys, str(folder), json=True)[1])["splits"]["train"]
    parts = train["bytes_per_token_by_part"]
    chunks = sum(path.stat().st_size for path in (folder / "train").glob("*.bin"))
    # A chunk's offsets, an item's two sizes, and the checksum and size of its payload.
    headers = 3 * 4 + (samples.blocks + 3) * 4 + samples.blocks * (2 * 4 + 8)
    assert sum(parts.values()) * samples.blocks * samples.block_size + headers == pytest.approx(chunks)
    kept = sum(samples.targets(block)["ids"].size for block in range(samples.blocks))
    assert train["bytes_per_kept_id"] * kept == pytest.approx(parts["targets"] * samples.blocks * samples.block_size)


def test_the_rank_of_the_label_is_that_among_the_kept_ids(tmp_path, capsys, samples):
    """Each block's label is its number: give it the rank that the number is, of 4 kept ids."""
    samples.tokenizer(tmp_path)
    items = []
    for block in range(samples.blocks):
        others = np.array([10, 11, 12, 13])
        if block < 5:
            others[block - 1 if block else 0] = block
        ids, logprobs = np.tile(others, 8), np.tile(np.log(np.array([0.4, 0.3, 0.2, 0.1])), 8)
        columns = {"log_tail": np.full(8, -np.inf), "entropy": np.full(8, 0.7)}
        arrays = (np.full(9, block), np.full(8, 4), ids, logprobs, columns)
        items.append(encode_targets(*arrays, values="compact", vocab_size=300))
    for chunk in range(3):
        write_chunk(tmp_path / "train", chunk, items[3 * chunk : 3 * chunk + 3])
    finish(tmp_path, samples.manifest("logits", tmp_path, "compact"))
    train = json.loads(printed(capsys, str(tmp_path), json=True)[1])["splits"]["train"]
    # Blocks 0 to 4 have the ranks 1, 1, 2, 3 and 4; 5 and 6 keep other ids.
    assert train["label_not_kept"] == pytest.approx(2 / 7)
    assert train["label_rank"] == {"mean": 2.2, "min": 1, "max": 4}
    assert train["label_rank_histogram"] == pytest.approx({"0": 2 / 7, "1": 2 / 7, "2-3": 2 / 7, "4-7": 1 / 7})
    assert train["entropy_histogram"] == pytest.approx({"0": 0, "0.5": 1})


def test_a_sampled_store_has_draws_and_steps_and_no_mass(data_folder, capsys):
    folder = data_folder("logits", "counts")
    train = json.loads(printed(capsys, str(folder), json=True)[1])["splits"]["train"]
    assert "kept_mass" not in train
    assert train["teacher_steps"] == {"mean": 103, "min": 100, "max": 106}
    code, out = printed(capsys, str(folder), verify=True)
    assert code == 0
    assert "teacher's step" in out


def test_a_page_shows_tables_and_plots(data_folder, capsys, tmp_path):
    page = tmp_path / "pages" / "store.html"
    printed(capsys, str(data_folder("logits")), verify=True, html=str(page))
    text = page.read_text(encoding="utf-8")
    for part in ("Logit store", "Every checksum", "Kept ids", "Rank of the label", "Entropy of the teacher", "<svg"):
        assert part in text
    printed(capsys, str(data_folder("blocks")), html=str(page))
    assert "Token blocks" in page.read_text(encoding="utf-8")
    assert "<svg" not in page.read_text(encoding="utf-8")


def test_a_teacher_without_recompute_is_an_error(data_folder):
    with pytest.raises(ValueError, match=r"teacher must come with recompute, got gpt alone\. Set recompute to 8"):
        inspect(str(data_folder("logits")), teacher="gpt")


def test_tables_show_sizes_and_say_how_many_blocks_were_sampled(data_folder, capsys):
    code, out = printed(capsys, str(data_folder("logits")))
    assert code == 0
    for text in (
        "bytes per token",
        "tokenizer.digest",
        "document_attention",
        "Targets of train, from 7 of 7 blocks",
        "kept mass",
    ):
        assert text in out


def test_blocks_have_no_targets_and_an_empty_split_no_ratio(data_folder, capsys):
    folder = data_folder("blocks")
    code, out = printed(capsys, str(folder), json=True)
    splits = json.loads(out)["splits"]
    assert code == 0
    assert "kept_mass" not in splits["train"]
    assert splits["val"] == {"blocks": 0, "tokens": 0, "chunks": 0, "bytes": 0, "bytes_per_token": None}
    assert "Targets" not in printed(capsys, str(folder))[1]


def test_verify_says_that_all_is_well(data_folder, capsys):
    code, out = printed(capsys, str(data_folder("logits")), verify=True)
    assert code == 0
    assert "Every checksum and every item is as it was written." in out


@pytest.mark.parametrize("offset", [2, -1], ids=["header", "item"])
def test_verify_names_the_damaged_chunk_and_fails(data_folder, capsys, offset):
    folder = data_folder("logits")
    path = folder / "train" / "chunk-000002.bin"
    content = bytearray(path.read_bytes())
    content[offset] ^= 1
    path.write_bytes(content)
    code, out = printed(capsys, str(folder), verify=True)
    assert code == 1
    assert f"{path} has a header" in out if offset == 2 else f"{path} does not match its checksum" in out
    code, out = printed(capsys, str(folder), verify=True, json=True)
    assert code == 1
    assert str(path) in json.loads(out)["problems"][0]


def test_damage_without_verify_is_an_error(data_folder):
    path = data_folder() / "train" / "chunk-000000.bin"
    path.write_bytes(b"")
    with pytest.raises(ValueError, match=r"chunk-000000\.bin has 0 bytes"):
        inspect(str(path.parents[1]))


@pytest.mark.parametrize("verify", [False, True])
def test_a_missing_folder_is_an_error(tmp_path, verify):
    with pytest.raises(FileNotFoundError, match="must exist"):
        inspect(str(tmp_path / "nowhere"), verify=verify)


def test_recomputing_shows_where_the_teacher_differs_most(truncated_store, capsys):
    code, out = printed(capsys, str(truncated_store), recompute=3, json=True)
    assert code == 0
    found = json.loads(out[out.index("{") :])["recomputed"]
    assert (found["blocks"], found["same_weights"]) == (3, True)
    assert found["worst"]["kl"]["difference"] < 2e-3
    out = printed(capsys, str(truncated_store), recompute=3)[1]
    assert "Worst difference to" in out
    assert "label_logprob" in out


def test_an_address_is_refused():
    with pytest.raises(ValueError, match=r"must be a folder on this machine, got s3://bucket/store\. Copy the folder"):
        inspect("s3://bucket/store", verify=True)
