from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from pd_lightning.study.points import DesignSpace
from pd_lightning.study.settings import Axis, StudySettings, option_name

Ask = Callable[..., StudySettings]
MSE = {"model": {"loss": {"class_path": "MeanSquaredError"}}}
LOSS = Axis(options={"kl": {}, "mse": MSE})


def names(study: StudySettings) -> list[str]:
    return [point.name for point in DesignSpace(study).points(study)]


def test_one_factor_varies_each_axis_around_the_base(ask: Ask) -> None:
    assert names(ask()) == ["base", "k=1", "k=10", "lr=0.02"]


def test_crosses_are_grids_beside_it_without_doubles(ask: Ask) -> None:
    assert names(ask(crosses=[["k", "lr"]])) == ["base", "k=1", "k=10", "lr=0.02", "k=1, lr=0.02", "k=10, lr=0.02"]


def test_a_grid_has_every_combination(ask: Ask) -> None:
    assert len(names(ask(design="grid"))) == 6


def test_settings_are_those_of_the_command_line(ask: Ask) -> None:
    """A path may leave out init_args; another class starts from its own defaults; a null drops an entry."""
    overlay = {"model": {"transforms": {"truncate": None}, "loss": {"class_path": "MeanSquaredError"}}}
    space = DesignSpace(
        ask(axes={"k": Axis(path="model.transforms.truncate.k", values=[7]), "cut": Axis(options={"no": overlay})})
    )
    k, cut = space.point({"k": "7"}), space.point({"cut": "no"})
    assert k.settings["model"]["transforms"] == {"truncate": {"class_path": "TopPK", "init_args": {"k": 7}}}
    assert cut.settings["model"]["transforms"] == {}
    assert cut.settings["model"]["loss"] == {"class_path": "MeanSquaredError"}
    assert space.base == {"k": "", "cut": ""}, "no option leaves the base as it is"


def test_options_may_be_files(ask: Ask) -> None:
    Path("mse.yaml").write_text(yaml.safe_dump(MSE))
    space = DesignSpace(
        ask(axes={"loss": Axis(options={"kl": {}, "mse": ["mse.yaml", {"trainer": {"max_steps": 20}}]})})
    )
    settings = space.point({"loss": "mse"}).settings
    assert (settings["model"]["loss"]["class_path"], settings["trainer"]["max_steps"]) == ("MeanSquaredError", 20)
    assert space.base == {"loss": "kl"}


def test_a_named_base_is_applied(ask: Ask) -> None:
    space = DesignSpace(ask(axes={"lr": Axis(path="model.lr.peak", values=[0.5, 0.6], base=0.6)}))
    assert space.point({}).settings["model"]["lr"]["init_args"] == {"peak": 0.6}
    assert space.point({"lr": "0.6"}).name == "base"


LARGE = {"model": {"student": {"init_args": {"config": {"hidden_size": 32}}}, "lr": {"init_args": {"peak": 0.5}}}}


@pytest.mark.parametrize("order", [("size", "peak"), ("peak", "size")])
def test_what_is_varied_is_laid_over_the_base(ask: Ask, order: tuple[str, str]) -> None:
    """An option that sets more than its own axis keeps it beside the base, in whichever order the axes stand."""
    axes = {
        "size": Axis(options={"small": {}, "large": LARGE}),
        "peak": Axis(path="model.lr.peak", values=[0.01, 0.02]),
    }
    space = DesignSpace(ask(axes={name: axes[name] for name in order}))
    choices: list[dict] = [{}, {"size": "large"}, {"peak": "0.02"}, {"size": "large", "peak": "0.02"}]
    points = [space.point(choice).settings["model"] for choice in choices]
    assert [settings["lr"]["init_args"]["peak"] for settings in points] == [0.01, 0.5, 0.02, 0.02]
    assert [settings["student"]["init_args"]["config"]["hidden_size"] for settings in points] == [16, 32, 16, 32]


def test_folders_follow_settings(ask: Ask) -> None:
    one = DesignSpace(ask()).point({"k": "1"})
    other = DesignSpace(ask(fit=[*ask().fit, {"trainer": {"max_steps": 20}}])).point({"k": "1"})
    assert one.slug.startswith("k-1-")
    assert one.slug != other.slug


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"axes": {"k": Axis(path="model.transformers.truncate.k", values=[1])}}, "axes.k.path: model.transformers"),
        ({"axes": {"k": Axis(path="model.x")}}, "axes.k must have values, options, or low and high, got none"),
        ({"axes": {"k": Axis(values=[1])}}, "axes.k.path must be given with values"),
        ({"axes": {"k": Axis(path="trainer.max_steps", values=[1, 1])}}, "axes.k.values must differ"),
        ({"axes": {"k": Axis(path="trainer.max_steps", values=[1], base=2)}}, "axes.k.base must be one of 1, got 2"),
        ({"axes": {"k": Axis(path="trainer.max_steps", low=1, high=2)}}, "axes.k must have values for design one_fac"),
        ({"axes": {"k": Axis(options={"a": 3})}}, "must be YAML files or mappings of settings, got 3"),
        ({"crosses": [["k", "q"]]}, "crosses must name axes, which are k, lr, got q"),
        ({"crosses": [["k"]]}, "crosses must each have two different axes"),
        ({"design": "grid", "crosses": [["k", "lr"]]}, "crosses must be of design one_factor"),
        ({"seeds": [1, 1]}, "seeds must be different"),
        (
            {
                "axes": {
                    "a": Axis(path="model.lr.peak", values=[1]),
                    "b": Axis(path="model.lr.init_args.peak", values=[2]),
                }
            },
            "axes.b.path must be a setting that no other axis varies, got model.lr.init_args.peak, .* of axes.a",
        ),
        ({"design": "search", "n_trials": 0}, "n_trials must be set for design search"),
        ({"n_trials": 3}, "n_trials must be set for design search"),
        ({"design": "search"}, "n_trials must be set for design search"),
        ({"fit": []}, "fit must name the YAML files"),
    ],
)
def test_mistakes_are_named(ask: Ask, changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DesignSpace(ask(**changes))


def test_infinity_is_a_value_with_a_name() -> None:
    assert [option_name(value) for value in (float("inf"), 1.0, 0.5)] == ["inf", "1.0", "0.5"]
