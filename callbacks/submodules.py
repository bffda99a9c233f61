"""Submodules of other people's modules, by the names that users give."""

import lightning.pytorch as pl
from torch import nn

_LISTED = 12


def submodule(pl_module: pl.LightningModule, name: str, setting: str) -> nn.Module:
    """Find a submodule.

    Args:
        pl_module: The module in training.
        name: Dotted name, `model.lm_head` say.
        setting: The setting that names it, for the message.

    Raises:
        ValueError: If there is none, listing what there is: those that give the most figures a position first.
    """
    try:
        return pl_module.get_submodule(name)
    except AttributeError:
        names = [found for found, _ in sorted(pl_module.named_modules(), key=lambda item: -_width(item[1])) if found]
        listed = f"{', '.join(names[:_LISTED])}{', …' if len(names) > _LISTED else ''}"
        raise ValueError(
            f"{setting} must name a submodule of {type(pl_module).__name__}, got {name!r}. There are {listed}."
        ) from None


def _width(module: nn.Module) -> int:
    width = getattr(module, "out_features", 0)
    return width if isinstance(width, int) else 0
