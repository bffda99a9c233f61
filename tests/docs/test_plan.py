"""docs/plan.md shows what its command prints, and the figures that the code has."""

import re
import shlex
from pathlib import Path

import pytest

from pd_lightning.cli import main
from pd_lightning.plan.store_size import KEPT, KS

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "plan.md").read_text(encoding="utf-8")


def test_the_example_prints_what_stands_there(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.chdir(ROOT)
    command = re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL)[0].replace("\\\n", " ")
    (shown,) = re.findall(r"```text\n(.*?)```", PAGE, re.DOTALL)
    assert main(shlex.split(command)[1:]) == 0
    assert capsys.readouterr().out == shown
    assert "+0.020" in shown  # the text speaks of a hundredth of a nat,
    assert "259.97B" in shown  # and of 260B tokens


def test_the_kept_ids_stand_there() -> None:
    rows = [f"| p | {' | '.join(f'k {k}' for k in KS)} |"]
    rows += [f"| {p} | {' | '.join(f'{value:g}' for value in row)} |" for p, row in KEPT.items()]
    assert all(row in PAGE for row in rows)
