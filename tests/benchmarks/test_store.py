import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest


@pytest.fixture(scope="module")
def bench(benchmark: Callable[[str], ModuleType]) -> ModuleType:
    return benchmark("store")


def test_it_measures_made_up_rows(bench: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    bench.main(["--blocks", "1", "--json", str(tmp_path / "store.json")])
    figures = json.loads((tmp_path / "store.json").read_text())
    assert "Megatron's bytes per kept id to ours" in capsys.readouterr().out
    rows = {(row["selection"], row["values"]): row for row in figures["rows"]}
    size = {values: rows["top-p 0.95, k 100", values]["bytes_per_kept_id"] for values in ("exact", "half")}
    compact = rows["top-p 0.95, k 100", "compact 0.0001"]
    assert compact["bytes_per_kept_id"] < size["half"] < size["exact"]
    assert compact["mean_kl"] <= 1.01e-4
    assert rows["top-k 50", "exact"]["kept_ids_per_token"] == 50
    assert rows["50 draws", "counts"]["mean_kl"] == 0


def test_truncation_keeps_the_fewest_ids_that_reach_p(bench: ModuleType) -> None:
    rng = np.random.default_rng(0)
    probs = -np.sort(-rng.dirichlet(np.full(20, 0.3), 6))
    block = bench.whole(rng.integers(0, 20, 7), np.tile(np.arange(20), (6, 1)), np.log(probs))
    kept = bench.truncated(block, 0.9, 8)
    for row, count in enumerate(kept.counts):
        assert count == min(8, int(np.searchsorted(probs[row].cumsum(), 0.9)) + 1)
    np.testing.assert_allclose(
        np.exp(kept.columns["log_tail"]), [1 - p[:n].sum() for p, n in zip(probs, kept.counts, strict=True)], atol=1e-5
    )


def test_draws_sum_to_their_number(bench: ModuleType) -> None:
    blocks, vocab_size = bench.of_zipf(1, T=16)
    drawn = bench.drawn(blocks[0], 50, vocab_size)
    assert np.bincount(drawn.rows, drawn.logprobs, 16).tolist() == [50] * 16


def test_distillkits_formula_gives_its_documented_size(bench: ModuleType) -> None:
    assert bench.distillkit_bytes(128_256, 50) == 121
