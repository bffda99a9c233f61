import json

import numpy as np
import pytest

from pd_lightning.store.inspection import inspect


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
