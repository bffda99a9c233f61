import re
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from pd_lightning.module import DistillationModule
from pd_lightning.schedule_plot import Curve, curves, draw, table
from pd_lightning.schedules import WSD, Constant, Linear, Part, Periodic, Piecewise
from pd_lightning.students import HFStudent
from pd_lightning.teachers import NoTeacher, OfflineTeacher
from pd_lightning.transforms import Temperature


def module(**settings: object) -> DistillationModule:
    given = {
        "teacher": OfflineTeacher(),
        "transforms": {"soften": Temperature(Linear(4.0, 1.0))},
        "kd_weight": WSD(0.9, warmup=0.2, decay=0.4),
        "lr": Constant(1e-3),
        **settings,
    }
    return DistillationModule(HFStudent({"model_type": "llama"}), **given)  # type: ignore[arg-type]


def test_every_schedule_of_the_run_is_a_curve() -> None:
    weight, temperature, lr = curves(module(), 10)
    assert [curve.key for curve in (weight, temperature, lr)] == [
        "model.kd_weight",
        "model.transforms.soften.value",
        "model.lr",
    ]
    assert weight.steps == list(range(10))
    np.testing.assert_allclose(weight.values, [0.45, *[0.9] * 6, 0.675, 0.45, 0.225])
    np.testing.assert_allclose(temperature.values, np.linspace(4, 1, 10))
    assert lr.values == [1e-3] * 10
    assert [curve.label for curve in (weight, temperature, lr)] == ["KD weight α", "soften τ", "learning rate"]


def test_constant_temperatures_are_no_curves() -> None:
    assert [c.key for c in curves(module(transforms={"soften": Temperature(2.0)}), 10)] == [
        "model.kd_weight",
        "model.lr",
    ]


def test_without_a_teacher_there_is_the_learning_rate_alone() -> None:
    assert [curve.key for curve in curves(module(teacher=NoTeacher()), 10)] == ["model.lr"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kd_weight": Linear(0.0, 1.2)}, r"model\.kd_weight must stay in \[0, 1\], got 1\.06667 at step 8"),
        ({"lr": Constant(-1.0)}, r"model\.lr must stay in \[0, inf\), got -1 at step 0"),
        (
            {"transforms": {"soften": Temperature(Linear(4.0, 0.0))}},
            r"model\.transforms\.soften\.value must stay in \(0, inf\), got 0 at step 9",
        ),
    ],
)
def test_what_is_not_allowed_is_no_curve(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        curves(module(**settings), 10)


def test_the_table_gives_ends_and_extremes() -> None:
    console = Console(width=100)
    with console.capture() as capture:
        console.print(table(curves(module(), 12_000)))
    lines = capture.get().splitlines()
    assert lines[0].strip() == "12,000 optimizer steps"
    cells = [re.findall(r"[^\s┃│]+", line) for line in lines if re.search("schedule|model", line)]
    assert cells == [
        ["schedule", "start", "min", "max", "end"],
        ["model.kd_weight", "0.000375", "0.0001875", "0.9", "0.0001875"],
        ["model.transforms.soften.value", "4", "1", "4", "1"],
        ["model.lr", "0.001", "0.001", "0.001", "0.001"],
    ]


@pytest.mark.parametrize("total", [1, 300])
def test_a_panel_for_each_schedule(tmp_path: Path, total: int) -> None:
    parts = {"first": Part(Constant(1e-3), 0.5), "second": Part(Linear(1e-3, 0.0))}
    draw(curves(module(lr=Piecewise(parts)), total), tmp_path / "new" / "plot.svg")
    texts = re.findall(r"<text[^>]*>(?:<tspan[^>]*>)?([^<]+)", (tmp_path / "new" / "plot.svg").read_text())
    shown = " ".join(texts)
    for text in ("KD weight α", "soften τ", "learning rate", "optimizer step", "WSD(peak=0.9", "second=Linear(start"):
        assert text in shown
    assert shown.count("optimizer step") == 1


@pytest.mark.parametrize(("suffix", "start"), [(".png", b"\x89PNG"), (".pdf", b"%PDF"), (".svg", b"<?xml")])
def test_the_ending_says_the_format(tmp_path: Path, suffix: str, start: bytes) -> None:
    draw(curves(module(), 10), tmp_path / f"plot{suffix}")
    assert (tmp_path / f"plot{suffix}").read_bytes().startswith(start)


def test_another_ending_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"--output_path must end in \.png, \.pdf or \.svg, got plot\.txt"):
        draw(curves(module(), 10), Path("plot.txt"))


def test_very_long_settings_are_cut(tmp_path: Path) -> None:
    parts = {f"part{n}": Part(Periodic(0.0, 1.0, 0.5, "sawtooth"), 0.05) for n in range(20)}
    curve = Curve("k", "learning rate", "#000000", Piecewise(parts), [0, 1], [0.0, 1.0], top=1.0)
    draw([curve], tmp_path / "plot.svg")
    text = (tmp_path / "plot.svg").read_text()
    assert "part0" in text
    assert "part19" not in text
    assert "…" in text
