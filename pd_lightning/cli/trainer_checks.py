"""Settings of the Trainer that Lightning takes without a word, and that end in a traceback or in no training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

_LEAST = {
    "accumulate_grad_batches": 1,
    "check_val_every_n_epoch": 1,
    "devices": 1,
    "gradient_clip_val": 0,
    "log_every_n_steps": 0,
    "max_epochs": -1,
    "num_nodes": 1,
    "num_sanity_val_steps": -1,
}
_SECTIONS = ("data", "model", "trainer")


def check_sections(config: dict[str, Any]) -> None:
    """Refuse a section of settings that is none.

    Args:
        config: The merged YAML.

    Raises:
        ValueError: It is a list, a number, or text where no class can stand.
    """
    for name in _SECTIONS:
        section = config.get(name)
        named = name == "data" and isinstance(section, str)  # a class by its name alone
        if not (section is None or isinstance(section, dict) or named):
            raise ValueError(f"{name} must hold settings (name: value), got {section!r}. Correct {name} in the YAML.")


def check_settings(given: Any, command: str, *, needs_length: bool) -> None:
    """Refuse settings of the Trainer that can't be meant.

    Args:
        given: Its settings.
        command: The command's name, for messages.
        needs_length: Whether the command trains, or plans a training.

    Raises:
        ValueError: A number is too small, the training has no end or no step, its folder is a file, or there is no GPU.
    """
    for name, least in _LEAST.items():
        value = given[name]
        if type(value) in (int, float) and value < least and not (name == "devices" and value == -1):  # all of them
            raise ValueError(f"trainer.{name} must be at least {least}, got {value}. Raise trainer.{name}.")
    if command not in ("plot_schedules", "plan"):  # which can be made where there is none
        _check_accelerator(given["accelerator"])
    if given["val_check_interval"] == 0:
        raise ValueError(
            "trainer.val_check_interval must be above 0, got 0. Set trainer.limit_val_batches to 0 for no validation."
        )
    root = given["default_root_dir"]
    if root and Path(str(root)).is_file():
        raise ValueError(
            f"trainer.default_root_dir must be the folder of a run, got the file {root}. Choose another for {command}."
        )
    if needs_length:
        _check_length(given)
    if given["max_steps"] == 0 or given["max_steps"] < -1:
        raise ValueError(f"trainer.max_steps must be at least 1, got {given['max_steps']}. Raise trainer.max_steps.")


def _check_accelerator(name: Any) -> None:
    import torch

    if name in ("gpu", "cuda") and not torch.cuda.is_available() and not torch.backends.mps.is_available():
        raise ValueError(
            f"trainer.accelerator must be there, got {name} on a machine whose torch finds no GPU. Set "
            "trainer.accelerator to cpu or auto, or install torch for the GPU."
        )


def _check_length(given: Any) -> None:
    """Refuse a training of Lightning's 1,000 epochs by default, or of none."""
    limits = [given["max_epochs"], given["max_time"], given["fast_dev_run"] or None]
    if given["max_steps"] == -1 and all(limit is None for limit in limits):
        raise ValueError(
            "The length of a training must be set, got neither trainer.max_steps nor trainer.max_epochs. Set "
            "trainer.max_steps."
        )
    if given["max_epochs"] == 0:
        raise ValueError("trainer.max_epochs must be at least 1, got 0. Raise trainer.max_epochs.")
