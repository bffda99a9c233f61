"""What a recording keeps of a teacher's logits, and in how many bits."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from pd_lightning.sampling import Sampling
from pd_lightning.selection import COLUMNS, Selection
from pd_lightning.store.codec import Values, codec_info, encode_draws, encode_targets
from pd_lightning.store.compact import KL_BUDGET
from pd_lightning.store.payload import Item
from pd_lightning.store.rounding import RoundingError


@dataclass(frozen=True)
class StoreFormat:
    """Which ids are kept, and how their probabilities are stored.

    Args:
        selection: Which ids are kept at each position.
        values: How log-probabilities are stored, or `counts` for how often each id was drawn.
        kl_budget: Largest mean KL divergence over a block's positions by `compact` values, in nats.
    """

    selection: Selection | Sampling
    values: Values | Literal["counts"]
    kl_budget: float = KL_BUDGET

    @property
    def codec(self) -> dict[str, Any]:
        """The manifest's entry."""
        return codec_info(self.values, self.kl_budget)

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the per-position columns."""
        return COLUMNS if isinstance(self.selection, Sampling) else ("log_tail", *COLUMNS)

    def encode(
        self,
        block: np.ndarray,
        counts: np.ndarray,
        ids: np.ndarray,
        logprobs: np.ndarray,
        columns: dict[str, np.ndarray],
        *,
        vocab_size: int,
        teacher_step: int | None = None,
    ) -> tuple[Item, dict[str, float]]:
        """Encode a block.

        Args:
            block: Token ids `[T+1]`.
            counts: Kept entries of each position `[T]`.
            ids: Kept ids, position after position `[S]`.
            logprobs: What `selection.select` gave of them `[S]`.
            columns: Per-position figures `[T]` by name.
            vocab_size: V; all ids are below.
            teacher_step: Step of the teacher, where it is in training.

        Returns:
            The item and its figures: sums over its positions, but for those whose name begins with `max_`.

        Raises:
            ValueError: If a figure is not a number.
        """
        error = RoundingError()
        if self.values == "counts":
            assert isinstance(self.selection, Sampling)
            draws = np.rint(np.exp(logprobs.astype(np.float64)) * self.selection.samples).astype(np.int64)
            item = encode_draws(block, counts, ids, draws, columns, vocab_size=vocab_size, teacher_step=teacher_step)
        else:
            item = encode_targets(
                *(block, counts, ids, logprobs, columns),
                values=self.values,
                vocab_size=vocab_size,
                kl_budget=self.kl_budget,
                teacher_step=teacher_step,
                error=error,
            )
        figures = {
            "tokens": float(len(counts)),
            "bytes": float(sum(array.nbytes for array in item.values())),
            "kept_ids": float(counts.sum()),
            "entropy": float(columns["entropy"].sum()),
        }
        if isinstance(self.selection, Selection):
            figures |= {"kept_mass": float(np.exp(logprobs, dtype=np.float64).sum()), "kl_error": error.kl}
            figures |= {"max_logprob_error": error.logprob}
        return item, figures


def store_format(
    selection: Selection | None, sampling: Sampling | None, values: Values | None, kl_budget: float | None
) -> StoreFormat:
    """Put the settings of a recording together; None leaves out a setting.

    Raises:
        ValueError: If they contradict each other, or one would have no effect.
    """
    if kl_budget is not None and (values != "compact" or kl_budget <= 0):
        raise ValueError(
            f"kl_budget must be above 0 and comes with values compact, got {kl_budget} with values {values}. Set "
            "model.values to compact, or leave out model.kl_budget."
        )
    budget = KL_BUDGET if kl_budget is None else kl_budget
    if sampling is None:
        return StoreFormat(selection or Selection(), values or "half", budget)
    if selection is not None:
        raise ValueError(
            "model.selection must be left out with model.sampling, got both. Keep model.selection for the most "
            "probable ids, or model.sampling for ids drawn at random."
        )
    if sampling.s == 1.0 and values is not None:
        raise ValueError(
            f"values must be left out where draws are counted, without loss, got {values}. Remove model.values, or set "
            "model.sampling.s to other than 1."
        )
    if values == "compact":
        raise ValueError(
            "values must be exact or half with model.sampling, got compact, which needs the tail of what is kept. Set "
            "model.values to half."
        )
    return StoreFormat(sampling, "counts" if sampling.s == 1.0 else values or "half", budget)


def combine(figures: list[dict[str, float]]) -> dict[str, float]:
    """Put the figures of several blocks or chunks together: sums, and the largest of those called `max_…`."""
    return {key: (max if key.startswith("max_") else sum)(part[key] for part in figures) for key in figures[0]}


def per_token(totals: dict[str, float]) -> dict[str, float]:
    """Give the manifest's statistics: sums by token, and the largest figures as they are."""
    largest = {key: value for key, value in totals.items() if key.startswith("max_")}
    sums = {key: value for key, value in totals.items() if key not in largest and key != "tokens"}
    return {f"{key}_per_token": value / totals["tokens"] for key, value in sums.items()} | largest
