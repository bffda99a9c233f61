"""`docs/store.md` says what `benchmarks/store.py` measured."""

import json
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "store.md").read_text(encoding="utf-8")
FIGURES = json.loads((ROOT / "benchmarks" / "results" / "store.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("row", FIGURES["rows"], ids=lambda row: f"{row['selection']}-{row['values']}")
def test_the_table_is_what_was_measured(row: dict) -> None:
    total = row["targets_bytes_per_token"] + row["tokens_and_columns_bytes_per_token"]
    cells = [f"{row['kept_ids_per_token']:.1f}", f"{row['bytes_per_kept_id']:.2f}"]
    cells += [f"{row['targets_bytes_per_token']:.1f}", f"{total:.1f}"]
    cells += ["0" if row["mean_kl"] == 0 else f"{row['mean_kl']:.1e}", f"{row['max_logprob_error']:.3f}"]
    assert f"| {row['selection']} | {row['values']} | {' | '.join(cells)} |" in PAGE


def test_the_aims_are_reached() -> None:
    row = next(
        row for row in FIGURES["rows"] if row["selection"] == "top-p 0.95, k 100" and row["values"] == "compact 0.0001"
    )
    assert row["bytes_per_kept_id"] <= 1.8
    assert row["mean_kl"] <= 1e-4
    assert row["tokens_and_columns_bytes_per_token"] <= 14
    assert row["decode_tokens_per_second"] >= 200_000


def test_the_arithmetic_at_scale() -> None:
    bytes_per_token = {
        (row["selection"], row["values"]): row["targets_bytes_per_token"] + row["tokens_and_columns_bytes_per_token"]
        for row in FIGURES["rows"]
    }
    compact = bytes_per_token["top-p 0.95, k 100", "compact 0.0001"]
    half = bytes_per_token["top-p 0.95, k 100", "half"]
    draws = bytes_per_token["50 draws", "counts"]
    assert f"| `compact` | {compact / 10:.1f} TB | {round(compact * 10, -1):.0f} TB |" in PAGE
    assert f"| `half` | {half / 10:.1f} TB | {half / 100:.1f} PB |" in PAGE
    assert f"| 50 draws ({draws:.0f} bytes) | {draws / 10:.1f} TB | {round(draws * 10, -1):.0f} TB |" in PAGE
    assert (
        f"| chunks of 64 MiB | {round(compact * 1e11 / 2**26, -3):,.0f} | {compact * 1e13 / 2**26 / 1e6:.1f} million"
        in PAGE
    )
    assert (
        f"| chunks of 1 GiB | {round(compact * 1e11 / 2**30, -2):,.0f} | {round(compact * 1e13 / 2**30, -3):,.0f} |"
        in PAGE
    )
