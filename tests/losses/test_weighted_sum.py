"""A weighted sum of losses: its value, its refusals, and how a YAML file makes one."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from loss_cases import make, problem, value_and_gradient

from pd_lightning.cli import Command, main
from pd_lightning.losses import DecoupledTopK, ForwardKL, MeanSquaredError, ReverseKL, WeightedSum
from pd_lightning.targets import Form

STUDENT = torch.tensor(problem().student)


@pytest.mark.parametrize(
    ("weights", "kl", "mse"), [(None, 1.0, 1.0), ({"mse": 10.0}, 1.0, 10.0), ({"kl": 0.0, "mse": 0.5}, 0.0, 0.5)]
)
def test_sums_what_each_loss_gives_with_settings_of_its_own(weights: Any, kl: float, mse: float) -> None:
    losses = {"kl": ForwardKL(temperature_squared=False), "mse": MeanSquaredError()}
    targets, _ = make(problem(), "bucket", dtype=torch.float64, temperature=2.0, compensation=4.0)
    actual = value_and_gradient(WeightedSum(losses, weights), STUDENT, targets)
    each = [value_and_gradient(loss, STUDENT, targets) for loss in losses.values()]
    expected = tuple(kl * first + mse * second for first, second in zip(*each, strict=True))
    torch.testing.assert_close(actual, expected)


def test_a_sum_may_hold_sums() -> None:
    targets, _ = make(problem(), "dense", dtype=torch.float64)
    nested = WeightedSum({"sum": WeightedSum({"kl": ForwardKL()}, {"kl": 3.0})}, {"sum": 0.5})
    torch.testing.assert_close(nested(STUDENT, targets), 1.5 * ForwardKL()(STUDENT, targets))


@pytest.mark.parametrize(
    ("losses", "weights", "message"),
    [
        ({}, None, r"losses must have at least one entry, got none. Add one to model.loss.init_args.losses"),
        (
            {"kl": ForwardKL()},
            {"k1": 2.0},
            r"weights must name losses, got k1 beside kl. Correct .*init_args.weights.k1",
        ),
        ({"kl": ForwardKL()}, {"kl": -1.0}, r"weight must be a number of at least 0, got -1.0. Set .*weights.kl"),
        ({"kl": ForwardKL()}, {"kl": float("nan")}, r"weight must be a number of at least 0, got nan"),
        ({"kl": ForwardKL()}, {"kl": 0.0}, r"weights must have one above 0, got 0 for all. Set .*, or kd_weight to 0"),
    ],
)
def test_losses_and_weights_that_do_not_fit_are_refused(losses: Any, weights: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        WeightedSum(losses, weights)


def test_each_loss_is_asked_whether_it_can_work() -> None:
    loss = WeightedSum({"forward": ForwardKL(), "inner": WeightedSum({"reverse": ReverseKL()})})
    loss.check(Form("bucket"))
    inner = r"model.loss.init_args.losses.inner: model.loss.init_args.losses.reverse: "
    with pytest.raises(ValueError, match=inner + r"ReverseKL must have dense or bucket targets, got none ones. .*Set"):
        loss.check(Form("none"))
    with pytest.raises(ValueError, match=r"losses.top: DecoupledTopK must have bucket targets, got dense ones. Put"):
        WeightedSum({"forward": ForwardKL(), "top": DecoupledTopK()}).check(Form("dense"))


@pytest.mark.parametrize(
    ("overlay", "arguments", "printed"),
    [
        ({}, [], "kl ForwardKL False 2.0, skewed SkewedReverseKL 0.1 1.0"),
        ({"weights": {"skewed": 0.5}}, [], "kl ForwardKL False 2.0, skewed SkewedReverseKL 0.1 0.5"),
        ({}, ["--loss.losses.skewed.skew=0.3"], "kl ForwardKL False 2.0, skewed SkewedReverseKL 0.3 1.0"),
        (
            {"losses": {"kl": {"class_path": "pd_lightning.losses.JensenShannon", "init_args": {"beta": 0.2}}}},
            ["--loss.weights.kl=4"],
            "kl JensenShannon 0.2 4.0, skewed SkewedReverseKL 0.1 1.0",
        ),
    ],
)
def test_a_yaml_file_makes_one_and_an_overlay_changes_one_entry(
    overlay: dict,
    arguments: list[str],
    printed: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    show = """
from pd_lightning.losses import WeightedSum

def show(loss: WeightedSum) -> None:
    settings = {"ForwardKL": "temperature_squared", "JensenShannon": "beta", "SkewedReverseKL": "skew"}
    parts = []
    for name, part in loss.losses.items():
        kind = type(part).__name__
        parts.append(f"{name} {kind} {getattr(part, settings[kind])} {loss.weights[name]}")
    print(", ".join(parts))
"""
    (tmp_path / "loss_command.py").write_text(show)
    monkeypatch.syspath_prepend(str(tmp_path))
    kl = {"class_path": "pd_lightning.losses.ForwardKL", "init_args": {"temperature_squared": False}}
    losses = {"kl": kl, "skewed": {"class_path": "pd_lightning.losses.SkewedReverseKL"}}
    whole = {"class_path": "pd_lightning.losses.WeightedSum", "init_args": {"losses": losses, "weights": {"kl": 2.0}}}
    for name, loss in (("base", whole), ("overlay", {"class_path": whole["class_path"], "init_args": overlay})):
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump({"loss": loss}))
    files = [f"--config={tmp_path / name}.yaml" for name in ("base", "overlay")]
    code = main(["show", *files, *arguments], {"show": Command("show", "loss_command:show")})
    out, err = capsys.readouterr()
    assert (code, out) == (0, printed + "\n"), err
