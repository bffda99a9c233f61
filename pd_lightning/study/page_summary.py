"""What comes first on the page of a study: how far it is, what came out, and axis by axis what helped."""

from __future__ import annotations

from pd_lightning.report import Section, Table
from pd_lightning.study.compared import AGAINST_BASE, Compared
from pd_lightning.study.outline import EQUAL_FLOPS, LM, Axis, Point
from pd_lightning.study.results import COMPLETE, FAILED, RUNNING, WAITING
from pd_lightning.study.statistics import BETTER, NOISE, ONE_SEED, WORSE
from pd_lightning.study.texts import (
    CONTROL_TEXTS,
    chance_text,
    difference_text,
    direction_text,
    mean_text,
    metric_text,
    seeds_text,
)

_VERDICTS = {BETTER: "helped", WORSE: "hurt", NOISE: "within noise"}
_CONTROLS = {LM: "Against LM only, same schedule and tokens", EQUAL_FLOPS: "Against LM only at equal FLOPs"}


def introduction(compared: Compared, decimals: int) -> str:
    """What was run, and what came out for the base and the best point.

    Args:
        compared: The study's results.
        decimals: Those of the metric.

    Returns:
        Paragraphs.
    """
    study = compared.study
    seeds = "1 seed" if len(study.seeds) == 1 else f"{len(study.seeds)} seeds"
    asked = f"{len(study.points)} points and {len(study.controls)} controls, {seeds} each"
    metric = f"The metric is {metric_text(study)}; {direction_text(study)}."
    paragraphs = [f"{asked}. {metric} {_progress(compared)}"]
    ranked = compared.ranked(study.points)
    if study.base is not None and compared.result(study.base).mean is not None:
        paragraphs.append(_headline(compared, study.base, "Base", decimals))
    if ranked:
        best = "The base is the best."
        if ranked[0] is not study.base:
            best = _headline(compared, ranked[0], f"Best: {ranked[0].name}", decimals)
        paragraphs.append(f"{best} {_runner_up(compared, ranked, decimals)}".rstrip())
    gains = [
        (found, point) for point in study.points if (found := compared.against(point, LM)) and found.verdict == BETTER
    ]
    if gains:
        largest, point = max(gains, key=lambda each: abs(each[0].difference.mean))
        gain = difference_text(largest, decimals, len(study.seeds), ", ")
        paragraphs.append(f"The largest gain over LM only with the same schedule and tokens: {point.name}, {gain}.")
    return "\n\n".join([*paragraphs, chance_text(compared.verdicts())])


def _progress(compared: Compared) -> str:
    states = compared.states()
    others = [f"{states[state]} {state}" for state in (FAILED, RUNNING, WAITING) if states[state]]
    total = f"{states[COMPLETE]} of {sum(states.values())} runs are complete"
    return ", ".join([total, *others]) + "."


def _headline(compared: Compared, point: Point, name: str, decimals: int) -> str:
    result, seeds = compared.result(point), len(compared.study.seeds)
    texts = [f"{name}, {mean_text(result.mean, decimals)}."]
    if not result.whole:
        texts.append(f"Seeds: {seeds_text(result)}.")
    for kind, against in _CONTROLS.items():
        if (found := compared.against(point, kind)) is not None:
            texts.append(f"{against}: {difference_text(found, decimals, seeds, ', ')}.")
    return " ".join(texts)


def _runner_up(compared: Compared, ranked: list[Point], decimals: int) -> str:
    """Whether the best can be told from the second, and from how many others it can't."""
    best, *others = [compared.result(point) for point in ranked]
    found = [compared.between(best, other) for other in others]
    if not found:
        return ""
    second = difference_text(found[0], decimals, best.seeds, ", ")
    alike = sum(each is not None and each.verdict == NOISE for each in found)
    text = f"Against the runner-up, {others[0].name}: {second}."
    return f"{text} {alike} of {len(found)} others cannot be told from it." if alike else text


def summary_section(compared: Compared, decimals: int) -> Section:
    """Axis by axis, what helped, what hurt, and what is noise; then the best of each.

    Args:
        compared: The study's results.
        decimals: Those of the metric.

    Returns:
        Two tables with a row for each axis of two options and more.
    """
    axes = [axis for axis in compared.study.axes if len(compared.along(axis)) > 1]
    effects = Table(
        "",
        ("axis", *_VERDICTS.values(), "no verdict"),
        [[axis.title, *_effects(compared, axis)] for axis in axes],
        "Options by their difference to the base.",
        names=True,
    )
    bests = Table(
        "The best option of each axis",
        ("axis", "best", "mean ± 95%", "against the second", *CONTROL_TEXTS.values()),
        [[axis.title, *_best(compared, axis, decimals)] for axis in axes],
    )
    return Section("What helped, what hurt, what is noise", [effects, bests])


def _effects(compared: Compared, axis: Axis) -> list[str | None]:
    """The axis's options by what their difference to the base says."""
    names: dict[str, list[str]] = {verdict: [] for verdict in (*_VERDICTS, ONE_SEED)}
    for option, point in compared.along(axis):
        if point is not compared.study.base:
            found = compared.against(point, AGAINST_BASE)
            names[ONE_SEED if found is None else found.verdict].append(option.name)
    return [" · ".join(found) or None for found in names.values()]


def _best(compared: Compared, axis: Axis, decimals: int) -> list[str | None]:
    names = {point.name: option.name for option, point in compared.along(axis)}
    ranked = compared.ranked([point for _, point in compared.along(axis)])
    if not ranked:
        return [None] * (3 + len(CONTROL_TEXTS))
    best, result = ranked[0], compared.result(ranked[0])
    second = compared.between(result, compared.result(ranked[1])) if len(ranked) > 1 else None
    found = [second, *(compared.against(best, kind) for kind in CONTROL_TEXTS)]
    differences = [difference_text(each, decimals, result.seeds) for each in found]
    return [names[best.name], mean_text(result.mean, decimals), *differences]
