"""law.json: a fitted law as a file."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pd_lightning.scaling.analysis import Analysis, completed
from pd_lightning.scaling.fitting import Fit, interval
from pd_lightning.scaling.identifiability import at_bounds
from pd_lightning.scaling.laws import LAWS, Array, Sizes
from pd_lightning.scaling.published import SOURCE, SUPERVISED
from pd_lightning.store.durable import write_durably
from pd_lightning.store.json_files import read_json
from pd_lightning.store.manifest import software_versions


@dataclass(frozen=True)
class SavedLaw:
    """A law that was fitted before.

    Args:
        fitted: The law with its coordinates.
        replicates: Coordinates `[S, P]` of the bootstrap.
        points: How many points the replicates are drawn from.
        ranges: Smallest and largest of the runs' params, tokens and, with a teacher, teacher_loss.
        supervised: The law for students without a teacher.
        role: `distilled` or `supervised`: what it was fitted to.
        open: The coefficients that its runs do not fix.
    """

    fitted: Fit
    replicates: Array
    points: int
    ranges: dict[str, tuple[float, float]]
    supervised: Fit | None
    role: str
    open: list[str]

    def predict(self, sizes: Sizes) -> tuple[Array, tuple[Array, Array] | None]:
        """Predict losses `[R]` in nats per token, and the ends `[R]` of their 95% intervals where there are any."""
        sizes = completed(sizes, self.supervised if self.fitted.law.needs_supervised else None)
        if not len(self.replicates):
            return self.fitted.predict(sizes), None
        replicates = self.fitted.predict(sizes, self.replicates)
        return self.fitted.predict(sizes), interval(replicates, self.points, len(self.fitted.z))


def published_supervised() -> Fit:
    """Apple's law for students without a teacher, with its published coefficients."""
    law = LAWS["generalized"]
    return Fit(law, law.coordinates(SUPERVISED), (1.0, 1.0), math.nan, math.nan, math.nan)


def ranges(sizes: Sizes) -> dict[str, tuple[float, float]]:
    """Smallest and largest of what a law predicts from."""
    columns = {"params": sizes.params, "tokens": sizes.tokens, "teacher_loss": sizes.teacher_loss}
    return {name: (float(c.min()), float(c.max())) for name, c in columns.items() if c is not None}


def save_law(path: Path, found: Analysis, role: str, metric: str, results: list[str]) -> None:
    """Write law.json.

    Args:
        path: The file.
        found: All about the law.
        role: What it was fitted to.
        metric: What its loss is.
        results: Where the runs came from.
    """
    content = {
        "law": found.fitted.law.name,
        "formula": found.fitted.law.formula,
        "role": role,
        "metric": metric,
        "coefficients": _coefficients(found),
        "trade_offs": [asdict(one) | {"text": str(one)} for one in found.trade_offs],
        "at_bounds": at_bounds(found.fitted),
        "open_ended": found.open_ended,
        "fit": {
            "huber_delta": found.fitted.delta,
            "objective": found.fitted.objective,
            "starts_agreeing": found.fitted.agreeing,
            "noise": found.noise,
        },
        "data": {"results": results, "runs": len(found.runs), "points": found.points, **ranges(found.runs.sizes)},
        "held_out": {
            "largest": [asdict(point) | {"error": point.error} for point in found.largest],
            "folds": {"count": found.folds, **fold_summary(found)} if found.folds else None,
        },
        "units": found.fitted.units,
        "coordinates": found.fitted.z.tolist(),
        "bootstrap": {"seed": found.seed, "coordinates": found.replicates.tolist()},
        "supervised": _supervised(found.supervised),
        "software": software_versions("scipy", "numpy"),
    }
    write_durably(path, json.dumps(content, indent=1).encode())


def fold_summary(found: Analysis) -> dict[str, float]:
    """Mean and largest relative error over the folds, by size."""
    errors = np.abs(found.fold_errors)
    return {"mean_error": float(errors.mean()), "largest_error": float(errors.max())}


def load_law(path: str | Path) -> SavedLaw:
    """Read law.json.

    Args:
        path: The file.

    Returns:
        The law.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no law.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"a law file must be a law.json, got {path}, where there is none. Write one with "
            "`pd-lightning scaling-law fit`."
        )
    content = read_json(path)
    try:
        names = [name for name in ("params", "tokens", "teacher_loss") if name in content["data"]]
        return SavedLaw(
            _fit(content),
            np.array(content["bootstrap"]["coordinates"]),
            content["data"]["points"],
            {name: tuple(content["data"][name]) for name in names},
            _fit(content["supervised"]) if content["supervised"] else None,
            content["role"],
            [name for name, one in content["coefficients"].items() if not one["identified"]],
        )
    except (KeyError, TypeError) as error:
        raise ValueError(
            f"{path} must be a law.json of `pd-lightning scaling-law fit`, got a file without {error}. Fit it again."
        ) from error


def _fit(content: dict[str, Any]) -> Fit:
    law, (params, tokens) = LAWS[content["law"]], content["units"]
    return Fit(law, np.array(content["coordinates"]), (params, tokens), math.nan, math.nan, math.nan)


def _coefficients(found: Analysis) -> dict[str, dict[str, Any]]:
    ends, open_ones = found.intervals(), found.unclaimed
    return {
        name: {"value": value, "low": low, "high": high, "identified": name not in open_ones}
        for name, value in found.fitted.coefficients.items()
        for low, high in [ends.get(name, (None, None))]
    }


def _supervised(fitted: Fit | None) -> dict[str, Any] | None:
    if fitted is None:
        return None
    published = fitted.coefficients == published_supervised().coefficients
    return {
        "law": fitted.law.name,
        "coefficients": fitted.coefficients,
        "units": fitted.units,
        "coordinates": fitted.z.tolist(),
        "source": SOURCE if published else "the supervised runs of the same results",
    }
