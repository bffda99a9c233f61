"""What inference engines say of tokens becomes a store; what can't have been said of them is refused."""

from __future__ import annotations

import gzip
import json
import os
import random
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from pd_lightning.cli import main
from pd_lightning.data import TokenBlocks
from pd_lightning.data.import_logits import import_logits, import_rows
from pd_lightning.data.top_logprobs import Checker, read_rows
from pd_lightning.module import DistillationModule
from pd_lightning.store.manifest import read_manifest
from pd_lightning.store.reader import BlockReader
from pd_lightning.store.verification import verify_folder
from pd_lightning.students import HFStudent
from pd_lightning.teachers import OfflineTeacher
from pd_lightning.trainer import PDTrainer
from pd_lightning.transforms import NormKD, Standardize

T, V, K = 8, 300, 4


def said_of(tokens: list[int], seed: int) -> list[dict[int, float] | None]:
    """As vLLM does: nothing of the first token, the K most probable ids of the others, the token itself among them."""
    rng = np.random.default_rng(seed)
    entries: list[dict[int, float] | None] = [None]
    for token in tokens[1:]:
        others = [int(n) for n in rng.permutation(V) if n != token][: K - 1]
        probs = rng.dirichlet(np.ones(K + 1))[:K]
        entries.append(dict(zip([token, *others], np.log(probs).tolist(), strict=True)))
    return entries


@pytest.fixture(scope="module")
def eos(blocks: Path) -> int:
    return read_manifest(blocks).tokenizer.eos_token_id


@pytest.fixture(scope="module")
def rows(eos: int) -> list[tuple[list[int], list[Any]]]:
    rng = np.random.default_rng(0)
    lengths = rng.integers(2, 30, 60)
    texts = [
        [int(n) for n in rng.integers(1, V, length) if n != eos] + [eos] * (number % 2)
        for number, length in enumerate(lengths)
    ]
    return [(tokens, said_of(tokens, number)) for number, tokens in enumerate(texts)]


def imported(folder: Path, blocks: Path, rows: Any, **settings: Any) -> Path:
    settings = {"block_size": T, "val_fraction": 0.0, "values": "exact", "blocks_per_chunk": 16, **settings}
    named = [(f"row {number}", *row) for number, row in enumerate(rows)]
    import_rows(named, str(folder), str(blocks / "tokenizer"), "teacher", **settings)
    return folder


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, blocks: Path, rows: Any) -> Path:
    return imported(tmp_path_factory.mktemp("imported") / "store", blocks, rows)


def test_every_position_has_what_was_said_of_its_label(store: Path, rows: Any, eos: int) -> None:
    """The stream, token by token, by another way."""
    stream = []
    for tokens, entries in rows:
        ends = tokens[-1] != eos
        stream += list(zip(tokens, entries, strict=True)) + [(eos, None)] * ends
    reader = BlockReader(store, "train")
    assert len(reader) == (len(stream) - 1) // T
    assert verify_folder(store) == []
    for number in range(len(reader)):
        item, start = reader[number], number * T
        assert item["block"].tolist() == [token for token, _ in stream[start : start + T + 1]]
        ends = item["counts"].cumsum()
        for position in range(T):
            entry = stream[start + position + 1][1] or {}
            ids = item["ids"][ends[position] - item["counts"][position] : ends[position]]
            logprobs = item["logprobs"][ends[position] - item["counts"][position] : ends[position]]
            assert dict(zip(ids.tolist(), logprobs.tolist(), strict=True)) == pytest.approx(entry)
            assert logprobs.tolist() == sorted(logprobs.tolist(), reverse=True)
            rest = 1 - sum(np.exp(list(entry.values())))
            assert np.exp(item["log_tail"][position]) == pytest.approx(rest, abs=1e-6)


def test_the_manifest_says_where_it_comes_from(store: Path, blocks: Path) -> None:
    manifest = read_manifest(store)
    assert manifest.teacher == {"kind": "import", "name": "teacher", "vocab_size": V}
    assert (manifest.kind, manifest.columns, manifest.selection) == ("logits", ("log_tail",), {"k": K})
    assert manifest.tokenizer == read_manifest(blocks).tokenizer
    assert manifest.document_attention == "isolated"
    items = [BlockReader(store, "train")[number] for number in range(manifest.splits["train"].num_blocks)]
    kept = [np.exp(item["logprobs"], dtype=np.float64).sum() for item in items]
    assert manifest.statistics["kept_mass_per_token"] == pytest.approx(sum(kept) / len(items) / T)
    known = [(item["counts"] > 0).mean() for item in items]
    assert manifest.statistics["targets_per_token"] == pytest.approx(np.mean(known))


FORMS = {
    "vllm": lambda entry: {str(i): {"logprob": p, "rank": 1, "decoded_token": "x"} for i, p in entry.items()},
    "plain": lambda entry: {str(i): p for i, p in entry.items()},
    "sglang": lambda entry: [[p, i, None] for i, p in entry.items()],
    "pairs": lambda entry: [(i, p) for i, p in entry.items()],
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("suffix", ["jsonl", "jsonl.gz", "parquet"])
def test_files_of_every_form(tmp_path: Path, blocks: Path, rows: Any, store: Path, form: str, suffix: str) -> None:
    if suffix == "parquet" and form != "pairs":
        pytest.skip("columns have one type")
    written = [
        {"prompt_token_ids": tokens, "lp": [entry and FORMS[form](entry) for entry in entries]}
        for tokens, entries in rows
    ]
    path = tmp_path / f"said.{suffix}"
    if suffix == "parquet":
        pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        entries = pa.array([row["lp"] for row in written], pa.list_(pa.map_(pa.int64(), pa.float64())))
        pq.write_table(
            pa.table({"prompt_token_ids": [row["prompt_token_ids"] for row in written], "lp": entries}), path
        )
    else:
        text = "\n".join(map(json.dumps, written)).encode()
        path.write_bytes(gzip.compress(text) if suffix.endswith("gz") else text)
    command = ["import-logits", "--paths", json.dumps([str(path)]), "--output_dir", str(tmp_path / "store")]
    command += ["--tokenizer", str(blocks / "tokenizer"), "--teacher", "teacher", "--logprobs_field", "lp"]
    command += ["--block_size", str(T), "--val_fraction", "0", "--values", "exact", "--blocks_per_chunk", "16"]
    assert main(command) == 0
    one, other = (BlockReader(folder, "train") for folder in (store, tmp_path / "store"))
    assert len(one) == len(other)
    for number in range(len(one)):
        for name, array in one[number].items():
            np.testing.assert_array_equal(array, other[number][name], err_msg=name)


def test_a_disk_with_less_room_than_the_files_take(
    tmp_path: Path, blocks: Path, rows: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=1000, total=1e12))
    with (
        pytest.warns(UserWarning, match="must have room for what the files hold, got 0.0 MB free for about 0.5 MB"),
        pytest.raises(OSError, match=r"disk full while writing chunk 0 of .*No space left on device"),
    ):
        imported(tmp_path / "store", blocks, rows, origin={"bytes": 500_000})
    assert not list(tmp_path.rglob("*.bin"))


@pytest.mark.parametrize("values", ["half", "compact"])
def test_a_student_learns_from_it(tmp_path: Path, blocks: Path, rows: Any, tiny: Any, values: str) -> None:
    store = imported(tmp_path / "store", blocks, rows, values=values, val_fraction=0.3)
    student = DistillationModule(HFStudent(config=tiny.config), OfflineTeacher())
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = PDTrainer(accelerator="cpu", max_steps=2, val_check_interval=2, check_val_every_n_epoch=None, **quiet)
    trainer.fit(student, TokenBlocks(str(store), batch_size=4))
    assert torch.isfinite(trainer.callback_metrics["train/kd_loss"])
    assert torch.isfinite(trainer.callback_metrics["val/kd_loss"])


@pytest.mark.parametrize(
    ("transform", "figure"), [(Standardize(), "std"), (NormKD(), "std")], ids=lambda x: type(x).__name__
)
def test_what_needs_figures_of_all_logits_refuses_it(store: Path, tiny: Any, transform: Any, figure: str) -> None:
    student = DistillationModule(HFStudent(config=tiny.config), OfflineTeacher(), {"figures": transform})
    trainer = PDTrainer(accelerator="cpu", max_steps=1, logger=False, enable_checkpointing=False, limit_val_batches=0)
    name = type(transform).__name__
    with pytest.raises(ValueError, match=rf"{name} must have the teacher's \w+ at each position, got log"):
        trainer.fit(student, TokenBlocks(str(store), batch_size=4))


GOOD: list[Any] = [None, {2: -1.0, 3: -2.0}, {3: -0.5}]


@pytest.mark.parametrize(
    ("tokens", "targets", "message"),
    [
        ([1, 2], GOOD, "must tell of each token, got 3 entries of log-probabilities for 2 tokens"),
        ([1, 2, V], GOOD, r"token ids of here must lie in \[0, 300\), got 1 to 300"),
        ([1, 2, -1], GOOD, "token ids of here must lie in"),
        ([1, 2, 3], [None, {V: -1.0}, None], r"kept ids of here must lie in \[0, 300\), got 300 to 300. Set tokenizer"),
        ([1, 2, 3], [None, {2: 0.5}, None], "log-probabilities of at most 0, got 0.5"),
        ([1, 2, 3], [None, {2: float("nan")}, None], "log-probabilities of at most 0, got nan"),
        ([1, 2, 3], [None, {2: -0.1, 3: -0.1}, None], "come to one at most, got 1.8097"),
        ([1, 2, 3], [None, [[2, -1.0], [2, -2.0]], None], r"each id once at a position, got \[2, 2\]"),
        ([1, 2, 3], [None, {"a": -1.0}, None], "log-probabilities by id, got {'a': -1.0}"),
        ([1, 2, 3], [None, {2: {"rank": 1}}, None], "log-probabilities by id"),
        ([1, 2, 3], [None, -1.0, None], "log-probabilities by id, got -1.0"),
        (
            [1, 2, 3],
            None,
            r"here must tell of each token, got no entries of log-probabilities for 3 tokens\. Give null",
        ),
        (["1", "2", "3"], GOOD, r"token ids as a list of whole numbers, got \['1', '2', '3'\]\. Set tokens_field"),
        ([1, 2.5, 3], GOOD, r"list of whole numbers, got \[1, 2.5, 3\]"),
        ([[1], [2, 3], []], GOOD, r"list of whole numbers, got \[\[1\], \[2, 3\], \[\]\]"),
        ([1, 2, 3], [None, [[2.5, -1.0]], None], r"log-probabilities by id, got \[\[2.5, -1.0\]\] \('float' object"),
    ],
)
def test_rows_that_cannot_be(tokens: list[int], targets: list[Any], message: str) -> None:
    assert Checker(V).check("here", [1, 2, 3], GOOD).counts.tolist() == [0, 2, 1]
    with pytest.raises(ValueError, match=message):
        Checker(V).check("here", tokens, targets)


def test_what_rounding_makes_more_than_one_is_scaled_down() -> None:
    row = Checker(V).check("here", [1, 2], [None, {2: np.log(0.6), 5: np.log(0.405)}])
    assert np.exp(row.logprobs, dtype=np.float64).sum() == pytest.approx(1.0, abs=1e-6)
    assert Checker(V).check("here", [1, 2], [None, {2: 1e-4}]).logprobs.tolist() == pytest.approx([0.0])


@pytest.mark.parametrize(("shift", "which"), [(1, "after"), (-1, "before")])
def test_targets_of_the_neighbouring_token_are_found_out(shift: int, which: str) -> None:
    tokens = np.random.default_rng(1).integers(0, V, 1200).tolist()
    entries = said_of(tokens, 1)
    shifted = [*entries[1:], None] if shift == 1 else [None, *entries[:-1]]
    Checker(V).check("here", tokens, entries)
    with pytest.raises(ValueError, match=rf"fit the token {which} it better: 1\d+ of \d+ positions .* Shift them"):
        Checker(V).check("here", tokens, shifted)


def shifted(tokens: list[int], seed: int) -> list[Any]:
    return [*said_of(tokens, seed)[1:], None]


def test_few_positions_tell_of_a_shift() -> None:
    """Also where the engine gave the most probable id alone, which is the token in two of five positions."""
    rng = np.random.default_rng(1)
    tokens = rng.integers(0, V, 51).tolist()
    with pytest.raises(ValueError, match=r"fit the token after it better: 50 of 50 positions hold that one, \d+ their"):
        Checker(V).check("here", tokens, shifted(tokens, 1))
    guesses = np.where(np.arange(51) % 5 < 2, tokens, 0)
    entries = [{int(guess): -0.5} for guess in guesses]
    Checker(V).check("here", tokens, entries)
    with pytest.raises(ValueError, match=r"fit the token before it better: 20 of 50 positions"):
        Checker(V).check("here", tokens, [None, *entries[:-1]])


def test_a_shift_is_found_in_later_files_too() -> None:
    rng, checker = np.random.default_rng(2), Checker(V)
    texts = rng.integers(0, V, (160, 30)).tolist()
    for number in range(100):
        checker.check("good", texts[number], said_of(texts[number], number))
    bad = (checker.check(f"bad {number}", texts[number], shifted(texts[number], number)) for number in range(100, 160))
    with pytest.raises(ValueError, match=r"some up to bad \d+ that fit the token after it better"):
        list(bad)


def test_repeated_and_common_tokens_are_no_shift() -> None:
    """Neighbours are held everywhere, and in every fifth position alone."""
    checker = Checker(V)
    for _ in range(60):
        checker.check("constant", [5] * 30, [None, *[{5: -0.1}] * 29])
    rng = np.random.default_rng(3)
    for _ in range(60):
        tokens = rng.integers(0, V, 30).tolist()
        pairs = zip(tokens[1:], tokens, rng.random(29) < 0.2, strict=False)
        checker.check("common", tokens, [None, *({(last if common else own): -0.1} for own, last, common in pairs)])


@pytest.mark.parametrize(("document_attention", "kept"), [("isolated", 0), ("full", 1)])
def test_what_was_said_of_a_first_token_is_no_target_of_the_row_before(
    tmp_path: Path, blocks: Path, eos: int, document_attention: str, kept: int
) -> None:
    row = [7, 8, 9], [{7: -0.1}, {8: -0.1}, {9: -0.1}]
    store = imported(tmp_path / "store", blocks, [row] * 10, document_attention=document_attention)
    item = BlockReader(store, "train")[0]
    assert item["block"].tolist() == [7, 8, 9, eos, 7, 8, 9, eos, 7]
    assert item["counts"].tolist() == [1, 1, 0, kept, 1, 1, 0, kept]
    assert item["ids"].tolist() == [8, 9, *[7] * kept, 8, 9, *[7] * kept]


def test_a_second_run_finds_its_work_done(tmp_path: Path, blocks: Path, rows: Any, capsys: Any) -> None:
    imported(tmp_path / "store", blocks, rows, origin={"day": 1})
    imported(tmp_path / "store", blocks, rows, origin={"day": 1})
    assert "already holds these logits: nothing to do" in capsys.readouterr().err
    with pytest.raises(ValueError, match=r"hold logits of the same settings, got .* values .exact. instead"):
        imported(tmp_path / "store", blocks, rows, values="half", origin={"day": 1})
    with pytest.raises(ValueError, match=r"made with origin {'day': 1} instead of {'day': 2}\. Choose"):
        imported(tmp_path / "store", blocks, rows, origin={"day": 2})
    with pytest.raises(ValueError, match="output_dir must not hold token blocks, got"):
        imported(blocks, blocks, rows)


def test_rows_of_no_origin_are_never_taken_for_those_that_are_there(tmp_path: Path, blocks: Path, rows: Any) -> None:
    store = imported(tmp_path / "store", blocks, rows)
    with pytest.raises(ValueError, match=r"made with data that may be others, as no origin is given\. Choose another"):
        imported(store, blocks, rows[:30])
    whole = len(BlockReader(store, "train"))
    imported(store, blocks, rows[:30], overwrite=True)
    assert len(BlockReader(store, "train")) < whole


def test_files_that_came_later_are_not_taken_for_done(tmp_path: Path, blocks: Path, rows: Any, capsys: Any) -> None:
    def write(name: str, rows: Any) -> None:
        lines = (json.dumps({"prompt_token_ids": tokens, "prompt_logprobs": entries}) for tokens, entries in rows)
        (tmp_path / name).write_text("\n".join(lines))

    def run(**settings: Any) -> None:
        names = {"output_dir": str(tmp_path / "store"), "tokenizer": str(blocks / "tokenizer"), "teacher": "teacher"}
        import_logits([str(tmp_path / "*.jsonl")], **names, block_size=T, val_fraction=0.0, **settings)

    write("a.jsonl", rows[:30])
    run()
    run()
    assert "already holds these logits: nothing to do" in capsys.readouterr().err
    write("b.jsonl", rows[30:])
    with pytest.raises(
        ValueError, match=r"made with origin .*'files': 1, .* instead of .*'files': 2, .*--overwrite true"
    ):
        run()
    run(overwrite=True)
    os.utime(tmp_path / "b.jsonl", ns=(0, 0))
    with pytest.raises(ValueError, match="output_dir must be new or hold logits of the same settings"):
        run()


@pytest.mark.slow
def test_killed_at_any_time_it_is_made_anew(tmp_path: Path, blocks: Path, rows: Any) -> None:
    lines = (json.dumps({"prompt_token_ids": tokens, "prompt_logprobs": entries}) for tokens, entries in rows * 4)
    (tmp_path / "said.jsonl").write_text("\n".join(lines))
    command = [sys.executable, "-m", "pd_lightning", "import-logits", "--paths", f"['{tmp_path}/said.jsonl']"]
    command += ["--tokenizer", str(blocks / "tokenizer"), "--teacher", "teacher", "--block_size", str(T)]
    command += ["--val_fraction", "0.2", "--blocks_per_chunk", "1", "--output_dir"]
    assert subprocess.run([*command, str(tmp_path / "whole")]).returncode == 0
    store, chance = tmp_path / "killed", random.Random(0)
    for number in range(6):
        process = subprocess.Popen([*command, str(store)])
        if number == 0:  # the tokenizer is being copied
            while not store.exists():
                time.sleep(0.001)
        else:
            while len(list(store.glob("train/.tmp-*"))) == 0:
                time.sleep(0.001)
            time.sleep(chance.uniform(0, 0.5))
        assert process.poll() is None, "the rows must last longer"
        process.kill()
        process.wait()
    assert not (store / "manifest.json").exists()
    assert subprocess.run([*command, str(store)]).returncode == 0
    assert verify_folder(store) == []
    files = {path.relative_to(tmp_path / "whole") for path in (tmp_path / "whole").rglob("*") if path.is_file()}
    assert files == {path.relative_to(store) for path in store.rglob("*") if path.is_file()}
    assert all((store / name).read_bytes() == (tmp_path / "whole" / name).read_bytes() for name in files)


def test_rows_of_parquet_are_read_one_at_a_time(tmp_path: Path) -> None:
    """As Python objects they take a hundred times their room in the file."""
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    row = [[(n, -1.0) for n in range(20)]] * 200
    peaks = []
    for number in (1, 32):
        entries = pa.array([row] * number, pa.list_(pa.map_(pa.int64(), pa.float64())))
        pq.write_table(pa.table({"ids": [[1] * 200] * number, "lp": entries}), tmp_path / "said.parquet")
        tracemalloc.start()
        assert (
            sum(len(tokens) for _, tokens, _ in read_rows([str(tmp_path / "said.parquet")], "ids", "lp"))
            == number * 200
        )
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 3 * peaks[0]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"block_size": 0}, "block_size must be at least 1, got 0"),
        ({"val_fraction": 1.0}, "val_fraction must be at least 0 and less than 1, got 1.0"),
        ({"block_size": 5000}, "The train split must fill a block of 5000 tokens, got less. Import more rows"),
    ],
)
def test_settings_out_of_range(tmp_path: Path, blocks: Path, rows: Any, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        imported(tmp_path / "store", blocks, rows, **settings)


def test_files_that_are_something_else(tmp_path: Path) -> None:
    path = tmp_path / "said.jsonl"
    path.write_text('{"prompt_token_ids": [1]}\n')
    with pytest.raises(ValueError, match=r"said.jsonl, row 1 must have the fields prompt_token_ids and lp, got pro"):
        list(read_rows([str(path)], "prompt_token_ids", "lp"))
    path.write_text("[1, 2]\n")
    with pytest.raises(ValueError, match=r"said.jsonl, line 1 must be one JSON object, got a list\. Mend"):
        list(read_rows([str(path)], "prompt_token_ids", "lp"))
