"""How a study's figures are written, on the page and on the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from pd_lightning.study.compared import Comparison, Result
from pd_lightning.study.outline import EQUAL_FLOPS, LM, MINIMIZE, Study
from pd_lightning.study.statistics import CONFIDENCE, NOISE, ONE_SEED, Estimate

MINUS = "−"
_SHORT = {NOISE: "noise", ONE_SEED: "1 seed"}
CONTROL_TEXTS = {LM: "against LM only, same tokens", EQUAL_FLOPS: "against LM only, equal FLOPs"}


def places(means: Iterable[Estimate | None]) -> int:
    """Decimals for the metric, so that its mean has about five digits.

    Args:
        means: All that are shown.

    Returns:
        From 1 to 4.
    """
    largest = max((abs(mean.mean) for mean in means if mean is not None), default=0.0)
    return max(1, 5 - len(str(int(largest))))


def mean_text(mean: Estimate | None, decimals: int) -> str | None:
    """`4.1234 ± 0.0123`, or the value alone where one seed gives no interval."""
    if mean is None:
        return None
    half = "" if mean.half is None else f" ± {mean.half:.{decimals}f}"
    return f"{mean.mean:.{decimals}f}{half}".replace("-", MINUS)


def difference_text(found: Comparison | None, decimals: int, seeds: int, separator: str = "\n") -> str | None:
    """`−0.0123 ± 0.0045`, then what it says, and of how many seeds where some are missing."""
    if found is None:
        return None
    mean, half = found.difference.mean, found.difference.half
    interval = "" if half is None else f" ± {half:.{decimals}f}"
    fewer = f", {found.difference.n} of {seeds} seeds" if found.difference.n < seeds and half is not None else ""
    return f"{mean:+.{decimals}f}{interval}{separator}{found.verdict}{fewer}".replace("-", MINUS)


def short_text(found: Comparison | None, decimals: int) -> str | None:
    """`−0.0123 better`: the difference without its interval, and what it says in a word or two."""
    if found is None:
        return None
    said = _SHORT.get(found.verdict, found.verdict)
    return f"{found.difference.mean:+.{decimals}f} {said}".replace("-", MINUS)


def seeds_text(result: Result) -> str:
    """How many seeds there are, of how many."""
    there = len(result.values)
    return f"{there}" if there >= result.seeds else f"{there} of {result.seeds}"


def direction_text(study: Study) -> str:
    """Which way the metric is better."""
    return "lower is better" if study.direction == MINIMIZE else "higher is better"


def metric_text(study: Study) -> str:
    """The metric with its unit, where it is a loss."""
    return f"{study.metric} (nats)" if study.metric.endswith("loss") else study.metric


def chance_text(verdicts: Mapping[str, int]) -> str:
    """How many comparisons there are, and how many of them would come out by chance."""
    tested = sum(count for name, count in verdicts.items() if name != ONE_SEED)
    if not tested:
        return "No comparison has an interval: that needs two seeds of both sides."
    apart, chance = tested - verdicts.get(NOISE, 0), (1 - CONFIDENCE) * tested
    by_chance = (
        f"about {chance:.0f} of them would be so by chance."
        if chance >= 1
        else f"the chance that one of them is so would be {chance:.0%} at most."
    )
    return (
        f"{tested} comparisons have an interval; {apart} of them are better or worse. If nothing made any difference, "
        f"{by_chance}"
    )
