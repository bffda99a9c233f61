"""The tables of docs/results.md: what is printed for a study's folder."""

from pathlib import Path

import pytest

from pd_lightning.study.outline import Axis, Control, Option, Point, Study, write_study
from pd_lightning.study.results import Row, write_results


@pytest.mark.parametrize(("design", "crosses"), [("one_factor", [["k", "loss"]]), ("grid", [])])
def test_tables_are_markdown(design: str, crosses: list[list[str]], tmp_path: Path) -> None:
    from results import results

    study = Study(
        title="The paper",
        name="tiny",
        metric="val/lm_loss",
        direction="minimize",
        design=design,
        seeds=[1, 2],
        axes=[
            Axis("k", "k | p", "50", [Option("10", 10.0), Option("50", 50.0)]),
            Axis("loss", "loss", "kld", [Option("kld"), Option("mse")]),
        ],
        points=[
            Point("base", {"k": "50", "loss": "kld"}, [], "lm", None, "base"),
            Point("k=10", {"k": "10", "loss": "kld"}, ["k"], "lm", None, "k10"),
        ],
        controls=[Control("lm", "lm", "lm", ["base", "k=10"])],
        crosses=crosses,
        costs={},
    )
    values = {"base": (4.0, 4.1), "k=10": (3.5, 3.6), "lm": (4.5, 4.6)}
    write_study(tmp_path, study)
    rows = [
        Row(name, "lm" if name == "lm" else "point", seed, "complete", value)
        for name, found in values.items()
        for seed, value in enumerate(found, start=1)
    ]
    write_results(tmp_path / "results.csv", rows)
    written = list(results(tmp_path))
    (table,) = [part for part in written if part.startswith("| k \\| p | mean")]
    assert table.splitlines()[1] == "| --- | --- | --- | --- | --- | --- |"
    assert table.splitlines()[2].startswith("| 10 | 3.5")
    assert table.splitlines()[3].startswith("| 50 (base) | 4.0")
    assert {"## k | p", "## k | p × loss"} <= set(written)
    metric, against_lm = (part.splitlines() for part in written if part.startswith("| k \\| p \\ loss | kld | mse |"))
    assert metric[2].startswith("| 10 | 3.5")
    assert against_lm[2].startswith("| 10 | −1.0")
    assert metric[2].endswith(" | – |")
