"""Histograms for whatever loggers there are."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from lightning.pytorch.loggers import Logger, WandbLogger
from torch import Tensor

_QUANTILES = {"q10": 0.1, "q50": 0.5, "q90": 0.9}


def log_histograms(loggers: Iterable[Logger], samples: Mapping[str, Tensor], step: int) -> None:
    """Log the distribution of values: histograms in TensorBoard and W&B, and three quantiles as scalars elsewhere.

    Args:
        loggers: Those of the Trainer, on its first rank.
        samples: Finite values by name, float `[m]` each, on the CPU.
        step: That the loggers count.
    """
    values = {name: some.double().numpy() for name, some in samples.items()}
    for logger in loggers:
        experiment: Any = logger.experiment if hasattr(logger, "experiment") else None
        if isinstance(logger, WandbLogger):
            import wandb

            logger.log_metrics({name: wandb.Histogram(some) for name, some in values.items()}, step)
        elif hasattr(experiment, "add_histogram"):
            for name, some in values.items():
                experiment.add_histogram(name, some, step)
        else:
            logger.log_metrics(_quantiles(values), step)


def _quantiles(values: Mapping[str, np.ndarray]) -> dict[str, float]:
    return {
        f"{name}/{short}": float(np.quantile(some, share))
        for name, some in values.items()
        for short, share in _QUANTILES.items()
    }
